//! Measures the opening of a huge sale of ten dates in a stadium. As many users wait as the sale has seats. A small
//! sale opens while the server admits the users of the huge sale.

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use testkit::Failure;

use super::ground::Ground;
use crate::{deployment::Deployment, world::World};

const HUGE: &str = "HUGE";
const SMALL: &str = "SMALL";
/// Number of dates of the huge concert.
const DATES: u32 = 10;
/// Number of seats of the small concert. As many users wait for it.
const SMALL_SEATS: u32 = 50;
const FLAGS: [&str; 4] = ["--promote-interval", "250ms", "--admission-ttl", "2h"];
const LIMIT: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The cost of an opening.
#[derive(Debug, Serialize)]
pub struct Opening {
    /// The number of users that wait for the huge concert.
    pub waiting: u32,
    /// The time from the opening of the huge sale until all of its users were admitted, in milliseconds.
    pub huge_ms: f64,
    /// The time from the opening of the small sale until all of its users were admitted, in milliseconds. During this
    /// time, the server also admits users of the huge sale.
    pub small_ms: f64,
    /// The longest time between the log lines of two consecutive promotion transactions, in milliseconds.
    pub longest_step_ms: f64,
    /// The number of promotion transactions of both sales.
    pub steps: usize,
}

/// Opens the huge sale, then the small sale, and waits until all users of both sales are admitted.
pub async fn run(ground: &Ground<'_>) -> Result<Opening, Failure> {
    let waiting = ground.options.opening / DATES * DATES;
    ground.progress.set_message(format!("{waiting} users wait"));
    let mut deployment = ground.deploy(&FLAGS).await?;
    let world = ground.world(&deployment, 0).await?;
    world.create_venue("stadium", waiting / DATES).await?;
    world.create_venue("club", SMALL_SEATS).await?;
    for concert in [HUGE, SMALL] {
        world.create_concert(concert).await?;
    }
    for day in 1..=DATES {
        world.add_performance(HUGE, &format!("2034-06-{day:02}"), "stadium").await?;
    }
    world.add_performance(SMALL, "2034-06-18", "club").await?;
    deployment.stop();
    let history = deployment.history().await?;
    history.users(waiting).await?;
    history.waiting(HUGE, waiting).await?;
    history.waiting(SMALL, SMALL_SEATS).await?;
    history.settle().await?;
    deployment.start_again().await?;

    ground.progress.set_message(format!("{waiting} users are admitted"));
    let world = ground.world(&deployment, 0).await?;
    let opened = Instant::now();
    world.open_sale(HUGE).await?;
    until_waiting(&world, HUGE, i64::from(waiting) - 1).await?;
    let small_opened = Instant::now();
    world.open_sale(SMALL).await?;
    until_waiting(&world, SMALL, 0).await?;
    let small_ms = small_opened.elapsed().as_secs_f64() * 1_000.0;
    if world.stats(HUGE).await?.waiting_count == 0 {
        return Err("the huge sale ended before the small sale; use a larger --opening".into());
    }
    until_waiting(&world, HUGE, 0).await?;
    let huge_ms = opened.elapsed().as_secs_f64() * 1_000.0;
    let (steps, longest_step_ms) = longest_step(&deployment);
    Ok(Opening { waiting, huge_ms, small_ms, longest_step_ms, steps })
}

/// Waits until at most `count` users of a concert wait. Fails after [`LIMIT`].
async fn until_waiting(world: &World, concert: &str, count: i64) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        let waiting = world.stats(concert).await?.waiting_count;
        if waiting <= count {
            return Ok(());
        }
        if started.elapsed() > LIMIT {
            return Err(format!("{waiting} users of {concert} still wait after {LIMIT:?}").into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Returns the number of promotion transactions in the log of the server. Also returns the longest time between two
/// consecutive transactions, in milliseconds.
///
/// A promotion pass runs its transactions one after the other. Other writes can run between two transactions. So the
/// longest time is about the duration of one transaction and of the other writes before this transaction.
fn longest_step(deployment: &Deployment) -> (usize, f64) {
    let steps = deployment.admissions();
    let gap = |pair: &[SystemTime]| pair[1].duration_since(pair[0]).unwrap_or_default();
    let longest = steps.windows(2).map(gap).max().unwrap_or_default();
    (steps.len(), longest.as_secs_f64() * 1_000.0)
}
