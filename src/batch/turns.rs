//! Splits long work of a background pass into short steps, so that calls and other work can run between them.

use std::{
    collections::HashSet,
    hash::Hash,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::db;

/// Maximum number of rows in one step.
const MAX_ROWS: i64 = 1_000;
/// Lower bound of the row limit of a step. A slow database cannot reduce the limit further.
const MIN_ROWS: i64 = 50;
/// Maximum time that the transaction of a step should take. After a slower step, the next step has fewer rows.
const STEP_TIME: Duration = Duration::from_millis(50);
/// Maximum time that the transaction of a step should take, for work that is not urgent.
const GENTLE_STEP_TIME: Duration = Duration::from_millis(6);
/// Time after which a pass looks again at keys that had no work left.
const ROUND_TIME: Duration = Duration::from_secs(1);

/// The result of a step: whether more work is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// More work may be left.
    More,
    /// No work is left.
    Nothing,
}

impl Left {
    /// Returns [`Left::More`] if the step handled its maximum number of rows.
    pub fn more_if(is_full: bool) -> Self {
        if is_full { Self::More } else { Self::Nothing }
    }
}

/// Holds the maximum number of rows of the next step. After a full step, this number is halved if the step was slow,
/// and doubled if the step was fast.
pub struct StepSize {
    rows: AtomicI64,
    step_time: Duration,
}

impl Default for StepSize {
    fn default() -> Self {
        Self { rows: AtomicI64::new(MAX_ROWS), step_time: STEP_TIME }
    }
}

impl StepSize {
    /// Returns the size for work that is not urgent. Each step should take at most 6 ms, so that it delays calls only a
    /// little.
    pub fn gentle() -> Self {
        Self { rows: AtomicI64::new(MIN_ROWS), step_time: GENTLE_STEP_TIME }
    }

    /// Runs a step with the current number of rows, measures its time, and adjusts the number of rows.
    pub async fn measured<F>(&self, step: impl FnOnce(i64) -> F) -> Result<Left, db::Error>
    where
        F: Future<Output = Result<Left, db::Error>>,
    {
        let rows = self.rows.load(Ordering::Relaxed);
        let started = Instant::now();
        let left = step(rows).await?;
        // Adjust the number only after a full step. A step with fewer rows says nothing about the time of a full step.
        if left == Left::More {
            let next = if started.elapsed() > self.step_time { rows / 2 } else { rows * 2 };
            self.rows.store(next.clamp(MIN_ROWS, MAX_ROWS), Ordering::Relaxed);
        }
        Ok(left)
    }
}

/// Runs `step` until no work is left. Calls can run between the steps.
pub async fn repeat<F>(step: impl Fn() -> F) -> Result<(), db::Error>
where
    F: Future<Output = Result<Left, db::Error>>,
{
    while step().await? == Left::More {
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Runs `step` until no work is left, for work that is not urgent. After each step, pauses for four times its duration.
pub async fn repeat_gently<F>(step: impl Fn() -> F) -> Result<(), db::Error>
where
    F: Future<Output = Result<Left, db::Error>>,
{
    loop {
        let started = Instant::now();
        if step().await? == Left::Nothing {
            return Ok(());
        }
        tokio::time::sleep(4 * started.elapsed()).await;
    }
}

/// Runs a step for each key that `due` lists, round after round, until no key has work left. Each round reads the list
/// again, so that new work gets its turn.
///
/// If a step fails, its key gets no further steps, and the other keys continue. At the end, the function returns the
/// first error of a step. If `due` fails, the function ends immediately with that error.
pub async fn take<'a, K: Hash + Eq + Copy>(
    due: impl Fn() -> BoxFuture<'a, Result<Vec<K>, db::Error>>,
    step: impl Fn(K) -> BoxFuture<'a, Result<Left, db::Error>>,
) -> Result<(), db::Error> {
    let mut failed = HashSet::new();
    let mut first_error = None;
    let (mut done, mut round_start) = (HashSet::new(), Instant::now());
    loop {
        let mut is_more = false;
        let keys = due().await?.into_iter().filter(|key| !done.contains(key) && !failed.contains(key));
        for key in keys.collect::<Vec<K>>() {
            match step(key).await {
                Ok(Left::More) => is_more = true,
                Ok(Left::Nothing) => drop(done.insert(key)),
                Err(error) => {
                    failed.insert(key);
                    first_error.get_or_insert(error);
                }
            }
            tokio::task::yield_now().await;
        }
        if !is_more {
            return first_error.map_or(Ok(()), Err);
        }
        // Keys without work may have new work by now, so let them take part in the next round.
        if round_start.elapsed() > ROUND_TIME {
            (done, round_start) = (HashSet::new(), Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_small_key_gets_its_turn_next_to_a_huge_one_and_a_failure_stops_only_its_own_key() {
        let work = Mutex::new(
            [("huge", 5), ("broken", 1), ("small", 1)].into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        );
        let order = Mutex::new(Vec::new());
        let result = take(
            || Box::pin(async { Ok(work.lock().iter().filter(|(_, n)| **n > 0).map(|(key, _)| *key).collect()) }),
            |key| {
                let (work, order) = (&work, &order);
                Box::pin(async move {
                    order.lock().push(key);
                    if key == "broken" {
                        return Err(db::Error::Defect("planted".into()));
                    }
                    let mut work = work.lock();
                    let count = work.get_mut(key).unwrap();
                    *count -= 1;
                    Ok(Left::more_if(*count > 0))
                })
            },
        )
        .await;
        assert!(matches!(result, Err(db::Error::Defect(_))));
        assert_eq!(order.lock()[..3], ["broken", "huge", "small"]);
        assert_eq!(order.lock().len(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_steps_become_smaller_and_fast_ones_larger() {
        let size = StepSize::default();
        let step = async |slow| {
            let mut rows = 0;
            size.measured(|limit| {
                rows = limit;
                async move {
                    tokio::time::sleep(Duration::from_millis(if slow { 80 } else { 1 })).await;
                    Ok(Left::More)
                }
            })
            .await
            .unwrap();
            rows
        };
        assert_eq!([step(true).await, step(true).await, step(true).await], [1_000, 500, 250]);
        for _ in 0..10 {
            step(true).await;
        }
        assert_eq!(step(false).await, MIN_ROWS);
        assert_eq!([step(false).await, step(false).await], [100, 200]);
    }
}
