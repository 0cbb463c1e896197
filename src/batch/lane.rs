//! The batching lane: calls of one kind wait here and are served together.
//!
//! A worker takes all that wait, up to the lane's width, hands them to its operation as one slice, and answers each
//! caller when that has committed. Nothing waits for a timer: an idle lane serves a single call at once, a busy one grows
//! its batches by itself. Work runs in tasks of the lane's own, so a caller that goes away never leaves a transaction open.
//!
//! What goes wrong stays small. A lost race or a busy database runs the batch again; an unexpected error splits the batch until
//! the command that causes it is alone; a panic answers INTERNAL and the worker goes on. Who would wait too long is refused with
//! OVERLOADED at once, and a command whose caller has gone or whose deadline has passed is never started.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::pace::{CAPACITY, Pace, WIDTH};
use crate::{
    db::{self, Database, Write},
    rpc::{self, Error},
};

/// What came of a batch: an answer for each command in its order, or nothing at all happened.
pub type Batch<R> = Result<Vec<Result<R, Error>>, db::Error>;

/// Number of workers of a write lane where the database has several writers, each with a transaction of its own.
const WRITE_WORKERS: usize = 2;
/// A batch that lost a race is run again so many times, and for so long; each loss is another replica's progress.
const MAX_RACES: u32 = 20;
const MAX_RACING: Duration = Duration::from_secs(4);
/// A batch that found the database away is tried again so many times: enough for a connection that went stale.
const MAX_RECONNECTS: u32 = 2;

type Work<C, R> = Arc<dyn for<'a> Fn(&'a [C]) -> BoxFuture<'a, Batch<R>> + Send + Sync>;

struct Pending<C, R> {
    command: C,
    reply: oneshot::Sender<Result<R, Error>>,
    since: Instant,
    deadline: Option<Instant>,
}

/// What waits for a worker, and how fast it works.
struct Worker<C, R> {
    queue: mpsc::Sender<Pending<C, R>>,
    pace: Arc<Pace>,
}

/// A lane for commands `C` that are answered with `R`. Clones share its workers, which end when the last clone is dropped
/// and all that waited has been served.
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
    /// Starts a lane of `worker_count` workers on `tasks`. `name` labels its metrics.
    pub fn start<F>(name: &'static str, worker_count: usize, tasks: &TaskTracker, work: F) -> Self
    where
        F: for<'a> Fn(&'a [C]) -> BoxFuture<'a, Batch<R>> + Send + Sync + 'static,
    {
        let work: Work<C, R> = Arc::new(work);
        let workers = (0..worker_count)
            .map(|_| {
                let (sender, queue) = mpsc::channel(CAPACITY);
                let pace = Arc::new(Pace::new(name));
                tasks.spawn(supervise(name, queue, work.clone(), pace.clone()));
                Worker { queue: sender, pace }
            })
            .collect();
        Self { workers }
    }

    /// Waits in the lane and returns the answer. Commands with the same `key` stay on one worker, in the order of arrival.
    /// Dropping the future withdraws a command that has not been started.
    pub async fn submit(&self, key: impl Hash, command: C) -> Result<R, Error> {
        let (worker, since, patience) = (self.worker(key), Instant::now(), rpc::remaining());
        worker.pace.admit(since, worker.queue.max_capacity() - worker.queue.capacity(), patience)?;
        let (reply, answer) = oneshot::channel();
        let pending = Pending { command, reply, since, deadline: patience.map(|patience| since + patience) };
        worker.queue.try_send(pending).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => worker.pace.refuse(),
            mpsc::error::TrySendError::Closed(_) => Error::ShuttingDown,
        })?;
        answer.await.unwrap_or_else(|_| Err(Error::internal("a command was lost with its worker")))
    }

    /// The same for a stream that is open: it waits for its turn however long that takes, and is never refused. The number
    /// of streams bounds how many commands wait so.
    pub async fn submit_patiently(&self, key: impl Hash, command: C) -> Result<R, Error> {
        let (reply, answer) = oneshot::channel();
        let pending = Pending { command, reply, since: Instant::now(), deadline: None };
        self.worker(key).queue.send(pending).await.map_err(|_| Error::ShuttingDown)?;
        answer.await.unwrap_or_else(|_| Err(Error::internal("a command was lost with its worker")))
    }

    fn worker(&self, key: impl Hash) -> &Worker<C, R> {
        if self.workers.len() == 1 {
            return &self.workers[0];
        }
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        &self.workers[(hasher.finish() % self.workers.len() as u64) as usize]
    }
}

/// Starts a lane whose batches are write transactions of `operation`.
pub fn write_lane<C, R, F>(db: &Database, name: &'static str, tasks: &TaskTracker, operation: F) -> Lane<C, R>
where
    C: Send + Sync + 'static,
    R: Send + 'static,
    F: for<'a> Fn(&'a Write, &'a [C]) -> BoxFuture<'a, Batch<R>> + Send + Sync + 'static,
{
    let worker_count = if db.has_one_writer() { 1 } else { WRITE_WORKERS };
    let (db, operation) = (db.clone(), Arc::new(operation));
    Lane::start(name, worker_count, tasks, move |commands| {
        let (db, operation) = (db.clone(), operation.clone());
        Box::pin(async move {
            let write = db.begin().await?;
            let answers = operation(&write, commands).await?;
            write.commit().await?;
            Ok(answers)
        })
    })
}

/// Starts a lane whose batches are reads by `operation`: what many ask for together is asked of the database once.
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

/// Keeps a worker at work: should it die, those it was serving are answered INTERNAL and another goes on with the queue.
async fn supervise<C, R>(
    name: &'static str,
    mut queue: mpsc::Receiver<Pending<C, R>>,
    work: Work<C, R>,
    pace: Arc<Pace>,
) where
    C: Send + Sync + 'static,
    R: Send + 'static,
{
    while let Err(panic) = AssertUnwindSafe(serve(name, &mut queue, &work, &pace)).catch_unwind().await {
        let error = rpc::caught("worker", panic);
        tracing::error!(lane = name, cause = ?error, "a worker died and is replaced");
    }
}

async fn serve<C, R>(name: &'static str, queue: &mut mpsc::Receiver<Pending<C, R>>, work: &Work<C, R>, pace: &Pace)
where
    C: Send + Sync + 'static,
    R: Send + 'static,
{
    let size = metrics::histogram!("boxoffice_lane_batch_size", "lane" => name);
    let wait = metrics::histogram!("boxoffice_lane_wait_seconds", "lane" => name);
    let busy = metrics::histogram!("boxoffice_lane_batch_seconds", "lane" => name);
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, WIDTH).await > 0 {
        let started = Instant::now();
        let (commands, replies) = take_those_in_time(&mut waiting, started, pace, &wait);
        if commands.is_empty() {
            continue;
        }
        size.record(commands.len() as f64);
        pace.begin(started);
        let work = work.clone();
        let batch = tokio::spawn(async move { settle(name, &work, &commands).await });
        let answers = batch.await.unwrap_or_else(|death| {
            let error = match death.try_into_panic() {
                Ok(panic) => rpc::caught("batch", panic),
                Err(cancelled) => Error::internal(cancelled),
            };
            replies.iter().map(|_| Err(error.clone())).collect()
        });
        let served = !answers.iter().all(|answer| matches!(answer, Err(Error::StorageUnavailable)));
        pace.end(started.elapsed(), served);
        for (reply, answer) in replies.into_iter().zip(answers) {
            // A caller that went away has lost its answer, not the effect.
            let _ = reply.send(answer);
        }
        busy.record(started.elapsed());
    }
}

/// The commands that are still worth doing, and where their answers go. While more wait than fit, that leaves out those that would be
/// done too late.
#[allow(clippy::type_complexity, reason = "two vectors of the same length")]
fn take_those_in_time<C, R>(
    waiting: &mut Vec<Pending<C, R>>,
    now: Instant,
    pace: &Pace,
    wait: &metrics::Histogram,
) -> (Vec<C>, Vec<oneshot::Sender<Result<R, Error>>>) {
    let mut commands = Vec::with_capacity(waiting.len());
    let mut replies = Vec::with_capacity(waiting.len());
    let end = if waiting.len() < WIDTH { now } else { now + pace.recent() };
    for Pending { command, reply, since, deadline } in waiting.drain(..) {
        if reply.is_closed() {
            continue;
        }
        if deadline.is_some_and(|deadline| deadline <= end) {
            let _ = reply.send(Err(pace.refuse()));
            continue;
        }
        wait.record(now - since);
        commands.push(command);
        replies.push(reply);
    }
    (commands, replies)
}

/// Runs a batch to its end: every command has an answer afterwards.
fn settle<'a, C, R>(name: &'static str, work: &'a Work<C, R>, commands: &'a [C]) -> BoxFuture<'a, Vec<Result<R, Error>>>
where
    C: Send + Sync,
    R: Send,
{
    async move {
        let (started, mut races, mut reconnects) = (Instant::now(), 0, 0);
        loop {
            let error = match work(commands).await {
                Ok(answers) => return answers,
                Err(error) => error,
            };
            match error {
                db::Error::Lost if races < MAX_RACES && started.elapsed() < MAX_RACING => {
                    tokio::time::sleep(Duration::from_millis(u64::from(races.min(10)))).await;
                    races += 1;
                }
                db::Error::Away(_) if reconnects < MAX_RECONNECTS => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    reconnects += 1;
                }
                db::Error::Lost | db::Error::Defect(_) if commands.len() > 1 && started.elapsed() < MAX_RACING => {
                    tracing::warn!(lane = name, size = commands.len(), %error, "splitting a batch");
                    let (left, right) = commands.split_at(commands.len() / 2);
                    let mut answers = settle(name, work, left).await;
                    answers.extend(settle(name, work, right).await);
                    return answers;
                }
                error => {
                    let error = Error::from(error);
                    return commands.iter().map(|_| Err(error.clone())).collect();
                }
            }
        }
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

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
    async fn a_command_that_breaks_its_batch_fails_alone() {
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
    async fn a_panic_is_answered_and_the_lane_lives_on() {
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
    async fn a_lost_race_is_run_again_until_it_is_won() {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let (lane, _tasks) = lane(move |commands| {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            async move { if run < 3 { Err(db::Error::Lost) } else { echo(commands) } }.boxed()
        });
        assert_eq!(lane.submit(0, 1).await.unwrap(), 1);
        assert_eq!(runs.load(Ordering::SeqCst), 4);
    }

    /// A lane whose batches wait for a gate to open, and how many commands were started.
    fn gated() -> (Lane<u32, u32>, TaskTracker, tokio::sync::watch::Sender<bool>, Arc<AtomicUsize>) {
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = seen.clone();
        let (gate, open) = tokio::sync::watch::channel(false);
        let (lane, tasks) = lane(move |commands| {
            let (counted, mut open) = (counted.clone(), open.clone());
            async move {
                let _ = open.wait_for(|open| *open).await;
                counted.fetch_add(commands.len(), Ordering::SeqCst);
                echo(commands)
            }
            .boxed()
        });
        (lane, tasks, gate, seen)
    }

    #[tokio::test]
    async fn a_full_lane_refuses_at_once_and_a_withdrawn_command_is_never_started() {
        let (lane, tasks, gate, seen) = gated();
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
        gate.send_replace(true);
        first.await.unwrap().unwrap();
        drop(lane);
        tasks.close();
        tasks.wait().await;
        assert_eq!(seen.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_whose_deadline_has_passed_is_never_started() {
        let (lane, _tasks, gate, seen) = gated();
        let first = tokio::spawn({
            let lane = lane.clone();
            async move { lane.submit(0, 0).await }
        });
        tokio::task::yield_now().await;
        let deadline = Instant::now() + Duration::from_millis(20);
        let late = rpc::within(deadline, lane.submit(0, 1)).await;
        assert!(matches!(late, Err(Error::DeadlineExceeded)));
        // Nobody polled this one after its deadline, so it is still waiting for an answer.
        let mut unpolled = Box::pin(rpc::within(Instant::now() + Duration::from_millis(200), lane.submit(0, 2)));
        assert!(unpolled.as_mut().now_or_never().is_none());
        tokio::time::advance(Duration::from_millis(220)).await;
        gate.send_replace(true);
        first.await.unwrap().unwrap();
        assert_eq!(lane.submit(0, 3).await.unwrap(), 3);
        assert!(matches!(unpolled.await, Err(Error::DeadlineExceeded)));
        assert_eq!(seen.load(Ordering::SeqCst), 2);
    }

    /// A command that takes its worker with it when it is withdrawn.
    struct Fatal(bool);

    impl Drop for Fatal {
        fn drop(&mut self) {
            assert!(!self.0 || std::thread::panicking(), "planted");
        }
    }

    #[tokio::test]
    async fn a_worker_that_dies_is_replaced_and_its_callers_are_answered() {
        let (tasks, (gate, open)) = (TaskTracker::new(), tokio::sync::watch::channel(false));
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
        gate.send_replace(true);
        assert_eq!(first.await.unwrap().unwrap(), 1);
        assert!(matches!(neighbour.await.unwrap(), Err(Error::Internal(_))));
        assert_eq!(submit(false).await.unwrap().unwrap(), 1);
    }

    /// Calls that are answered in time, a second, when `rate` come each second and give up after `patience`, and those refused come back
    /// when they are told to: measured for two seconds after one to settle. A full batch takes 122 ms, so no more than 4,197 a second can be.
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
    async fn what_is_served_stays_the_same_when_ten_times_as_much_comes() {
        for patience in [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(30)] {
            let peak = goodput(4_000, patience).await;
            assert!(peak > 3_000, "{peak} with {patience:?}");
            for overload in [2, 5, 10] {
                let served = goodput(4_000 * overload, patience).await;
                assert!(served * 10 >= peak * 9, "{served} of {peak} at {overload} times with {patience:?}");
            }
        }
    }
}
