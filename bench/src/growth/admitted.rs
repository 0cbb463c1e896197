//! Measures tens of thousands of admitted users that watch their position: first while other users take tokens, then
//! while no user makes a call.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use boxoffice::rpc::proto::{self, QueueState};
use futures::{StreamExt, stream};
use serde::Serialize;
use testkit::Failure;
use tokio::task::JoinSet;
use tonic::Streaming;

use super::ground::Ground;
use crate::{
    calls::{Calls, Measure},
    deployment::Deployment,
    load::{self, Percentiles, Supply},
    world::{self, User, World},
};

const CONCERT: &str = "ADMITTED";
/// Maximum number of streams that are being opened at the same time.
const OPENING: usize = 256;
const LIMIT: Duration = Duration::from_secs(120);
/// Time for which the CPU use of the idle server is measured.
const QUIET: Duration = Duration::from_secs(10);

/// The cost of admitted users that watch their position.
#[derive(Debug, Serialize)]
pub struct Admitted {
    /// The number of open streams.
    pub streams: usize,
    /// The number of other users that called IssueToken while the streams were open.
    pub joined: usize,
    /// The number of streams that ended during the measurement, by the reason of the error. No stream should end.
    pub ended: BTreeMap<String, u64>,
    /// The number of wrong, failed and missing answers to the IssueToken calls of these users, by reason.
    pub refused: BTreeMap<String, u64>,
    /// The latencies of the correct answers to these IssueToken calls.
    pub issue: Percentiles,
    /// The growth of the server's resident memory per opened stream, in bytes.
    pub bytes_per_stream: f64,
    /// The CPU use of the server with open streams and without calls, in cores.
    pub quiet_cpu: f64,
}

/// The number of ended streams, by the reason of the error.
type Ended = Arc<Mutex<BTreeMap<String, u64>>>;

/// Opens the streams, lets half as many other users take tokens, and measures the idle server.
pub async fn run(ground: &Ground<'_>, deployment: &Deployment) -> Result<Admitted, Failure> {
    let streams = ground.options.admitted as usize;
    let joined = streams / 2;
    let world = ground.world(deployment, streams + joined).await?;
    world.create_venue("admitted", 2 * (streams + joined) as u32).await?;
    world.create_concert(CONCERT).await?;
    world.add_performance(CONCERT, "2034-06-18", "admitted").await?;
    world.open_sale(CONCERT).await?;
    ground.prepare(&world, world.users.len(), "OpenWallet", &world.open_wallet()).await?;
    let calls = Calls::new(CONCERT, world.users.clone(), false);
    let issue = calls.issue_token(&Measure::default());
    ground.prepare(&world, streams, "IssueToken", &issue).await?;
    world.wait_until_admitted(CONCERT, LIMIT).await?;

    ground.progress.set_message(format!("{streams} admitted users watch"));
    let (before, ended) = (deployment.resident_bytes()?, Ended::default());
    let listeners = open(&world, streams, &ended).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let bytes_per_stream = deployment.resident_bytes()?.saturating_sub(before) as f64 / streams as f64;

    ground.progress.set_message(format!("{joined} users join"));
    let supply = Supply::Once(streams..streams + joined);
    let round = load::closed_loop(&world.channels, ground.common.in_flight, &supply, &issue).await?;
    world.wait_until_admitted(CONCERT, LIMIT).await?;

    ground.progress.set_message("nothing happens");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (started, cpu) = (Instant::now(), deployment.cpu_seconds()?);
    tokio::time::sleep(QUIET).await;
    let quiet_cpu = (deployment.cpu_seconds()? - cpu) / started.elapsed().as_secs_f64();
    let ended = std::mem::take(&mut *ended.lock().unwrap_or_else(|e| e.into_inner()));
    drop(listeners);
    let (issue, refused) = (round.percentiles(), round.misses);
    Ok(Admitted { streams, joined, ended, refused, issue, bytes_per_stream, quiet_cpu })
}

/// Opens a stream for each of the first `count` users. One task per stream reads it to its end.
async fn open(world: &World, count: usize, ended: &Ended) -> Result<JoinSet<()>, Failure> {
    let open = stream::iter(0..count).map(|index| {
        let channel = world.channels[index % world.channels.len()].clone();
        open_one(channel, &world.users[index])
    });
    let opened: Vec<Result<_, Failure>> = open.buffer_unordered(OPENING).collect().await;
    let mut listeners = JoinSet::new();
    for stream in opened {
        listeners.spawn(listen(stream?, ended.clone()));
    }
    Ok(listeners)
}

type Positions = Streaming<proto::WatchPositionResponse>;

async fn open_one(channel: tonic::transport::Channel, user: &User) -> Result<Positions, Failure> {
    let request = proto::WatchPositionRequest { concert_code: CONCERT.to_owned(), user_id: user.id.clone() };
    let opened = world::queue(channel).watch_position(user.request(request)).await;
    let mut stream = opened.map_err(world::told("WatchPosition"))?.into_inner();
    let first = stream.message().await.map_err(world::told("WatchPosition"))?;
    match first.and_then(|message| message.position).map(|position| position.state()) {
        Some(QueueState::Active) => Ok(stream),
        other => Err(format!("a watcher is not admitted: {other:?}").into()),
    }
}

/// Reads the stream to its end, and counts the end in `ended` by its reason.
async fn listen(mut stream: Positions, ended: Ended) {
    let how = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => break "without an error".to_owned(),
            Err(status) => break load::reason(&status),
        }
    };
    *ended.lock().unwrap_or_else(|e| e.into_inner()).entry(how).or_default() += 1;
}
