//! Years of history: how long writes take beside it, the memory of the server after a start, and the deletion of
//! old rows.

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

/// A sale that goes on meanwhile, so that the passes have work.
const LIVE: &str = "LIVE";
const LIVE_SEATS: u32 = 200;
const LIVE_QUEUE: u32 = 20_000;
/// Users that charge their wallets.
const USERS: usize = 10_000;
/// Callers that charge wallets at the same time.
const CALLERS: u16 = 8;
/// Concerts of the past.
const CONCERTS: u32 = 100;
/// How long ago the history was; the default retention is three times as long.
const AGE: Duration = Duration::from_secs(30 * 86_400);
/// Each round measures the fresh database, then the aged one.
const ROUNDS: usize = 4;
const CHARGING: Duration = Duration::from_secs(10);
/// How often it is checked whether the history is deleted.
const TIDYING_ROUND: Duration = Duration::from_secs(3);
/// The passes run more often than by default, so that each round has many of them.
const FLAGS: [&str; 6] = ["--promote-interval", "500ms", "--expire-interval", "1s", "--admission-ttl", "3s"];
/// The same, with a retention that is shorter than the history is old.
const TIDYING: [&str; 8] =
    ["--promote-interval", "500ms", "--expire-interval", "1s", "--admission-ttl", "3s", "--retention", "1d"];
/// How long the deletion of all history may take.
const TIDY_LIMIT: Duration = Duration::from_secs(1_200);

/// The cost of history.
#[derive(Debug, Serialize)]
pub struct Past {
    /// Expired tokens; as many departed tokens, and as many reservations that ended.
    pub rows: u32,
    /// ChargeWallet by eight callers beside no history.
    pub fresh: Percentiles,
    /// The same beside the history.
    pub aged: Percentiles,
    /// The same while the history is deleted.
    pub tidying: Percentiles,
    /// Wrong or failed answers.
    pub errors: u64,
    /// The longest passes beside the history: promotion, and expiry.
    pub passes_ms: (f64, f64),
    /// Time from the start of the process until it is ready.
    pub start_ms: f64,
    /// Rows of the history deleted per second, beside the callers.
    pub deleted_per_second: f64,
    /// Resident memory after a start with as many departed tokens ahead of a waiting user.
    pub departed_rss_bytes: u64,
    /// Time of that start.
    pub departed_start_ms: f64,
}

/// Measures a fresh database next to an aged one.
pub async fn run(ground: &Ground<'_>) -> Result<Past, Failure> {
    let rows = ground.options.history;
    let (mut fresh, mut aged) = (ground.deploy(&FLAGS).await?, ground.deploy(&FLAGS).await?);
    ground.progress.set_message("a sale that goes on");
    prepare(ground, &mut fresh, 0).await?;
    ground.progress.set_message(format!("{rows} rows of each kind of history"));
    let start_ms = prepare(ground, &mut aged, rows).await?;
    let worlds = [charging(ground, &fresh).await?, charging(ground, &aged).await?];

    ground.progress.set_message("ChargeWallet beside no history, and beside history");
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
    // The deletion has begun with the start. So the users are the ones that have wallets already.
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

/// Puts a concert on sale for which many users wait, and writes the history. Returns how many milliseconds the server
/// takes to start with it.
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

/// Creates a concert and opens its sale.
async fn on_sale(ground: &Ground<'_>, deployment: &Deployment) -> Result<(), Failure> {
    let world = ground.world(deployment, 0).await?;
    world.create_venue("live", LIVE_SEATS).await?;
    world.create_concert(LIVE).await?;
    world.add_performance(LIVE, "2034-06-18", "live").await?;
    world.open_sale(LIVE).await
}

/// Returns users with wallets.
async fn charging(ground: &Ground<'_>, deployment: &Deployment) -> Result<World, Failure> {
    let world = ground.world(deployment, USERS).await?;
    world.for_users(0..USERS, "OpenWallet", &world.open_wallet()).await?;
    Ok(world)
}

/// Lets eight callers charge random wallets, and adds the latencies. Returns how many answers were wrong.
async fn charge(world: &World, latencies: &mut Histogram<u64>, time: Duration) -> Result<u64, Failure> {
    let users = world.users.clone();
    let call = Call::new(move |channel, _| {
        let user = users[rand::rng().random_range(0..users.len())].clone();
        async move {
            let charged = wallet::charge(&channel, &user.id, 1, &world::request_id()).await?;
            if charged.balance > 0 { Ok(()) } else { Err(Miss::wrong("an empty wallet")) }
        }
    });
    let supply = Supply::Over(0..USERS, time);
    let round = load::closed_loop(&world.channels[..1], CALLERS, &supply, &call).await?;
    latencies.add(&round.latencies)?;
    Ok(round.errors())
}

/// Charges wallets until the tidy pass has deleted the whole history. Returns how many rows it deletes per second.
async fn delete(
    deployment: &Deployment,
    rows: u32,
    world: &World,
    latencies: &mut Histogram<u64>,
    errors: &mut u64,
) -> Result<f64, Failure> {
    let (started, history) = (Instant::now(), deployment.history().await?);
    loop {
        *errors += charge(world, latencies, TIDYING_ROUND).await?;
        let tokens = history.count("queue_token WHERE state = 'LEFT' AND admit_time IS NULL").await?;
        let left = tokens + history.count("reservation WHERE NOT live").await?;
        if left == 0 {
            return Ok(3.0 * f64::from(rows) / started.elapsed().as_secs_f64());
        }
        if started.elapsed() > TIDY_LIMIT {
            return Err(format!("{left} rows of history are not deleted after {TIDY_LIMIT:?}").into());
        }
    }
}

/// Starts a server with many departed tokens ahead of a waiting user. Returns the milliseconds of the start and the
/// memory after it.
async fn departed(ground: &Ground<'_>) -> Result<(f64, u64), Failure> {
    let rows = ground.options.history;
    ground.progress.set_message(format!("{rows} departed tokens"));
    let mut deployment = ground.deploy(&[]).await?;
    on_sale(ground, &deployment).await?;
    // Nobody is admitted, so all departures stay ahead of the users that wait.
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
