//! Measures the latency of each write on an idle server, for a single client that makes one call at a time. The
//! database is first empty, and later has the rows of the crowd.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use testkit::Failure;

use super::bench::Bench;
use crate::{
    calls::{Calls, Measure},
    load::{self, Call, Miss, Percentiles},
};

/// The code of the concert for the calls of the single client in an empty database.
pub const CONCERT: &str = "BENCH-FRESH";
/// The name of the venue of this concert.
pub const VENUE: &str = "bench-fresh";
const ADMISSION_LIMIT: Duration = Duration::from_secs(30);
/// Pause after the calls of the crowd, in which the server and the database finish background work.
const REST: Duration = Duration::from_secs(1);

/// The results of a write by a single client.
#[derive(Debug, Serialize)]
pub struct IdleWrite {
    /// The name of the operation.
    pub name: &'static str,
    /// The latencies of the correct answers in an empty database.
    pub fresh: Percentiles,
    /// The latencies of the correct answers in a database with the rows of the crowd; `None` before that measurement.
    pub loaded: Option<Percentiles>,
    /// The number of wrong or failed answers in both measurements.
    pub errors: u64,
    /// The number of wrong or failed answers, by reason.
    pub misses: BTreeMap<String, u64>,
}

/// Measures each write in an empty database, and adds the results to `writes`.
pub async fn fresh(bench: &Bench<'_>, writes: &mut Vec<IdleWrite>) -> Result<(), Failure> {
    let world = &bench.world;
    let first_comers = world.users[bench.plan.first_comers()].to_vec();
    let users = 0..first_comers.len();
    let calls = Calls::new(CONCERT, Arc::new(first_comers), !bench.common.kind);
    let none = Measure::default();
    let before = [
        ("OpenWallet", calls.open_wallet(&none)),
        ("ChargeWallet", calls.charge_wallet(&none)),
        ("IssueToken", calls.issue_token(&none)),
    ];
    for (name, call) in before {
        writes.push(alone(bench, users.clone(), name, &call).await?);
    }
    world.open_sale(CONCERT).await?;
    world.wait_until_admitted(CONCERT, ADMISSION_LIMIT).await?;
    for (name, call) in [("HoldSeats", calls.hold_own_seat(&none)), ("Pay", calls.pay(&none))] {
        writes.push(alone(bench, users.clone(), name, &call).await?);
    }
    Ok(())
}

/// Measures the write `name` again in a database with the rows of the crowd, and adds the results to its entry in
/// `writes`.
pub async fn loaded(
    bench: &Bench<'_>,
    writes: &mut [IdleWrite],
    name: &'static str,
    call: &Call,
) -> Result<(), Failure> {
    tokio::time::sleep(REST).await;
    let made = alone(bench, bench.plan.loners(), name, call).await?;
    if let Some(write) = writes.iter_mut().find(|write| write.name == name) {
        write.loaded = Some(made.fresh);
        write.errors += made.errors;
        for (reason, count) in made.misses {
            *write.misses.entry(reason).or_default() += count;
        }
    }
    Ok(())
}

async fn alone(bench: &Bench<'_>, users: Range<usize>, name: &'static str, call: &Call) -> Result<IdleWrite, Failure> {
    bench.progress.set_message(format!("{name}, one client"));
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 120_000_000, 3)?;
    let mut misses = BTreeMap::new();
    for index in users {
        let started = Instant::now();
        match call.make(bench.world.channels[0].clone(), index).await {
            Ok(()) => latencies.saturating_record(started.elapsed().as_micros() as u64),
            Err(Miss(reason)) => *misses.entry(reason).or_default() += 1,
        }
    }
    let errors = misses.values().sum();
    Ok(IdleWrite { name, fresh: load::percentiles(&latencies), loaded: None, errors, misses })
}
