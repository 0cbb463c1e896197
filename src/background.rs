//! The one loop that all background work runs in. A pass is idempotent and takes no input, so it may fail, be late or run on
//! several replicas at once.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::db;

/// Runs `pass` every `period` until `stopping` and measures it; a failed pass is logged and the next one tries again.
pub fn every<F, P>(name: &'static str, period: Duration, tasks: &TaskTracker, stopping: &CancellationToken, pass: P)
where
    P: Fn() -> F + Send + 'static,
    F: Future<Output = Result<(), db::Error>> + Send,
{
    let stopping = stopping.clone();
    tasks.spawn(async move {
        let seconds = metrics::histogram!("boxoffice_pass_seconds", "pass" => name);
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let started = Instant::now();
            if let Err(error) = pass().await {
                tracing::warn!(pass = name, %error, "a background pass failed and will be tried again");
            }
            seconds.record(started.elapsed());
        }
    });
}
