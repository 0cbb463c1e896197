//! Measures a crowd: all users ask for the best two seats together at the same time, until the hall is full. On
//! PostgreSQL, the users are spread over three servers.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use testkit::{Engine, Failure};
use tokio::task::JoinSet;
use tonic::{Code, transport::Channel};
use tonic_types::StatusExt;

use super::{
    ground::Ground,
    pairs::{self, Pair, ROW},
};
use crate::{
    calls::{Calls, Measure},
    load::{self, Miss, Percentiles, Round},
    scrape::{Lanes, Totals},
    world,
};

const CONCERT: &str = "CROWD";
const DATE: &str = "2034-06-18";
const LANE: &str = "reservation.hold";
const FLAGS: [&str; 6] = ["--promote-interval", "100ms", "--admission-ttl", "2h", "--hold-ttl", "1h"];
/// Number of servers on PostgreSQL.
const REPLICAS: usize = 3;
const LIMIT: Duration = Duration::from_secs(60);

/// The holds of a crowd.
#[derive(Debug, Serialize)]
pub struct Crowd {
    /// The number of users that ask at the same time. The hall has two seats for each user.
    pub users: u32,
    /// The number of servers.
    pub replicas: usize,
    /// The time from the first call until every user has an answer other than OVERLOADED, in milliseconds.
    pub all_ms: f64,
    /// The time from the first call until a user has two seats.
    pub latency: Percentiles,
    /// The number of calls that were refused with OVERLOADED. Each user repeats the call after the retry delay.
    pub overloaded: u64,
    /// The number of users without two seats together, by the reason of the error.
    pub misses: BTreeMap<String, u64>,
    /// The number of batches of the lane.
    pub batches: u64,
    /// The number of batches that ran again, because another transaction took a seat first.
    pub reruns: u64,
    /// The number of seats that are left.
    pub left: i32,
    /// The number of seats that are left if users choose random pairs until no pair is left.
    pub left_at_random: usize,
}

/// Lets all users ask for two seats together at the same time.
pub async fn run(ground: &Ground<'_>) -> Result<Crowd, Failure> {
    let rows = (2 * ground.options.crowd / ROW).max(1);
    let users = rows * ROW / 2;
    ground.progress.set_message(format!("a crowd of {users} users"));
    let mut deployments = vec![ground.deploy(&FLAGS).await?];
    if ground.engine == Engine::Postgres {
        for _ in 1..REPLICAS {
            deployments.push(deployments[0].replica().await?);
        }
    }
    let world = ground.world(&deployments[0], users as usize).await?;
    pairs::set_up(&world, CONCERT, &[DATE], rows).await?;
    ground.prepare(&world, users as usize, "OpenWallet", &world.open_wallet()).await?;
    let issue = Calls::new(CONCERT, world.users.clone(), true).issue_token(&Measure::default());
    ground.prepare(&world, users as usize, "IssueToken", &issue).await?;
    world.wait_until_admitted(CONCERT, LIMIT).await?;

    let mut channels = Vec::new();
    for deployment in &deployments {
        channels.extend(world::connect(&deployment.address().to_string(), ground.common.connections).await?);
    }
    let (round, overloaded) = ask(&world.users, &channels).await?;
    let lanes = Lanes::read_all(deployments.iter().map(|deployment| deployment.metrics)).await?;
    let of_lane = |totals: &Totals| totals.get(LANE).copied().unwrap_or_default();
    let stats = world.stats(CONCERT).await?;
    Ok(Crowd {
        users,
        replicas: deployments.len(),
        all_ms: round.elapsed.as_secs_f64() * 1_000.0,
        latency: round.percentiles(),
        overloaded,
        misses: round.misses,
        batches: of_lane(&lanes.calls).count as u64,
        reruns: of_lane(&lanes.reruns).sum as u64,
        left: (rows * ROW) as i32 - stats.held_seat_count,
        left_at_random: pairs::left_at_random(rows as usize),
    })
}

/// Lets each user ask for two seats, all at the same time. Also returns the number of calls that were refused with
/// OVERLOADED.
async fn ask(users: &[Arc<world::User>], channels: &[Channel]) -> Result<(Round, u64), Failure> {
    let (started, mut callers) = (Instant::now(), JoinSet::new());
    for (user, channel) in users.iter().zip(channels.iter().cycle()) {
        let pair = Pair {
            concert_code: CONCERT,
            date: DATE,
            user: user.clone(),
            request_id: world::request_id(),
            first_seat: None,
        };
        let channel = channel.clone();
        callers.spawn(async move {
            let (answer, overloaded) = ask_patiently(&pair, channel).await;
            (answer, started.elapsed(), overloaded)
        });
    }
    let (mut round, mut all_overloaded) = (Round::new()?, 0);
    while let Ok(Some(answered)) = tokio::time::timeout_at((started + LIMIT).into(), callers.join_next()).await {
        let (answer, latency, overloaded) = answered?;
        round.note(answer, latency);
        all_overloaded += overloaded;
    }
    round.elapsed = started.elapsed();
    let lost = callers.len() as u64;
    if lost > 0 {
        round.misses.insert("callers without an answer".to_owned(), lost);
    }
    Ok((round, all_overloaded))
}

/// Makes the call of a user. Repeats the call after the retry delay while the server answers OVERLOADED. Also returns
/// the number of these answers.
async fn ask_patiently(pair: &Pair, channel: Channel) -> (Result<(), Miss>, u64) {
    let mut overloaded = 0;
    loop {
        let status = match pair.hold(channel.clone()).await {
            Ok(true) => return (Ok(()), overloaded),
            Ok(false) => return (Err(Miss::wrong("the seats are not two seats together")), overloaded),
            Err(status) if status.code() == Code::ResourceExhausted => status,
            Err(status) => return (Err(Miss(load::reason(&status))), overloaded),
        };
        overloaded += 1;
        let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
        tokio::time::sleep(delay.unwrap_or(Duration::from_secs(1))).await;
    }
}
