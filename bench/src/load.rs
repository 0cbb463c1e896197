//! The closed loop: so many connections, so many calls in flight on each, every answer checked and timed.

use std::{
    collections::BTreeMap,
    future::Future,
    ops::Range,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt;

use crate::Failure;

/// What has not been answered so long after a round was over is given up.
const GRACE: Duration = Duration::from_secs(30);

/// An answer that is not the right one.
#[derive(Debug)]
pub struct Miss(pub String);

impl Miss {
    /// An answer that should have been another.
    pub fn wrong(what: &str) -> Self {
        Self(format!("wrong: {what}"))
    }
}

impl From<Status> for Miss {
    fn from(status: Status) -> Self {
        Self(reason(&status))
    }
}

/// The reason that a failure carries, or its code where it has none.
pub fn reason(status: &Status) -> String {
    match status.get_details_error_info() {
        Some(info) => info.reason,
        // Made by the client's own transport, so its message says more.
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<(), Miss>> + Send>>;

/// One call over a connection, for the item with an index; says whether the answer was right.
#[derive(Clone)]
pub struct Call(Arc<dyn Fn(Channel, usize) -> Answer + Send + Sync>);

impl Call {
    /// Wraps a function that makes the call.
    pub fn new<F, A>(call: F) -> Self
    where
        F: Fn(Channel, usize) -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), Miss>> + Send + 'static,
    {
        Self(Arc::new(move |channel, index| Box::pin(call(channel, index))))
    }

    /// Makes one call.
    pub async fn make(&self, channel: Channel, index: usize) -> Result<(), Miss> {
        (self.0)(channel, index).await
    }
}

/// What a round calls for.
#[derive(Debug, Clone)]
pub enum Supply {
    /// Each item once.
    Once(Range<usize>),
    /// The items over and over, for so long.
    Over(Range<usize>, Duration),
}

/// What came of a round.
#[derive(Debug)]
pub struct Round {
    /// From the first call to the last answer.
    pub elapsed: Duration,
    /// Right answers.
    pub right: u64,
    /// What the other answers were, and how many.
    pub misses: BTreeMap<String, u64>,
    /// Latencies of the right answers in microseconds.
    pub latencies: Histogram<u64>,
}

/// Latencies as they are told.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Percentiles {
    /// Half of the calls took at most so many milliseconds.
    pub p50_ms: f64,
    /// 99 % of the calls.
    pub p99_ms: f64,
    /// 99.9 % of the calls.
    pub p999_ms: f64,
}

impl Round {
    fn new() -> Result<Self, Failure> {
        let latencies = Histogram::new_with_bounds(1, 120_000_000, 3)?;
        Ok(Self { elapsed: Duration::ZERO, right: 0, misses: BTreeMap::new(), latencies })
    }

    /// Right answers per second.
    pub fn rate(&self) -> f64 {
        self.right as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Answers that were not right, and calls that were never answered.
    pub fn errors(&self) -> u64 {
        self.misses.values().sum()
    }

    /// All calls that were made.
    pub fn calls(&self) -> u64 {
        self.right + self.errors()
    }

    /// Counts one answer.
    pub fn note(&mut self, answer: Result<(), Miss>, latency: Duration) {
        match answer {
            Ok(()) => {
                self.right += 1;
                self.latencies.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
            }
            Err(Miss(reason)) => *self.misses.entry(reason).or_default() += 1,
        }
    }

    /// The latencies' percentiles.
    pub fn percentiles(&self) -> Percentiles {
        percentiles(&self.latencies)
    }
}

/// Percentiles of a histogram of microseconds.
pub fn percentiles(histogram: &Histogram<u64>) -> Percentiles {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
    Percentiles { p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999) }
}

type Noted = (Result<(), Miss>, Duration);

/// Keeps `in_flight` calls under way on each of `channels` until the supply ends.
pub async fn closed_loop(channels: &[Channel], in_flight: u16, supply: &Supply, call: &Call) -> Result<Round, Failure> {
    let (items, time) = match supply {
        Supply::Once(items) => (items.clone(), None),
        Supply::Over(items, time) => (items.clone(), Some(*time)),
    };
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for channel in channels {
        for _ in 0..in_flight {
            let caller = Caller { channel: channel.clone(), call: call.clone(), next: next.clone() };
            callers.spawn(caller.run(items.clone(), time.map(|time| started + time)));
        }
    }
    let (mut round, mut lost) = (Round::new()?, 0);
    // A round of items that are called once has no time of its own; nothing sane takes longer than this.
    let deadline = started + time.unwrap_or(Duration::from_secs(120)) + GRACE;
    while !callers.is_empty() {
        match tokio::time::timeout_at(deadline.into(), callers.join_next()).await {
            Ok(Some(Ok(noted))) => noted.into_iter().for_each(|(answer, latency)| round.note(answer, latency)),
            Ok(Some(Err(_))) => lost += 1,
            Ok(None) => break,
            Err(_) => {
                lost += callers.len() as u64;
                callers.abort_all();
                break;
            }
        }
    }
    round.elapsed = started.elapsed();
    if lost > 0 {
        round.misses.insert("callers without an answer".to_owned(), lost);
    }
    Ok(round)
}

struct Caller {
    channel: Channel,
    call: Call,
    next: Arc<AtomicUsize>,
}

impl Caller {
    async fn run(self, items: Range<usize>, end: Option<Instant>) -> Vec<Noted> {
        let mut noted = Vec::new();
        loop {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let started = Instant::now();
            let over = match end {
                None => turn >= items.len(),
                Some(end) => started >= end || items.is_empty(),
            };
            if over {
                return noted;
            }
            let index = items.start + turn % items.len();
            let answer = self.call.make(self.channel.clone(), index).await;
            noted.push((answer, started.elapsed()));
        }
    }
}
