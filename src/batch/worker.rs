//! A worker of a lane. Takes the waiting commands, up to [`WIDTH`], runs them as one batch, and answers each caller.
//!
//! Each batch runs in a separate task. So a panic in a batch does not end the worker, and a caller that cancels its
//! call does not interrupt the transaction. While the callers of a large batch get their answers, the next batch runs.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::pace::{CAPACITY, Pace, WIDTH};
use crate::{
    db,
    rpc::{
        self, Error,
        trace::{self, Traced},
    },
};

/// The outcome of a batch: an answer for each command, in the order of the commands. If the batch failed, nothing was
/// written, unless the error is [`db::Error::Unknown`].
pub type Batch<R> = Result<Vec<Result<R, Error>>, db::Error>;

/// The operation of a lane, on a slice of commands.
pub type Work<C, R> = Arc<dyn for<'a> Fn(&'a [C]) -> BoxFuture<'a, Batch<R>> + Send + Sync>;

/// Maximum number of retries of a batch that conflicts with another transaction. In most conflicts the other
/// transaction commits, so 20 conflicts in a row are unlikely.
const MAX_RACES: u32 = 20;
/// Time since the first run of a batch. After this time, the batch is neither retried after a conflict nor split.
const MAX_RACING: Duration = Duration::from_secs(4);
/// Maximum number of retries of a batch if the database cannot be reached. Two retries are enough to replace a stale
/// connection.
const MAX_RECONNECTS: u32 = 2;
/// Number of answers that a worker sends at once. All of their callers can become active at the same time, so a larger
/// group would delay the next batch.
const ANSWER_GROUP: usize = 16;

/// A command that waits for a worker.
struct Pending<C, R> {
    command: C,
    reply: oneshot::Sender<Result<R, Error>>,
    since: Instant,
    deadline: Option<Instant>,
    /// The span of the call, if it is traced.
    call: Option<Traced>,
}

/// The commands of a batch, the channels for their answers, and the spans of the traced calls.
struct Taken<C, R> {
    commands: Vec<C>,
    replies: Vec<oneshot::Sender<Result<R, Error>>>,
    calls: Vec<Traced>,
}

/// The queue of a worker, and the pace of the worker.
pub struct Worker<C, R> {
    queue: mpsc::Sender<Pending<C, R>>,
    pace: Arc<Pace>,
}

impl<C, R> Worker<C, R>
where
    C: Send + Sync + 'static,
    R: Send + 'static,
{
    /// Starts a worker, which `tasks` tracks. `name` is the name of the lane, and `number` is the index of the worker
    /// in the lane.
    pub fn start(name: &'static str, number: usize, tasks: &TaskTracker, work: Work<C, R>) -> Self {
        let (sender, queue) = mpsc::channel(CAPACITY);
        let pace = Arc::new(Pace::new(name));
        tasks.spawn(supervise(name, number, queue, work, pace.clone()));
        Self { queue: sender, pace }
    }

    /// Queues a command and returns its answer. Dropping the future cancels a command that was not started.
    ///
    /// Fails as [`Pace::admit`] does. Fails with OVERLOADED if the queue is full, or if the deadline passes before the
    /// command starts. Fails with SHUTTING_DOWN if the worker has ended.
    pub async fn submit(&self, command: C) -> Result<R, Error> {
        let (since, patience) = (Instant::now(), rpc::remaining());
        self.pace.admit(since, self.queue.max_capacity() - self.queue.capacity(), patience)?;
        let (reply, answer) = oneshot::channel();
        let deadline = patience.map(|patience| since + patience);
        let pending = Pending { command, reply, since, deadline, call: trace::current() };
        self.queue.try_send(pending).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => self.pace.refuse(),
            mpsc::error::TrySendError::Closed(_) => Error::ShuttingDown,
        })?;
        answer.await.unwrap_or_else(|_| Err(Error::internal("a command was lost with its worker")))
    }

    /// Queues a command and returns its answer. If the queue is full, waits for space. The command has no deadline.
    /// Fails with SHUTTING_DOWN if the worker has ended.
    pub async fn submit_patiently(&self, command: C) -> Result<R, Error> {
        let (reply, answer) = oneshot::channel();
        let pending = Pending { command, reply, since: Instant::now(), deadline: None, call: trace::current() };
        self.queue.send(pending).await.map_err(|_| Error::ShuttingDown)?;
        answer.await.unwrap_or_else(|_| Err(Error::internal("a command was lost with its worker")))
    }
}

/// Restarts a worker after a panic. The callers of the failed batch receive INTERNAL. The new worker continues with the
/// same queue.
async fn supervise<C, R>(
    name: &'static str,
    number: usize,
    mut queue: mpsc::Receiver<Pending<C, R>>,
    work: Work<C, R>,
    pace: Arc<Pace>,
) where
    C: Send + Sync + 'static,
    R: Send + 'static,
{
    while let Err(panic) = AssertUnwindSafe(serve(name, number, &mut queue, &work, &pace)).catch_unwind().await {
        let error = rpc::caught("worker", panic);
        tracing::error!(lane = name, cause = ?error, "a worker panicked and was replaced");
    }
}

async fn serve<C, R>(
    name: &'static str,
    number: usize,
    queue: &mut mpsc::Receiver<Pending<C, R>>,
    work: &Work<C, R>,
    pace: &Pace,
) where
    C: Send + Sync + 'static,
    R: Send + 'static,
{
    let size = metrics::histogram!("boxoffice_lane_batch_size", "lane" => name);
    let wait = metrics::histogram!("boxoffice_lane_wait_seconds", "lane" => name);
    let busy = metrics::histogram!("boxoffice_lane_batch_seconds", "lane" => name, "worker" => number.to_string());
    let mut waiting = Vec::new();
    let mut answering: Option<JoinHandle<()>> = None;
    while queue.recv_many(&mut waiting, WIDTH).await > 0 {
        let started = Instant::now();
        let Taken { commands, replies, calls } = take_those_in_time(&mut waiting, started, pace, &wait);
        if commands.is_empty() {
            continue;
        }
        size.record(commands.len() as f64);
        pace.begin(started);
        let work = work.clone();
        let mut span = trace::batch(name, commands.len(), &calls);
        let batch = tokio::spawn(async move {
            let answers = trace::run(span.as_deref(), settle(name, &work, &commands)).await;
            if let Some(span) = span.as_mut().filter(|_| !is_served(&answers)) {
                span.set_failed();
            }
            answers
        });
        let answers = batch.await.unwrap_or_else(|death| {
            let error = match death.try_into_panic() {
                Ok(panic) => rpc::caught("batch", panic),
                Err(cancelled) => Error::internal(cancelled),
            };
            replies.iter().map(|_| Err(error.clone())).collect()
        });
        pace.end(started.elapsed(), is_served(&answers));
        wait_for(&mut answering).await;
        if answers.len() > ANSWER_GROUP {
            answering = Some(tokio::spawn(answer_all(replies, answers)));
        } else {
            answer_all(replies, answers).await;
        }
        busy.record(started.elapsed());
    }
    wait_for(&mut answering).await;
}

/// Waits for the end of the task that sends the answers of a batch.
async fn wait_for(answering: &mut Option<JoinHandle<()>>) {
    if let Some(task) = answering.take() {
        let _ = task.await;
    }
}

/// Sends the answers of a batch to its callers. After each group of answers, other tasks can run.
async fn answer_all<R>(replies: Vec<oneshot::Sender<Result<R, Error>>>, answers: Vec<Result<R, Error>>) {
    for (index, (reply, answer)) in replies.into_iter().zip(answers).enumerate() {
        if index > 0 && index % ANSWER_GROUP == 0 {
            tokio::task::yield_now().await;
        }
        // If the caller has cancelled the call, its answer is dropped, but the command may have taken effect.
        let _ = reply.send(answer);
    }
}

/// Returns `false` if every command failed because the database was unavailable or the outcome of the commit is
/// unknown.
fn is_served<R>(answers: &[Result<R, Error>]) -> bool {
    !answers.iter().all(|answer| matches!(answer, Err(Error::StorageUnavailable | Error::OutcomeUnknown { .. })))
}

/// Returns the commands to run.
///
/// Removes commands that were cancelled. Answers commands whose deadline has passed with OVERLOADED. If the batch is
/// full, does the same with commands whose answer would probably come after their deadline.
fn take_those_in_time<C, R>(
    waiting: &mut Vec<Pending<C, R>>,
    now: Instant,
    pace: &Pace,
    wait: &metrics::Histogram,
) -> Taken<C, R> {
    let (mut commands, mut replies) = (Vec::with_capacity(waiting.len()), Vec::with_capacity(waiting.len()));
    let mut calls = Vec::new();
    let end = if waiting.len() < WIDTH { now } else { now + pace.recent() };
    for Pending { command, reply, since, deadline, call } in waiting.drain(..) {
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
        calls.extend(call);
    }
    Taken { commands, replies, calls }
}

/// Runs a batch until every command has an answer. After an error, it retries the batch or splits it in two.
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
                    metrics::counter!("boxoffice_lane_reruns_total", "lane" => name).increment(1);
                    tokio::time::sleep(Duration::from_millis(u64::from(races.min(10)))).await;
                    races += 1;
                }
                db::Error::Away(_) if reconnects < MAX_RECONNECTS => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    reconnects += 1;
                }
                db::Error::Lost | db::Error::Defect(_) if commands.len() > 1 && started.elapsed() < MAX_RACING => {
                    tracing::warn!(lane = name, size = commands.len(), %error, "a batch failed and is split in two");
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
