//! The closed loop: a fixed number of connections, with a fixed number of callers on each connection. A caller makes
//! its next call when it has the answer to its previous call. Every answer is checked and timed.

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
use testkit::Failure;
use tokio::task::JoinSet;
use tonic::{Status, transport::Channel};

/// Maximum time between the planned end of a round and its last answer.
const GRACE: Duration = Duration::from_secs(30);

/// The reason why an answer is wrong, or why the call failed.
#[derive(Debug)]
pub struct Miss(pub String);

impl Miss {
    /// Returns the miss for a successful answer with wrong contents. `what` is a sentence about the fault.
    pub fn wrong(what: &str) -> Self {
        Self(format!("wrong: {what}"))
    }
}

impl From<Status> for Miss {
    fn from(status: Status) -> Self {
        Self(reason(&status))
    }
}

/// Returns the `ErrorInfo` reason of an error, or its code and message if it has no reason.
pub fn reason(status: &Status) -> String {
    // A status without a reason comes from the client's own transport. Its message says more than its code.
    testkit::reason(status).unwrap_or_else(|| format!("{:?}: {}", status.code(), status.message()))
}

type Answer = Pin<Box<dyn Future<Output = Result<(), Miss>> + Send>>;

/// A function that makes one call over a connection. The second argument is the index of the item, such as a user. The
/// result is an error unless the answer is correct.
#[derive(Clone)]
pub struct Call(Arc<dyn Fn(Channel, usize) -> Answer + Send + Sync>);

impl Call {
    /// Wraps the function `call`.
    pub fn new<F, A>(call: F) -> Self
    where
        F: Fn(Channel, usize) -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), Miss>> + Send + 'static,
    {
        Self(Arc::new(move |channel, index| Box::pin(call(channel, index))))
    }

    /// Makes the call for the item `index`.
    pub async fn make(&self, channel: Channel, index: usize) -> Result<(), Miss> {
        (self.0)(channel, index).await
    }
}

/// The indices of the items for which a round makes calls.
#[derive(Debug, Clone)]
pub enum Supply {
    /// Each item once, in ascending order.
    Once(Range<usize>),
    /// Each item once, in the given order.
    InOrder(Arc<[usize]>),
    /// The items in ascending order, again and again until the time is over.
    Over(Range<usize>, Duration),
}

/// The results of a round.
#[derive(Debug)]
pub struct Round {
    /// The time from the first call to the last answer.
    pub elapsed: Duration,
    /// The number of correct answers.
    pub right: u64,
    /// The number of wrong, failed and missing answers, by reason.
    pub misses: BTreeMap<String, u64>,
    /// The latencies of the correct answers, in microseconds.
    pub latencies: Histogram<u64>,
}

/// The percentiles of latencies in a report.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Percentiles {
    /// The 50th percentile, in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile, in milliseconds.
    pub p99_ms: f64,
    /// The 99.9th percentile, in milliseconds.
    pub p999_ms: f64,
}

impl Round {
    /// Returns a round without answers.
    pub fn new() -> Result<Self, Failure> {
        let latencies = Histogram::new_with_bounds(1, 120_000_000, 3)?;
        Ok(Self { elapsed: Duration::ZERO, right: 0, misses: BTreeMap::new(), latencies })
    }

    /// Returns the number of correct answers per second.
    pub fn rate(&self) -> f64 {
        self.right as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Returns the number of wrong, failed and missing answers.
    pub fn errors(&self) -> u64 {
        self.misses.values().sum()
    }

    /// Returns the total number of correct, wrong, failed and missing answers.
    pub fn calls(&self) -> u64 {
        self.right + self.errors()
    }

    /// Counts one answer. The latency is recorded only if the answer is correct.
    pub fn note(&mut self, answer: Result<(), Miss>, latency: Duration) {
        match answer {
            Ok(()) => {
                self.right += 1;
                self.latencies.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
            }
            Err(Miss(reason)) => *self.misses.entry(reason).or_default() += 1,
        }
    }

    /// Returns the percentiles of the latencies of the correct answers.
    pub fn percentiles(&self) -> Percentiles {
        percentiles(&self.latencies)
    }
}

/// Returns the percentiles of a histogram of microseconds.
pub fn percentiles(histogram: &Histogram<u64>) -> Percentiles {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
    Percentiles { p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999) }
}

/// Returns the median; NaN if there are no figures.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    match (figures.len(), figures.len() / 2) {
        (0, _) => f64::NAN,
        (count, middle) if count % 2 == 1 => figures[middle],
        (_, middle) => f64::midpoint(figures[middle - 1], figures[middle]),
    }
}

type Noted = (Result<(), Miss>, Duration);

/// Makes calls until the supply ends, with `in_flight` callers on each of `channels`.
///
/// A caller without an answer 30 seconds after the planned end is stopped. This caller counts as one missing answer,
/// and its earlier answers are not counted. If the supply has no duration, the planned end is 2 minutes after the
/// start.
pub async fn closed_loop(channels: &[Channel], in_flight: u16, supply: &Supply, call: &Call) -> Result<Round, Failure> {
    let (items, time): (Arc<[usize]>, _) = match supply {
        Supply::Once(items) => (items.clone().collect(), None),
        Supply::InOrder(items) => (items.clone(), None),
        Supply::Over(items, time) => (items.clone().collect(), Some(*time)),
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
    // A round that uses each item once has no planned duration. Two minutes are far more than such a round needs.
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
    async fn run(self, items: Arc<[usize]>, end: Option<Instant>) -> Vec<Noted> {
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
            let index = items[turn % items.len()];
            let answer = self.call.make(self.channel.clone(), index).await;
            noted.push((answer, started.elapsed()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_round_does_not_move_the_median() {
        assert!((median(vec![3.0, 900.0, 1.0]) - 3.0).abs() < 1e-9);
        assert!((median(vec![4.0, 2.0]) - 3.0).abs() < 1e-9);
    }
}
