//! Measures the opening of a sale with a draw among very many waiting users. Some of these users watch their position.

use std::time::{Duration, Instant, SystemTime};

use boxoffice::{
    clock::Clock,
    rpc::proto::{self, QueueState},
};
use hdrhistogram::Histogram;
use serde::Serialize;
use testkit::{Failure, catalogue};
use tokio::{sync::watch, task::JoinSet};
use tonic::transport::Channel;

use super::{
    ground::Ground,
    watchers::{self, Positions},
};
use crate::{
    calls::{Calls, Measure},
    deployment::Deployment,
    load::{self, Percentiles},
    world::{self, User, World},
};

const CONCERT: &str = "DRAW";
/// Number of seats. The first promotions admit as many users.
const SEATS: u32 = 10_000;
/// Default flags, except that admissions last longer than the measurement.
const FLAGS: [&str; 2] = ["--admission-ttl", "2h"];
/// Time from the last change of the sale to its opening. The server is idle before the opening.
const UNTIL_OPENING: Duration = Duration::from_secs(3);
/// Time after the last admission, after which no watcher expects a message.
const UNTIL_QUIET: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The cost of the opening of a sale with a draw.
#[derive(Debug, Serialize)]
pub struct Drawn {
    /// The number of participants.
    pub participants: u32,
    /// The number of participants that watch their position.
    pub streams: u32,
    /// The time from the opening to the first admissions, in milliseconds.
    pub first_ms: f64,
    /// The time from the opening until as many users are admitted as the sale has seats, in milliseconds.
    pub all_ms: f64,
    /// The longest call of one caller during the opening, in milliseconds. The caller reads the statistics of the sale
    /// every 10 ms.
    pub longest_call_ms: f64,
    /// The time from the opening until a watcher has a position or is admitted.
    pub told: Percentiles,
    /// The time from the last admission in the log of the server until the last message of a watcher that still waits.
    pub lag: Percentiles,
    /// The number of streams that ended, or whose last message has another position than GetPosition returns.
    pub errors: usize,
    /// The resident memory of the server before the opening, in bytes.
    pub rss_before_bytes: u64,
    /// The largest resident memory of the server during the opening, in bytes.
    pub rss_peak_bytes: u64,
    /// The resident memory of the server after the opening, in bytes.
    pub rss_after_bytes: u64,
}

/// The messages of a watcher.
struct Heard {
    /// The index of the user.
    index: usize,
    /// The time of the first message with a position or the state ACTIVE. `None` if there is no such message.
    told: Option<SystemTime>,
    /// The last message and its time. `None` if there is no message or if the stream ended.
    last: Option<(proto::QueuePosition, SystemTime)>,
}

/// Opens a sale with a draw, and waits until as many users are admitted as the sale has seats.
pub async fn run(ground: &Ground<'_>) -> Result<Drawn, Failure> {
    let (participants, streams) = (ground.options.draw, ground.options.draw_watchers);
    ground.progress.set_message(format!("{participants} users wait for a draw"));
    let mut deployment = ground.deploy(&FLAGS).await?;
    set_up(&ground.world(&deployment, 0).await?).await?;
    deployment.stop();
    let history = deployment.history().await?;
    history.users(participants - streams).await?;
    history.waiting(CONCERT, participants - streams).await?;
    history.settle().await?;
    deployment.start_again().await?;
    let world = ground.world(&deployment, streams as usize).await?;
    let calls = Calls::new(CONCERT, world.users.clone(), false);
    ground.prepare(&world, world.users.len(), "OpenWallet", &world.open_wallet()).await?;
    ground.prepare(&world, world.users.len(), "IssueToken", &calls.issue_token(&Measure::default())).await?;

    ground.progress.set_message("the draw is held");
    let (stop, stopped) = watch::channel(false);
    let mut listeners = JoinSet::new();
    for (index, (stream, _)) in watchers::open(&world, CONCERT, 0).await?.into_iter().enumerate() {
        listeners.spawn(listen(stream, index, stopped.clone()));
    }
    let open_time = Clock::system().now() + UNTIL_OPENING.as_micros() as i64;
    let opening = Instant::now() + UNTIL_OPENING;
    let change = proto::UpdateSaleRequest {
        concert_code: CONCERT.to_owned(),
        open_time: Some(proto::timestamp(open_time)),
        ..Default::default()
    };
    catalogue::update_sale(&world.admin, change).await.map_err(world::told("UpdateSale"))?;
    tokio::time::sleep_until(opening.into()).await;
    let rss_before_bytes = deployment.resident_bytes()?;
    let drawn = Drawn {
        participants,
        streams,
        first_ms: f64::NAN,
        all_ms: f64::NAN,
        longest_call_ms: 0.0,
        told: Percentiles::default(),
        lag: Percentiles::default(),
        errors: 0,
        rss_before_bytes,
        rss_peak_bytes: rss_before_bytes,
        rss_after_bytes: 0,
    };
    let drawn = follow(&deployment, &world, opening, drawn).await?;
    tokio::time::sleep(UNTIL_QUIET).await;
    stop.send_replace(true);
    let heard = listeners.join_all().await;
    judge(&deployment, &world, open_time, &heard, drawn).await
}

/// Creates a concert with a draw in the far future.
async fn set_up(world: &World) -> Result<(), Failure> {
    let far = Some(proto::timestamp(Clock::system().now() + 86_400_000_000));
    let set = |concert: &mut proto::CreateConcertRequest| {
        concert.set_admission_order(proto::AdmissionOrder::Draw);
        concert.open_time = far;
    };
    catalogue::create_concert(&world.admin, CONCERT, set).await.map_err(world::told("CreateConcert"))?;
    world.create_venue("stadium", SEATS).await?;
    world.add_performance(CONCERT, "2034-06-18", "stadium").await
}

/// Reads the messages of a stream until `stopped` is true or the stream ends.
#[allow(
    clippy::disallowed_methods,
    reason = "compared with the server's log, which uses the clock of the same machine"
)]
async fn listen(mut stream: Positions, index: usize, mut stopped: watch::Receiver<bool>) -> Heard {
    let mut heard = Heard { index, told: None, last: None };
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            _ = stopped.wait_for(|stopped| *stopped) => return heard,
        };
        let Ok(Some(proto::WatchPositionResponse { position: Some(position) })) = message else {
            return Heard { last: None, ..heard };
        };
        let now = SystemTime::now();
        if position.position.is_some() || position.state() == QueueState::Active {
            heard.told.get_or_insert(now);
        }
        heard.last = Some((position, now));
    }
}

/// Adds the figures of the watchers to the report.
async fn judge(
    deployment: &Deployment,
    world: &World,
    open_time: i64,
    heard: &[Heard],
    drawn: Drawn,
) -> Result<Drawn, Failure> {
    let opening = SystemTime::UNIX_EPOCH + Duration::from_micros(open_time.unsigned_abs());
    let admitted = deployment.admissions().into_iter().max().ok_or("the server's log has no promotion")?;
    let record = |histogram: &mut Histogram<u64>, at: SystemTime, since: SystemTime| {
        histogram.saturating_record(at.duration_since(since).unwrap_or_default().as_micros() as u64);
    };
    let mut told = Histogram::<u64>::new_with_bounds(1, 120_000_000, 3)?;
    let (mut lag, mut errors) = (told.clone(), 0);
    for heard in heard {
        let (Some(first), Some((last, at))) = (heard.told, &heard.last) else {
            errors += 1;
            continue;
        };
        record(&mut told, first, opening);
        if last.state() == QueueState::Waiting {
            record(&mut lag, *at, admitted);
            let channel = world.channels[heard.index % world.channels.len()].clone();
            errors += usize::from(position(channel, &world.users[heard.index]).await? != last.position);
        }
    }
    Ok(Drawn { told: load::percentiles(&told), lag: load::percentiles(&lag), errors, ..drawn })
}

async fn position(channel: Channel, user: &User) -> Result<Option<i64>, Failure> {
    let request = proto::GetPositionRequest { concert_code: CONCERT.to_owned(), user_id: user.id.clone() };
    let answer = world::queue(channel).get_position(user.request(request)).await.map_err(world::told("GetPosition"))?;
    Ok(answer.into_inner().position.and_then(|position| position.position))
}

/// Reads the statistics of the sale until as many users are admitted as the sale has seats. Fails after [`LIMIT`].
async fn follow(deployment: &Deployment, world: &World, opening: Instant, mut drawn: Drawn) -> Result<Drawn, Failure> {
    let ms = |since: Instant| since.elapsed().as_secs_f64() * 1_000.0;
    while opening.elapsed() < LIMIT {
        let called = Instant::now();
        let active_count = world.stats(CONCERT).await?.active_count;
        drawn.longest_call_ms = drawn.longest_call_ms.max(ms(called));
        drawn.rss_peak_bytes = drawn.rss_peak_bytes.max(deployment.resident_bytes()?);
        if active_count > 0 && drawn.first_ms.is_nan() {
            drawn.first_ms = ms(opening);
        }
        if active_count == i64::from(SEATS.min(drawn.participants)) {
            return Ok(Drawn { all_ms: ms(opening), rss_after_bytes: deployment.resident_bytes()?, ..drawn });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Err(format!("fewer users are admitted than the sale has seats {LIMIT:?} after the opening").into())
}
