//! How long a write takes on an idle server: one client, one call at a time, first in an empty database, then beside a crowd's rows.

use std::{collections::BTreeMap, ops::Range, time::Duration, time::Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    Bench,
    calls::{Calls, FRESH_CONCERT, Measure},
};
use crate::{
    Failure,
    load::{self, Call, Miss, Percentiles},
};

const ADMISSION_LIMIT: Duration = Duration::from_secs(30);
/// What the crowd left to be written and tidied is given so long before one client comes alone.
const REST: Duration = Duration::from_secs(1);

/// A write, made by one client alone.
#[derive(Debug, Serialize)]
pub struct IdleWrite {
    /// The operation.
    pub name: &'static str,
    /// Latencies of right answers in an empty database.
    pub fresh: Percentiles,
    /// The same beside the rows of the crowd.
    pub loaded: Option<Percentiles>,
    /// Wrong and failed answers.
    pub errors: u64,
    /// What they were.
    pub misses: BTreeMap<String, u64>,
}

/// Makes each write in a database where nothing else is.
pub async fn fresh(bench: &Bench<'_>, writes: &mut Vec<IdleWrite>) -> Result<(), Failure> {
    let (world, users) = (&bench.world, bench.plan.first_comers());
    let calls = Calls::new(FRESH_CONCERT, world.users.clone(), bench.common.request_ids);
    let none = Measure::default();
    let before = [
        ("OpenWallet", calls.open_wallet(&none)),
        ("ChargeWallet", calls.charge_wallet(&none)),
        ("IssueToken", calls.issue_token(&none)),
    ];
    for (name, call) in before {
        writes.push(alone(bench, users.clone(), name, &call).await?);
    }
    world.open_sale(FRESH_CONCERT).await?;
    world.wait_until_admitted(FRESH_CONCERT, ADMISSION_LIMIT).await?;
    for (name, call) in [("HoldSeats", calls.hold_own_seat(&none)), ("Pay", calls.pay(&none))] {
        writes.push(alone(bench, users.clone(), name, &call).await?);
    }
    Ok(())
}

/// Makes a write again, beside the rows of the crowd.
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
        write.misses.extend(made.misses);
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
