//! Runs the background passes.
//!
//! A pass is idempotent and has no input. So a pass may fail, start late, or run on several replicas at the same time.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures::FutureExt;
use tokio::time::MissedTickBehavior;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::turns::{self, Left, StepSize};
use crate::{
    db::{self, Database},
    rpc,
};

/// Starts a task that runs `pass` every `period` until `stopping` is cancelled. Records the duration of each run. Logs
/// a failure or a panic, and continues with the next run.
pub fn every<F, P>(name: &'static str, period: Duration, tasks: &TaskTracker, stopping: &CancellationToken, pass: P)
where
    P: Fn() -> F + Send + Sync + 'static,
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
            match AssertUnwindSafe(async { pass().await }).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(pass = name, %error, "a pass failed; the next run tries again");
                }
                Err(panic) => {
                    let error = rpc::caught("pass", panic);
                    tracing::error!(pass = name, cause = ?error, "a pass panicked; the next run tries again");
                }
            }
            seconds.record(started.elapsed());
        }
    });
}

/// Returns unused space of a SQLite file to the file system. Does nothing on PostgreSQL. Works in short steps, so that
/// calls can run between the steps.
pub async fn reclaim_space(db: &Database) -> Result<(), db::Error> {
    let size = StepSize::gentle();
    turns::repeat_gently(|| size.measured(async |limit| Ok(Left::more_if(db.reclaim_pages(limit).await? == limit))))
        .await
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pass_that_fails_or_panics_is_run_again() {
        let runs = Arc::new(AtomicUsize::new(0));
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        let counted = runs.clone();
        every("test", Duration::from_secs(1), &tasks, &stopping, move || {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                assert_ne!(run, 0, "planted");
                if run == 1 { Err(db::Error::Lost) } else { Ok(()) }
            }
        });
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        stopping.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
