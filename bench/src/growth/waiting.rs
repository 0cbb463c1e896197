//! Measures a long queue, by default of 1,000,000 waiting users. The measured values are the cost of GetPosition (a
//! poll), of promotions, of expiries and of a start of the server, and the memory of the server.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use boxoffice::rpc::proto;
use serde::Serialize;
use testkit::Failure;

use super::{ground::Ground, passes::Passes};
use crate::{
    calls::{Calls, Measure},
    deployment::Deployment,
    load::{self, Supply, median},
    world::{self, User},
};

const SHORT: &str = "SHORT";
const LONG: &str = "LONG";
/// Number of users in the short queue.
const FEW: usize = 1_000;
/// Number of seats of each concert. A promotion admits at most one user per seat.
const ADMITTED: u32 = 1_000;
/// Number of rounds. Each round polls the short queue, then the long queue.
const ROUNDS: usize = 5;
const POLLING: Duration = Duration::from_secs(1);
/// Time for which promotion and expiry run. An admission lasts three seconds.
const PROMOTING: Duration = Duration::from_secs(15);
const FLAGS: [&str; 6] = ["--promote-interval", "250ms", "--expire-interval", "1s", "--admission-ttl", "3s"];

/// The cost of a long queue.
#[derive(Debug, Serialize)]
pub struct Waiting {
    /// The number of waiting users in the long queue.
    pub waiting: usize,
    /// Polls per second: in the short queue, then in the long queue. Each value is the median of the rounds.
    pub polls_per_second: (f64, f64),
    /// CPU seconds of the server per 1,000 polls: in the short queue, then in the long queue. Each value is the median
    /// of the rounds.
    pub poll_cpu_per_1000: (f64, f64),
    /// The number of wrong, failed and missing answers to polls.
    pub poll_errors: u64,
    /// The resident memory of the server after it issued all tokens, in bytes.
    pub rss_bytes: u64,
    /// The resident memory of the server after a restart, in bytes.
    pub restarted_rss_bytes: u64,
    /// The number of tokens that one promotion admits, if all earlier admissions have ended.
    pub admitted: u32,
    /// The number of tokens of the long queue that were admitted in total.
    pub admitted_in_all: i64,
    /// The duration of the longest promotion pass, in milliseconds.
    pub promote_ms: f64,
    /// The duration of the longest expiry pass, in milliseconds.
    pub expire_ms: f64,
    /// The time from the restart of the process until the server is ready, in milliseconds.
    pub start_ms: f64,
}

/// Measures a long queue compared with a short queue.
pub async fn run(ground: &Ground<'_>) -> Result<Waiting, Failure> {
    let waiting = ground.options.waiting as usize;
    let mut deployment = ground.deploy(&FLAGS).await?;
    let world = ground.world(&deployment, FEW + waiting).await?;
    let short = Calls::new(SHORT, Arc::new(world.users[..FEW].to_vec()), false);
    let long = Calls::new(LONG, Arc::new(world.users[FEW..].to_vec()), false);
    world.create_venue("hall", ADMITTED).await?;
    for concert in [SHORT, LONG] {
        world.create_concert(concert).await?;
        world.add_performance(concert, "2034-06-18", "hall").await?;
    }
    let none = Measure::default();
    ground.prepare(&world, world.users.len(), "OpenWallet", &world.open_wallet()).await?;
    ground.prepare(&world, FEW, "IssueToken", &short.issue_token(&none)).await?;
    ground.prepare(&world, waiting, "IssueToken", &long.issue_token(&none)).await?;
    // GetPosition reads memory, which may be 250 ms old. All new tokens must be in memory before the next step.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let rss_bytes = deployment.resident_bytes()?;

    ground.progress.set_message("polls in a short and in a long queue");
    let mut figures = [Vec::new(), Vec::new()];
    let mut poll_errors = 0;
    for _ in 0..ROUNDS {
        for (calls, count, figures) in
            [&short, &long].into_iter().zip([FEW, waiting]).zip(&mut figures).map(|((c, n), f)| (c, n, f))
        {
            let supply = Supply::Over(0..count, POLLING);
            let before = deployment.cpu_seconds()?;
            let call = calls.get_position(&none);
            let round = load::closed_loop(&world.channels, ground.common.in_flight, &supply, &call).await?;
            let cpu = deployment.cpu_seconds()? - before;
            poll_errors += round.errors();
            figures.push((round.rate(), cpu / (round.calls() as f64 / 1_000.0)));
        }
    }
    let of = |queue: usize, figure: fn(&(f64, f64)) -> f64| median(figures[queue].iter().map(figure).collect());

    ground.progress.set_message("promotions and expiries in a long queue");
    let passes = Passes::follow(deployment.metrics);
    world.open_sale(LONG).await?;
    tokio::time::sleep(PROMOTING).await;
    let longest = passes.longest_ms().await?;
    let stats = world.stats(LONG).await?;
    let admitted_in_all = stats.issued_count - stats.waiting_count;

    ground.progress.set_message("a start of the server");
    let start_ms = deployment.restart().await?.as_secs_f64() * 1_000.0;
    let restarted_rss_bytes = deployment.resident_bytes()?;
    require_last_in_line(ground, &deployment, &world.users[FEW + waiting - 1]).await?;
    Ok(Waiting {
        waiting,
        polls_per_second: (of(0, |f| f.0), of(1, |f| f.0)),
        poll_cpu_per_1000: (of(0, |f| f.1), of(1, |f| f.1)),
        poll_errors,
        rss_bytes,
        restarted_rss_bytes,
        admitted: ADMITTED,
        admitted_in_all,
        promote_ms: longest.get("promote").copied().unwrap_or(f64::NAN),
        expire_ms: longest.get("expire").copied().unwrap_or(f64::NAN),
        start_ms,
    })
}

/// Fails unless the last user of the long queue still waits after the restart.
async fn require_last_in_line(ground: &Ground<'_>, deployment: &Deployment, last: &User) -> Result<(), Failure> {
    let started = Instant::now();
    let channel = world::connect(&deployment.address().to_string(), 1).await?.remove(0);
    let request = proto::GetPositionRequest { concert_code: LONG.to_owned(), user_id: last.id.clone() };
    let answer = world::queue(channel).get_position(last.request(request)).await;
    let position = answer.map_err(world::told("GetPosition"))?.into_inner().position.unwrap_or_default();
    ground.progress.set_message(format!("position {:?} after {:?}", position.position, started.elapsed()));
    match position.position {
        Some(place) if place > 0 => Ok(()),
        _ => Err("after a restart, the last user in the queue does not wait".into()),
    }
}
