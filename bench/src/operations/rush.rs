//! Measures 2,000 calls within one second. This is an open loop: each call starts at its planned time and does not wait
//! for the answers of other calls.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use testkit::Failure;
use tokio::task::JoinSet;

use crate::{
    load::{self, Call, Miss, Percentiles},
    world::World,
};

const USERS: u32 = 2_000;
const WITHIN: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(30);

/// The results of the calls within one second.
#[derive(Debug, Serialize)]
pub struct Rush {
    /// The number of calls within the second.
    pub users: u32,
    /// The latencies of the correct answers, from the planned time of each call.
    pub latency: Percentiles,
    /// The number of wrong, failed and missing answers.
    pub errors: u64,
    /// The number of wrong, failed and missing answers, by reason.
    pub misses: BTreeMap<String, u64>,
}

/// Makes `call` 2,000 times in one second, at equal intervals. The calls take the users in ascending order, and start
/// again from the first user if there are fewer than 2,000 users.
pub async fn run(world: &World, users: Range<usize>, call: &Call) -> Result<Rush, Failure> {
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for number in 0..USERS {
        let due = started + WITHIN * number / USERS;
        let channel = world.channels[number as usize % world.channels.len()].clone();
        let (call, index) = (call.clone(), users.start + number as usize % users.len());
        callers.spawn(async move {
            tokio::time::sleep_until(due.into()).await;
            (call.make(channel, index).await, due.elapsed())
        });
    }
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 120_000_000, 3)?;
    let (mut misses, mut answered) = (BTreeMap::new(), 0);
    while let Ok(Some(Ok((answer, latency)))) = tokio::time::timeout(LIMIT, callers.join_next()).await {
        answered += 1;
        match answer {
            Ok(()) => latencies.saturating_record(latency.as_micros() as u64),
            Err(Miss(reason)) => *misses.entry(reason).or_default() += 1,
        }
    }
    if answered < USERS {
        misses.insert("calls without an answer".to_owned(), u64::from(USERS - answered));
    }
    let errors = misses.values().sum();
    Ok(Rush { users: USERS, latency: load::percentiles(&latencies), errors, misses })
}
