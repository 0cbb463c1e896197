//! The batching lane: collects calls of one kind and runs them in batches.
//!
//! A worker takes all commands that wait, up to [`WIDTH`](super::pace::WIDTH), and passes them to the operation as one
//! slice. After the operation, and after the commit in a write lane, it answers each caller. A lane has no timer. An
//! idle lane runs a single call immediately. In a busy lane more calls wait, so the batches become larger.
//!
//! A failure affects as few calls as possible:
//!
//! - A batch is retried if it conflicts with another transaction or cannot reach the database.
//! - A batch with an unexpected error, or with too many conflicts, is split in two. Each half is split again, until
//!   only the command that causes the error fails. If a batch or a half has run for 4 seconds, it is not split, and all
//!   of its commands fail.
//! - After a panic the calls of the batch fail with INTERNAL, and the worker continues.
//! - A call that would wait too long fails immediately, with OVERLOADED or STORAGE_UNAVAILABLE.
//! - A command is not started if it was cancelled or its deadline has passed.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use futures::future::BoxFuture;
use tokio_util::task::TaskTracker;

use super::{
    called::Called,
    worker::{Batch, Work, Worker},
};
use crate::{
    db::{Database, Write},
    rpc::Error,
};

/// Number of workers of a write lane, if the database allows several writers. Each worker has its own transaction.
const WRITE_WORKERS: usize = 2;

/// A lane for commands `C` with answers `R`. Clones share the same workers.
///
/// The workers end when the last clone is dropped and all waiting commands have been answered.
pub struct Lane<C, R> {
    workers: Arc<[Worker<C, R>]>,
}

impl<C, R> Clone for Lane<C, R> {
    fn clone(&self) -> Self {
        Self { workers: self.workers.clone() }
    }
}

impl<C, R> Lane<C, R>
where
    C: Send + Sync + 'static,
    R: Send + 'static,
{
    /// Starts a lane with `worker_count` workers, which `tasks` tracks. `name` is the label of its metrics.
    pub fn start<F>(name: &'static str, worker_count: usize, tasks: &TaskTracker, work: F) -> Self
    where
        F: for<'a> Fn(&'a [C]) -> BoxFuture<'a, Batch<R>> + Send + Sync + 'static,
    {
        let work: Work<C, R> = Arc::new(work);
        Self { workers: (0..worker_count).map(|number| Worker::start(name, number, tasks, work.clone())).collect() }
    }

    /// Queues a command and returns its answer. Commands with the same `shard` run on the same worker, in the order of
    /// arrival.
    ///
    /// Dropping the future cancels a command that was not started.
    pub async fn submit(&self, shard: impl Hash, command: C) -> Result<R, Error> {
        self.worker(shard).submit(command).await
    }

    /// Queues a command that must not be refused for its waiting time, such as a command of an open stream. Returns its
    /// answer. The command has no deadline. If the queue is full, the command waits for space.
    pub async fn submit_patiently(&self, shard: impl Hash, command: C) -> Result<R, Error> {
        self.worker(shard).submit_patiently(command).await
    }

    fn worker(&self, shard: impl Hash) -> &Worker<C, R> {
        if self.workers.len() == 1 {
            return &self.workers[0];
        }
        let mut hasher = DefaultHasher::new();
        shard.hash(&mut hasher);
        &self.workers[(hasher.finish() % self.workers.len() as u64) as usize]
    }
}

/// A lane whose batches write. Each command keeps its caller. Clones share the same workers.
pub struct WriteLane<C, R>(Lane<Called<C>, R>);

impl<C, R> Clone for WriteLane<C, R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C, R> WriteLane<C, R>
where
    C: Send + Sync + 'static,
    R: Send + 'static,
{
    /// Queues a command of the current call and returns its answer, like [`Lane::submit`].
    pub async fn submit(&self, shard: impl Hash, command: C) -> Result<R, Error> {
        self.0.submit(shard, Called::now(command)).await
    }

    /// Queues a command of the current call and returns its answer, like [`Lane::submit_patiently`].
    pub async fn submit_patiently(&self, shard: impl Hash, command: C) -> Result<R, Error> {
        self.0.submit_patiently(shard, Called::now(command)).await
    }
}

/// Starts a lane that runs `operation` on each batch in one write transaction.
pub fn write_lane<C, R, F>(db: &Database, name: &'static str, tasks: &TaskTracker, operation: F) -> WriteLane<C, R>
where
    C: Send + Sync + 'static,
    R: Send + 'static,
    F: for<'a> Fn(&'a Write, &'a [Called<C>]) -> BoxFuture<'a, Batch<R>> + Send + Sync + 'static,
{
    let worker_count = if db.has_one_writer() { 1 } else { WRITE_WORKERS };
    let (db, operation) = (db.clone(), Arc::new(operation));
    let statements = metrics::counter!("boxoffice_lane_statements_total", "lane" => name);
    let lane = Lane::start(name, worker_count, tasks, move |commands: &[Called<C>]| {
        let (db, operation, statements) = (db.clone(), operation.clone(), statements.clone());
        Box::pin(async move {
            let write = db.begin().await?;
            let answers = operation(&write, commands).await?;
            statements.increment(write.statement_count());
            write.commit().await?;
            Ok(answers)
        })
    });
    WriteLane(lane)
}

/// Starts a lane that runs `operation` on each batch without a transaction. Concurrent callers share one query.
pub fn read_lane<C, R, F>(db: &Database, name: &'static str, tasks: &TaskTracker, operation: F) -> Lane<C, R>
where
    C: Send + Sync + 'static,
    R: Send + 'static,
    F: for<'a> Fn(&'a Database, &'a [C]) -> BoxFuture<'a, Batch<R>> + Send + Sync + 'static,
{
    let (db, operation) = (db.clone(), Arc::new(operation));
    Lane::start(name, 1, tasks, move |commands| {
        let (db, operation) = (db.clone(), operation.clone());
        Box::pin(async move { operation(&db, commands).await })
    })
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use futures::FutureExt;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        batch::pace::{CAPACITY, WIDTH},
        db, rpc,
    };

    fn lane<F>(work: F) -> (Lane<u32, u32>, TaskTracker)
    where
        F: for<'a> Fn(&'a [u32]) -> BoxFuture<'a, Batch<u32>> + Send + Sync + 'static,
    {
        let tasks = TaskTracker::new();
        (Lane::start("test", 1, &tasks, work), tasks)
    }

    fn echo(commands: &[u32]) -> Batch<u32> {
        Ok(commands.iter().map(|command| Ok(*command)).collect())
    }

    #[tokio::test]
    async fn calls_that_wait_while_a_batch_runs_share_the_next_one() {
        let batches = Arc::new(AtomicUsize::new(0));
        let counted = batches.clone();
        let (lane, _tasks) = lane(move |commands| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                echo(commands)
            }
            .boxed()
        });
        let calls = (0..100).map(|i| lane.submit(0, i));
        for (i, answer) in futures::future::join_all(calls).await.into_iter().enumerate() {
            assert_eq!(answer.unwrap(), i as u32);
        }
        assert!(batches.load(Ordering::SeqCst) <= 2);
    }

    #[tokio::test]
    async fn a_command_that_fails_its_batch_fails_alone() {
        let (lane, _tasks) = lane(|commands| {
            async move {
                if commands.contains(&7) {
                    return Err(db::Error::Defect("seven".into()));
                }
                echo(commands)
            }
            .boxed()
        });
        let answers = futures::future::join_all((0..20).map(|i| lane.submit(0, i))).await;
        for (i, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.is_err(), i == 7, "{i}");
        }
    }

    #[tokio::test]
    async fn a_panic_is_answered_and_the_lane_continues() {
        let (lane, _tasks) = lane(|commands| {
            async move {
                assert!(!commands.contains(&7), "planted");
                echo(commands)
            }
            .boxed()
        });
        assert!(matches!(lane.submit(0, 7).await, Err(Error::Internal(_))));
        assert_eq!(lane.submit(0, 8).await.unwrap(), 8);
    }

    #[tokio::test]
    async fn a_batch_that_lost_a_race_is_retried_until_it_succeeds() {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let (lane, _tasks) = lane(move |commands| {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            async move { if run < 3 { Err(db::Error::Lost) } else { echo(commands) } }.boxed()
        });
        assert_eq!(lane.submit(0, 1).await.unwrap(), 1);
        assert_eq!(runs.load(Ordering::SeqCst), 4);
    }

    /// Returns a lane whose batches wait for a signal. Also returns the signal and the number of executed commands.
    fn held_lane() -> (Lane<u32, u32>, TaskTracker, tokio::sync::watch::Sender<bool>, Arc<AtomicUsize>) {
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = seen.clone();
        let (signal, open) = tokio::sync::watch::channel(false);
        let (lane, tasks) = lane(move |commands| {
            let (counted, mut open) = (counted.clone(), open.clone());
            async move {
                let _ = open.wait_for(|open| *open).await;
                counted.fetch_add(commands.len(), Ordering::SeqCst);
                echo(commands)
            }
            .boxed()
        });
        (lane, tasks, signal, seen)
    }

    #[tokio::test]
    async fn a_full_lane_refuses_immediately_and_a_cancelled_command_is_never_started() {
        let (lane, tasks, signal, seen) = held_lane();
        let first = tokio::spawn({
            let lane = lane.clone();
            async move { lane.submit(0, 0).await }
        });
        tokio::task::yield_now().await;
        let mut waiting = Vec::new();
        let refused = loop {
            let mut call = Box::pin(lane.submit(0, 1));
            match call.as_mut().now_or_never() {
                None => waiting.push(call),
                Some(answer) => break answer,
            }
        };
        assert!(matches!(refused, Err(Error::Overloaded { .. })), "{refused:?}");
        assert!((WIDTH..=CAPACITY).contains(&waiting.len()), "{}", waiting.len());
        drop(waiting);
        signal.send_replace(true);
        first.await.unwrap().unwrap();
        drop(lane);
        tasks.close();
        tasks.wait().await;
        assert_eq!(seen.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_whose_deadline_has_passed_is_never_started() {
        let (lane, _tasks, signal, seen) = held_lane();
        let first = tokio::spawn({
            let lane = lane.clone();
            async move { lane.submit(0, 0).await }
        });
        tokio::task::yield_now().await;
        let deadline = Instant::now() + Duration::from_millis(20);
        let late = rpc::within(deadline, lane.submit(0, 1)).await;
        assert!(matches!(late, Err(Error::DeadlineExceeded)));
        // This future is not polled when its deadline passes, so its command stays in the queue.
        let mut unpolled = Box::pin(rpc::within(Instant::now() + Duration::from_millis(200), lane.submit(0, 2)));
        assert!(unpolled.as_mut().now_or_never().is_none());
        tokio::time::advance(Duration::from_millis(220)).await;
        signal.send_replace(true);
        first.await.unwrap().unwrap();
        assert_eq!(lane.submit(0, 3).await.unwrap(), 3);
        assert!(matches!(unpolled.await, Err(Error::DeadlineExceeded)));
        assert_eq!(seen.load(Ordering::SeqCst), 2);
    }

    /// A command that panics in its worker when it is cancelled.
    struct Fatal(bool);

    impl Drop for Fatal {
        fn drop(&mut self) {
            assert!(!self.0 || std::thread::panicking(), "planted");
        }
    }

    #[tokio::test]
    async fn a_worker_that_dies_is_replaced_and_its_callers_are_answered() {
        let (tasks, (signal, open)) = (TaskTracker::new(), tokio::sync::watch::channel(false));
        let lane: Lane<Fatal, usize> = Lane::start("test", 1, &tasks, move |commands| {
            let mut open = open.clone();
            async move {
                let _ = open.wait_for(|open| *open).await;
                Ok(commands.iter().map(|_| Ok(commands.len())).collect())
            }
            .boxed()
        });
        let submit = |fatal| {
            let lane = lane.clone();
            tokio::spawn(async move { lane.submit(0, Fatal(fatal)).await })
        };
        let first = submit(false);
        tokio::task::yield_now().await;
        let (withdrawn, neighbour) = (submit(true), submit(false));
        tokio::task::yield_now().await;
        withdrawn.abort();
        assert!(withdrawn.await.unwrap_err().is_cancelled());
        signal.send_replace(true);
        assert_eq!(first.await.unwrap().unwrap(), 1);
        assert!(matches!(neighbour.await.unwrap(), Err(Error::Internal(_))));
        assert_eq!(submit(false).await.unwrap().unwrap(), 1);
    }

    /// Returns the number of calls per second that are answered in time if `rate` calls per second arrive. Each call
    /// has the deadline `patience`. A refused call is retried once, after its retry delay. The measurement starts after
    /// one second and lasts two seconds.
    ///
    /// A full batch takes 122.4 ms, so the lane can answer at most 4,183 calls per second.
    async fn goodput(rate: u32, patience: Duration) -> u32 {
        let (lane, _tasks) = lane(|commands| {
            async move {
                tokio::time::sleep(Duration::from_millis(20) + Duration::from_micros(200) * commands.len() as u32)
                    .await;
                echo(commands)
            }
            .boxed()
        });
        let served = Arc::new(AtomicUsize::new(0));
        let (started, tick, mut calls) = (Instant::now(), Duration::from_millis(5), tokio::task::JoinSet::new());
        while started.elapsed() < Duration::from_secs(3) {
            for _ in 0..rate / 200 {
                let (lane, served) = (lane.clone(), served.clone());
                calls.spawn(async move {
                    for _ in 0..2 {
                        match rpc::within(Instant::now() + patience, lane.submit(0, 1)).await.and_then(|answer| answer)
                        {
                            Ok(_) => {
                                served.fetch_add(
                                    usize::from(started.elapsed() > Duration::from_secs(1)),
                                    Ordering::Relaxed,
                                );
                                return;
                            }
                            Err(Error::Overloaded { retry_after }) => tokio::time::sleep(retry_after).await,
                            Err(_) => return,
                        }
                    }
                });
            }
            tokio::time::sleep(tick).await;
        }
        served.load(Ordering::Relaxed) as u32 / 2
    }

    #[tokio::test(start_paused = true)]
    async fn goodput_stays_the_same_at_ten_times_the_load() {
        for patience in [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(30)] {
            let peak = goodput(4_000, patience).await;
            assert!(peak > 3_000, "{peak} with {patience:?}");
            for overload in [2, 5, 10] {
                let served = goodput(4_000 * overload, patience).await;
                assert!(
                    served * 10 >= peak * 9,
                    "{served} of {peak} calls per second at {overload} times the load with {patience:?}"
                );
            }
        }
    }
}
