//! Whom a worker refuses: those it would not come to in time.
//!
//! A queue that is longer than its callers are patient does work for nobody: by the time it comes to a command, the caller has gone. So a
//! command is refused at once when the batches before it will take too long, going by the batches of late. What fits the next batch
//! is taken all the same, since refusing it would make nothing faster, and a command that finds nobody waiting always, so that there
//! are always batches to go by.

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
/// How long a command may wait for its batch to begin.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const IDLE: u64 = u64::MAX;

/// How fast a worker gets through its batches.
pub struct Pace {
    origin: Instant,
    /// How long batches took of late, in microseconds.
    recent: AtomicU64,
    /// When the batch under way began, in microseconds after the origin.
    began: AtomicU64,
    pressure: Pressure,
    shed: Counter,
}

impl Pace {
    /// No batches yet. `name` is the lane's.
    pub fn new(name: &'static str) -> Self {
        Self {
            shed: metrics::counter!("boxoffice_shed_total", "limit" => name),
            origin: Instant::now(),
            recent: AtomicU64::new(0),
            began: AtomicU64::new(IDLE),
            pressure: Pressure::new(CAPACITY),
        }
    }

    /// A batch begins.
    pub fn begin(&self, now: Instant) {
        self.began.store(micros(now.saturating_duration_since(self.origin)), Ordering::Relaxed);
    }

    /// The batch ended. `served`: the database did serve; how long it takes to find out that it does not says nothing about batches.
    pub fn end(&self, took: Duration, served: bool) {
        self.began.store(IDLE, Ordering::Relaxed);
        if served {
            let recent = self.recent.load(Ordering::Relaxed);
            let recent = if recent == 0 { micros(took) } else { u64::midpoint(recent, micros(took)) };
            self.recent.store(recent, Ordering::Relaxed);
        }
    }

    /// How long batches took of late.
    pub fn recent(&self) -> Duration {
        Duration::from_micros(self.recent.load(Ordering::Relaxed))
    }

    /// Whether a command may wait behind `waiting` others when its caller has `patience`; fails with OVERLOADED, or with
    /// STORAGE_UNAVAILABLE if there would be time and it is the batch under way that does not come back.
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
        // With a quarter more, since batches are not all alike: what comes too late was done for nobody.
        if patience.is_none_or(|patience| start + batch + batch / 4 <= patience) {
            return Ok(());
        }
        let stalls = elapsed.is_some_and(|elapsed| elapsed > LONGEST_WAIT.max(2 * recent));
        Err(if stalls { Error::StorageUnavailable } else { self.refuse() })
    }

    /// Refuses a command.
    pub fn refuse(&self) -> Error {
        self.shed.increment(1);
        Error::Overloaded { retry_after: self.pressure.refuse() }
    }

    /// How long the batch under way has been.
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

    /// A pace of batches of 100 ms each, one of which began just now.
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
        // When the batch under way is done there is one less to wait for.
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
    fn what_fits_the_next_batch_is_taken_however_slow_the_database_is() {
        let pace = Pace::new("test");
        pace.end(3 * SECOND, true);
        pace.begin(pace.origin);
        pace.admit(pace.origin, WIDTH - 1, Some(30 * SECOND)).unwrap();
        assert!(pace.admit(pace.origin, WIDTH, Some(30 * SECOND)).is_err());
    }

    #[test]
    fn who_finds_nobody_waiting_is_taken_so_that_the_pace_is_known_again() {
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
    fn a_batch_that_does_not_come_back_is_the_databases_fault() {
        let (pace, now) = busy();
        pace.admit(now + 2 * SECOND, 1, Some(30 * SECOND)).unwrap();
        assert!(matches!(pace.admit(now + 2 * SECOND, 1, Some(SECOND)), Err(Error::StorageUnavailable)));
        // That it was away for long does not make the batches after it slow.
        pace.end(2 * SECOND, false);
        pace.admit(now + 2 * SECOND, 9 * WIDTH, None).unwrap();
    }
}
