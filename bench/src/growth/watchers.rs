//! Measures tens of thousands of waiting users that watch their position: the memory per stream, and the delay of the
//! messages after a promotion.

use std::time::{Duration, Instant, SystemTime};

use boxoffice::rpc::proto;
use futures::{StreamExt, stream};
use hdrhistogram::Histogram;
use serde::Serialize;
use testkit::Failure;
use tokio::{sync::watch, task::JoinSet};
use tonic::{Streaming, transport::Channel};

use super::ground::Ground;
use crate::{
    calls::{Calls, Measure},
    deployment::Deployment,
    load::{self, Percentiles},
    world::{self, User, World},
};

const CONCERT: &str = "WATCHED";
/// Number of users that are admitted while the other users watch.
const ADMITTED: u32 = 1_000;
/// Maximum number of streams that are being opened at the same time.
const OPENING: usize = 256;
const LIMIT: Duration = Duration::from_secs(60);

/// The cost of waiting users that watch their position.
#[derive(Debug, Serialize)]
pub struct Watchers {
    /// The number of open streams.
    pub streams: usize,
    /// The growth of the server's resident memory per opened stream, in bytes.
    pub bytes_per_stream: f64,
    /// The number of streams that were opened per second.
    pub opened_per_second: f64,
    /// The time from the promotion in the log of the server until the message with the new position arrived.
    pub lag: Percentiles,
    /// The number of streams on which the message with the new position did not arrive.
    pub errors: usize,
}

/// Opens the streams, then opens the sale, and waits until all streams report the promotion.
pub async fn run(ground: &Ground<'_>, deployment: &Deployment) -> Result<Watchers, Failure> {
    let streams = ground.options.watchers as usize;
    let world = ground.world(deployment, ADMITTED as usize + streams).await?;
    world.create_venue("watched", ADMITTED).await?;
    world.create_concert(CONCERT).await?;
    world.add_performance(CONCERT, "2034-06-18", "watched").await?;
    let calls = Calls::new(CONCERT, world.users.clone(), false);
    ground.prepare(&world, world.users.len(), "OpenWallet", &world.open_wallet()).await?;
    // The users to admit take their tokens first, so that the watchers are behind them.
    let issue = calls.issue_token(&Measure::default());
    ground.prepare(&world, ADMITTED as usize, "IssueToken", &issue).await?;
    ground.prepare(&world, world.users.len(), "IssueToken", &issue).await?;

    ground.progress.set_message(format!("{streams} open WatchPosition"));
    let before = deployment.resident_bytes()?;
    let started = Instant::now();
    let open = open(&world, CONCERT, ADMITTED as usize).await?;
    let opened_per_second = streams as f64 / started.elapsed().as_secs_f64();
    // During the pause, the server frees the buffers that it needed only to open the streams.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let bytes_per_stream = deployment.resident_bytes()?.saturating_sub(before) as f64 / streams as f64;

    ground.progress.set_message("a promotion that all watchers see");
    let (stop, stopped) = watch::channel(false);
    let mut listeners = JoinSet::new();
    for (stream, first) in open {
        let position = first.position.ok_or("the token of a watcher does not wait")?;
        listeners.spawn(listen(stream, position, stopped.clone()));
    }
    world.open_sale(CONCERT).await?;
    tokio::spawn(async move {
        tokio::time::sleep(LIMIT).await;
        stop.send_replace(true);
    });
    let heard = listeners.join_all().await;
    let promoted = deployment.admissions().into_iter().max().ok_or("the server's log has no promotion")?;
    let mut lags = Histogram::<u64>::new_with_bounds(1, 120_000_000, 3)?;
    for at in heard.iter().flatten() {
        lags.saturating_record(at.duration_since(promoted).unwrap_or_default().as_micros() as u64);
    }
    let errors = heard.iter().filter(|at| at.is_none()).count();
    Ok(Watchers { streams, bytes_per_stream, opened_per_second, lag: load::percentiles(&lags), errors })
}

/// An open WatchPosition stream.
pub type Positions = Streaming<proto::WatchPositionResponse>;

/// Opens a stream for each user after the first `skip` users. Returns each stream with its first message. The streams
/// have the order of the users.
pub async fn open(
    world: &World,
    concert: &str,
    skip: usize,
) -> Result<Vec<(Positions, proto::QueuePosition)>, Failure> {
    let open = stream::iter(skip..world.users.len()).map(|index| {
        let channel = world.channels[index % world.channels.len()].clone();
        open_one(channel, concert, &world.users[index])
    });
    let opened: Vec<Result<_, Failure>> = open.buffered(OPENING).collect().await;
    opened.into_iter().collect()
}

async fn open_one(channel: Channel, concert: &str, user: &User) -> Result<(Positions, proto::QueuePosition), Failure> {
    let request = proto::WatchPositionRequest { concert_code: concert.to_owned(), user_id: user.id.clone() };
    let opened = world::queue(channel).watch_position(user.request(request)).await;
    let mut stream = opened.map_err(world::told("WatchPosition"))?.into_inner();
    let first = stream.message().await.map_err(world::told("WatchPosition"))?;
    let first = first.and_then(|message| message.position).ok_or("the first message of a stream has no position")?;
    Ok((stream, first))
}

/// Waits for the message with the position after the promotion. This position is lower by [`ADMITTED`]. Returns the
/// time when the message arrives; `None` if the message does not arrive.
#[allow(
    clippy::disallowed_methods,
    reason = "compared with the server's log, which uses the clock of the same machine"
)]
async fn listen(mut stream: Positions, position: i64, mut stopped: watch::Receiver<bool>) -> Option<SystemTime> {
    loop {
        let message = tokio::select! {
            message = stream.message() => message.ok()??,
            _ = stopped.wait_for(|stopped| *stopped) => return None,
        };
        let now = message.position?;
        if now.position == Some((position - i64::from(ADMITTED)).max(1)) {
            return Some(SystemTime::now());
        }
    }
}
