//! Decides which commands a worker refuses: those that it could not answer in time.
//!
//! If the queue is longer than callers wait, the worker does work for callers that have gone. So a command is refused
//! immediately when the batches before it will take too long, judged by how long recent batches took.
//!
//! A command that fits the next batch may wait for any time that its caller allows, since refusing it would make
//! nothing faster. A command that finds no other waiting is always taken, so that there are recent batches to judge by.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use metrics::Counter;
use tokio::time::Instant;

use crate::rpc::{Error, Pressure};

/// Maximum number of commands in one batch.
pub const WIDTH: usize = 512;
/// Maximum number of commands that wait for one worker; further ones are refused.
pub const CAPACITY: usize = 8_192;
/// How long a command may wait for its batch to begin, unless it fits the next batch.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const IDLE: u64 = u64::MAX;

/// How fast a worker is.
pub struct Pace {
    origin: Instant,
    /// How long recent batches took, in microseconds: each new batch counts half.
    recent: AtomicU64,
    /// When the running batch began, in microseconds after the origin, or [`IDLE`].
    began: AtomicU64,
    pressure: Pressure,
    shed: Counter,
}

impl Pace {
    /// Returns the pace of a worker that has run no batch. `name` is the lane's.
    pub fn new(name: &'static str) -> Self {
        Self {
            shed: metrics::counter!("boxoffice_shed_total", "limit" => name),
            origin: Instant::now(),
            recent: AtomicU64::new(0),
            began: AtomicU64::new(IDLE),
            pressure: Pressure::new(CAPACITY),
        }
    }

    /// Notes that a batch begins.
    pub fn begin(&self, now: Instant) {
        self.began.store(micros(now.saturating_duration_since(self.origin)), Ordering::Relaxed);
    }

    /// Notes that the batch ended. A batch that was not `served`, because the database could not be reached, says
    /// nothing about the others.
    pub fn end(&self, took: Duration, served: bool) {
        self.began.store(IDLE, Ordering::Relaxed);
        if served {
            let recent = self.recent.load(Ordering::Relaxed);
            let recent = if recent == 0 { micros(took) } else { u64::midpoint(recent, micros(took)) };
            self.recent.store(recent, Ordering::Relaxed);
        }
    }

    /// Returns how long recent batches took.
    pub fn recent(&self) -> Duration {
        Duration::from_micros(self.recent.load(Ordering::Relaxed))
    }

    /// Lets a command wait behind `waiting` others if it can be answered within its caller's `patience`.
    ///
    /// Fails with OVERLOADED. Fails with STORAGE_UNAVAILABLE if the running batch hangs, because then the database is
    /// the cause.
    pub fn admit(&self, now: Instant, waiting: usize, patience: Option<Duration>) -> Result<(), Error> {
        if waiting == 0 {
            return Ok(());
        }
        let (recent, elapsed) = (self.recent(), self.elapsed(now));
        let batch = recent.max(elapsed.unwrap_or_default());
        let batches_before = u32::try_from(waiting / WIDTH).unwrap_or(u32::MAX);
        let under_way = elapsed.map_or(Duration::ZERO, |elapsed| recent.saturating_sub(elapsed));
        let start = batch.saturating_mul(batches_before).saturating_add(under_way);
        if batches_before > 0 && start > LONGEST_WAIT {
            return Err(self.refuse());
        }
        // Batches vary, so a quarter more is allowed for: an answer that comes too late is wasted work.
        if patience.is_none_or(|patience| start + batch + batch / 4 <= patience) {
            return Ok(());
        }
        let stalls = elapsed.is_some_and(|elapsed| elapsed > LONGEST_WAIT.max(2 * recent));
        Err(if stalls { Error::StorageUnavailable } else { self.refuse() })
    }

    /// Counts a refusal and returns the error for it.
    pub fn refuse(&self) -> Error {
        self.shed.increment(1);
        Error::Overloaded { retry_after: self.pressure.refuse() }
    }

    /// Returns how long the running batch has taken so far.
    fn elapsed(&self, now: Instant) -> Option<Duration> {
        let began = self.began.load(Ordering::Relaxed);
        let now = micros(now.saturating_duration_since(self.origin));
        (began != IDLE).then(|| Duration::from_micros(now.saturating_sub(began)))
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(IDLE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Returns a pace of batches of 100 ms each, and the instant at which one began.
    fn busy() -> (Pace, Instant) {
        let pace = Pace::new("test");
        let now = pace.origin + SECOND;
        pace.end(millis(100), true);
        pace.begin(now);
        (pace, now)
    }

    #[test]
    fn a_command_is_refused_when_the_batches_before_it_take_too_long() {
        let (pace, now) = busy();
        pace.admit(now, 9 * WIDTH, Some(30 * SECOND)).unwrap();
        assert!(matches!(pace.admit(now, 10 * WIDTH, Some(30 * SECOND)), Err(Error::Overloaded { .. })));
        assert!(pace.admit(now, 10 * WIDTH, None).is_err());
        // When the running batch is done, there is one batch less to wait for.
        pace.admit(now + millis(100), 10 * WIDTH, None).unwrap();
    }

    #[test]
    fn a_command_is_refused_when_its_caller_will_have_gone() {
        let (pace, now) = busy();
        pace.admit(now, 1, Some(millis(250))).unwrap();
        assert!(matches!(pace.admit(now, 1, Some(millis(150))), Err(Error::Overloaded { .. })));
        assert!(pace.admit(now, 2 * WIDTH, Some(millis(250))).is_err());
    }

    #[test]
    fn a_command_that_fits_the_next_batch_is_taken_however_slow_the_database_is() {
        let pace = Pace::new("test");
        pace.end(3 * SECOND, true);
        pace.begin(pace.origin);
        pace.admit(pace.origin, WIDTH - 1, Some(30 * SECOND)).unwrap();
        assert!(pace.admit(pace.origin, WIDTH, Some(30 * SECOND)).is_err());
    }

    #[test]
    fn a_command_that_finds_no_other_waiting_is_taken_so_that_the_pace_is_known_again() {
        let pace = Pace::new("test");
        pace.end(10 * SECOND, true);
        pace.admit(pace.origin, 0, Some(millis(1))).unwrap();
        assert!(pace.admit(pace.origin, 1, Some(SECOND)).is_err());
        for _ in 0..5 {
            pace.end(millis(1), true);
        }
        pace.admit(pace.origin, 1, Some(SECOND)).unwrap();
    }

    #[test]
    fn a_batch_that_hangs_is_the_databases_fault() {
        let (pace, now) = busy();
        pace.admit(now + 2 * SECOND, 1, Some(30 * SECOND)).unwrap();
        assert!(matches!(pace.admit(now + 2 * SECOND, 1, Some(SECOND)), Err(Error::StorageUnavailable)));
        // A batch that failed without the database does not count as a slow one.
        pace.end(2 * SECOND, false);
        pace.admit(now + 2 * SECOND, 9 * WIDTH, None).unwrap();
    }
}
