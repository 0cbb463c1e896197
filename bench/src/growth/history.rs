//! Measures a database with millions of rows of past sales (the history). The measured values are the latency of
//! ChargeWallet, the start and the memory of the server, and the deletion of these rows.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use boxoffice::rpc::proto;
use hdrhistogram::Histogram;
use rand::Rng;
use serde::Serialize;
use testkit::{Failure, wallet};

use super::{ground::Ground, passes::Passes};
use crate::{
    calls::{Calls, Measure},
    deployment::Deployment,
    load::{self, Call, Miss, Percentiles, Supply},
    world::{self, World},
};

/// The code of a concert on sale. Its waiting users give the passes work during the measurement.
const LIVE: &str = "LIVE";
const LIVE_SEATS: u32 = 200;
const LIVE_QUEUE: u32 = 20_000;
/// Number of users that charge their wallets.
const USERS: usize = 10_000;
/// Number of callers that charge wallets at the same time.
const CALLERS: u16 = 8;
/// Number of past concerts.
const CONCERTS: u32 = 100;
/// Age of the history. The default retention is three times as long, so the server deletes nothing at first.
const AGE: Duration = Duration::from_secs(30 * 86_400);
/// Number of rounds. Each round measures the server without history, then the server with history.
const ROUNDS: usize = 4;
const CHARGING: Duration = Duration::from_secs(10);
/// Duration of one round of charges while the history is deleted. After each round, the remaining rows are counted.
const TIDYING_ROUND: Duration = Duration::from_secs(3);
/// Flags with shorter intervals than the defaults, so that each round has many passes.
const FLAGS: [&str; 6] = ["--promote-interval", "500ms", "--expire-interval", "1s", "--admission-ttl", "3s"];
/// The same flags with a retention that is shorter than the age of the history.
const TIDYING: [&str; 8] =
    ["--promote-interval", "500ms", "--expire-interval", "1s", "--admission-ttl", "3s", "--retention", "1d"];
/// Time after which the measurement of the deletion ends, even if the history is not deleted completely.
const TIDY_TIME: Duration = Duration::from_secs(60);

/// The cost of history.
#[derive(Debug, Serialize)]
pub struct Past {
    /// The number of expired tokens. The history has the same number of tokens that left, and of ended reservations.
    pub rows: u32,
    /// The latencies of ChargeWallet without history. Eight callers charge at the same time.
    pub fresh: Percentiles,
    /// The latencies of ChargeWallet with the history.
    pub aged: Percentiles,
    /// The latencies of ChargeWallet while the server deletes the history.
    pub tidying: Percentiles,
    /// The number of wrong, failed and missing answers.
    pub errors: u64,
    /// The durations of the longest promotion pass and of the longest expiry pass with the history, in milliseconds.
    pub passes_ms: (f64, f64),
    /// The time from the start of the process until the server with the history is ready, in milliseconds.
    pub start_ms: f64,
    /// The number of rows that the server deletes per second while the callers charge wallets.
    pub deleted_per_second: f64,
    /// The resident memory of another server 3 seconds after its start, in bytes. In its one queue, `rows` tokens have
    /// left and none was admitted.
    pub departed_rss_bytes: u64,
    /// The time from the start of the process of that server until it is ready, in milliseconds.
    pub departed_start_ms: f64,
}

/// Measures a server without history, a server with history, and the deletion of the history.
pub async fn run(ground: &Ground<'_>) -> Result<Past, Failure> {
    let rows = ground.options.history;
    let (mut fresh, mut aged) = (ground.deploy(&FLAGS).await?, ground.deploy(&FLAGS).await?);
    ground.progress.set_message("a sale that goes on");
    prepare(ground, &mut fresh, 0).await?;
    ground.progress.set_message(format!("{rows} rows of each kind of history"));
    let start_ms = prepare(ground, &mut aged, rows).await?;
    let worlds = [charging(ground, &fresh).await?, charging(ground, &aged).await?];

    ground.progress.set_message("ChargeWallet without history, and with history");
    let passes = Passes::follow(aged.metrics);
    let (mut latencies, mut errors) = ([histogram()?, histogram()?], 0);
    for _ in 0..ROUNDS {
        for (world, latencies) in worlds.iter().zip(&mut latencies) {
            errors += charge(world, latencies, CHARGING).await?;
        }
    }
    let longest = passes.longest_ms().await?;
    let pass = |name: &str| longest.get(name).copied().unwrap_or(f64::NAN);
    let passes_ms = (pass("promote"), pass("expire"));
    fresh.stop();

    ground.progress.set_message("the deletion of history");
    aged.set_flags(&TIDYING);
    aged.restart().await?;
    // The deletion starts when the server starts. The users already have wallets, so the charges can start immediately.
    let world = World { users: worlds[1].users.clone(), ..ground.world(&aged, 0).await? };
    let mut while_tidying = histogram()?;
    let deleted_per_second = delete(&aged, rows, &world, &mut while_tidying, &mut errors).await?;
    drop(aged);
    let (departed_start_ms, departed_rss_bytes) = departed(ground).await?;
    let [fresh, aged] = latencies.map(|latencies| load::percentiles(&latencies));
    let tidying = load::percentiles(&while_tidying);
    Ok(Past {
        rows,
        fresh,
        aged,
        tidying,
        errors,
        passes_ms,
        start_ms,
        deleted_per_second,
        departed_rss_bytes,
        departed_start_ms,
    })
}

/// Puts a concert with many waiting users on sale, and writes `rows` rows of each kind of history. Returns the time
/// until the server is ready after a start, in milliseconds.
async fn prepare(ground: &Ground<'_>, deployment: &mut Deployment, rows: u32) -> Result<f64, Failure> {
    on_sale(ground, deployment).await?;
    deployment.stop();
    let history = deployment.history().await?;
    let users = LIVE_QUEUE.max(rows / 10);
    history.users(users).await?;
    history.waiting(LIVE, LIVE_QUEUE).await?;
    if rows > 0 {
        history.ended(CONCERTS, rows / CONCERTS, users, AGE).await?;
    }
    history.settle().await?;
    Ok(deployment.start_again().await?.as_secs_f64() * 1_000.0)
}

/// Creates the concert [`LIVE`] and opens its sale.
async fn on_sale(ground: &Ground<'_>, deployment: &Deployment) -> Result<(), Failure> {
    let world = ground.world(deployment, 0).await?;
    world.create_venue("live", LIVE_SEATS).await?;
    world.create_concert(LIVE).await?;
    world.add_performance(LIVE, "2034-06-18", "live").await?;
    world.open_sale(LIVE).await
}

/// Connects to a deployment and opens the wallets of [`USERS`] users.
async fn charging(ground: &Ground<'_>, deployment: &Deployment) -> Result<World, Failure> {
    let world = ground.world(deployment, USERS).await?;
    world.for_users(0..USERS, "OpenWallet", &world.open_wallet()).await?;
    Ok(world)
}

/// Lets eight callers charge random wallets for `time`, and adds the latencies to `latencies`. Returns the number of
/// wrong, failed and missing answers.
async fn charge(world: &World, latencies: &mut Histogram<u64>, time: Duration) -> Result<u64, Failure> {
    let users = world.users.clone();
    let call = Call::new(move |channel, _| {
        let user = users[rand::rng().random_range(0..users.len())].clone();
        async move {
            let charged = wallet::charge(&channel, &user.id, 1, &world::request_id()).await?;
            if charged.balance > 0 { Ok(()) } else { Err(Miss::wrong("the balance is not above 0 after a charge")) }
        }
    });
    let supply = Supply::Over(0..USERS, time);
    let round = load::closed_loop(&world.channels[..1], CALLERS, &supply, &call).await?;
    latencies.add(&round.latencies)?;
    Ok(round.errors())
}

/// Charges wallets until the server has deleted the whole history, or until [`TIDY_TIME`] has passed. Adds the
/// latencies to `latencies`, and the number of wrong, failed and missing answers to `errors`. Returns the number of
/// deleted rows per second.
async fn delete(
    deployment: &Deployment,
    rows: u32,
    world: &World,
    latencies: &mut Histogram<u64>,
    errors: &mut u64,
) -> Result<f64, Failure> {
    let history = deployment.history().await?;
    let count = async || -> Result<i64, Failure> {
        Ok(history.count("queue_token").await? + history.count("reservation WHERE NOT live").await?)
    };
    let (before, started) = (count().await?, Instant::now());
    loop {
        *errors += charge(world, latencies, TIDYING_ROUND).await?;
        let (deleted, elapsed) = (before - count().await?, started.elapsed());
        if deleted == 0 {
            return Err(format!("the server deleted no history within {elapsed:?}").into());
        }
        if deleted >= 3 * i64::from(rows) || elapsed > TIDY_TIME {
            return Ok(deleted as f64 / elapsed.as_secs_f64());
        }
    }
}

/// Starts a server whose queue has many tokens that left and none that was admitted. Returns the time until the server
/// is ready in milliseconds, and its resident memory in bytes.
///
/// Fails unless a new user gets the position 1.
async fn departed(ground: &Ground<'_>) -> Result<(f64, u64), Failure> {
    let rows = ground.options.history;
    ground.progress.set_message(format!("{rows} departed tokens"));
    let mut deployment = ground.deploy(&[]).await?;
    on_sale(ground, &deployment).await?;
    // While the sale is paused, no user is admitted. So all tokens that left stay ahead of a new user.
    let world = ground.world(&deployment, 0).await?;
    testkit::catalogue::set_paused(&world.admin, LIVE, true).await.map_err(world::told("UpdateSale"))?;
    deployment.stop();
    let history = deployment.history().await?;
    history.users(rows).await?;
    history.departed(LIVE, rows).await?;
    history.settle().await?;
    let start_ms = deployment.start_again().await?.as_secs_f64() * 1_000.0;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let rss = deployment.resident_bytes()?;

    let world = ground.world(&deployment, 1).await?;
    world.for_users(0..1, "OpenWallet", &world.open_wallet()).await?;
    let calls = Calls::new(LIVE, Arc::new(world.users.to_vec()), false);
    world.for_users(0..1, "IssueToken", &calls.issue_token(&Measure::default())).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let user = &world.users[0];
    let request = proto::GetPositionRequest { concert_code: LIVE.to_owned(), user_id: user.id.clone() };
    let answer = world::queue(world.channels[0].clone()).get_position(user.request(request)).await;
    let position = answer.map_err(world::told("GetPosition"))?.into_inner().position.unwrap_or_default().position;
    if position != Some(1) {
        return Err(format!("behind {rows} departed tokens a user has the position {position:?}").into());
    }
    Ok((start_ms, rss))
}

fn histogram() -> Result<Histogram<u64>, Failure> {
    Ok(Histogram::new_with_bounds(1, 120_000_000, 3)?)
}
