//! Decides which commands a worker refuses because it cannot answer them in time.
//!
//! With a long queue, a worker would run commands whose callers no longer wait. So a command is refused immediately if
//! the batches before it will take too long. The duration of recent batches is the estimate for the next batches.
//!
//! A command that fits into the next batch may wait until its deadline, because a refusal would not make other commands
//! faster. If no other command waits, a command is always accepted, so that the estimate stays current.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use metrics::Counter;
use tokio::time::Instant;

use crate::rpc::{Error, Pressure};

/// Maximum number of commands in one batch.
pub const WIDTH: usize = 512;
/// Maximum number of commands that wait for one worker. Further commands are refused.
pub const CAPACITY: usize = 8_192;
/// Maximum time until the batch of a command begins. This limit does not apply to commands that fit into the next
/// batch.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const IDLE: u64 = u64::MAX;

/// Measures the duration of the batches of a worker, and decides whether the worker accepts a command.
pub struct Pace {
    origin: Instant,
    /// Average duration of recent batches, in microseconds; 0 before the first batch. Each new batch has a weight of
    /// one half.
    recent: AtomicU64,
    /// The start of the running batch, in microseconds after the origin, or [`IDLE`].
    began: AtomicU64,
    pressure: Pressure,
    shed: Counter,
}

impl Pace {
    /// Returns the pace of a new worker. `name` is the name of the lane.
    pub fn new(name: &'static str) -> Self {
        Self {
            shed: metrics::counter!("boxoffice_shed_total", "limit" => name),
            origin: Instant::now(),
            recent: AtomicU64::new(0),
            began: AtomicU64::new(IDLE),
            pressure: Pressure::new(CAPACITY),
        }
    }

    /// Records the start of a batch.
    pub fn begin(&self, now: Instant) {
        self.began.store(micros(now.saturating_duration_since(self.origin)), Ordering::Relaxed);
    }

    /// Records the end of a batch. The duration counts only if the batch was `served`: if the database could not be
    /// reached, the duration is no estimate for other batches.
    pub fn end(&self, took: Duration, served: bool) {
        self.began.store(IDLE, Ordering::Relaxed);
        if served {
            let recent = self.recent.load(Ordering::Relaxed);
            let recent = if recent == 0 { micros(took) } else { u64::midpoint(recent, micros(took)) };
            self.recent.store(recent, Ordering::Relaxed);
        }
    }

    /// Returns the average duration of recent batches; zero before the end of the first batch.
    pub fn recent(&self) -> Duration {
        Duration::from_micros(self.recent.load(Ordering::Relaxed))
    }

    /// Accepts a command if the estimates say that the worker can run it in time. `waiting` is the number of commands
    /// before it. `patience` is the time until its deadline; `None` means no deadline.
    ///
    /// A command without other commands before it is always accepted. Fails with OVERLOADED if the command does not fit
    /// into the next batch and would wait for more than 1 second. Also fails with OVERLOADED if the answer would come
    /// after the deadline. Fails with STORAGE_UNAVAILABLE instead if the deadline would pass and the running batch
    /// hangs, because the database is then the probable cause.
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
        // The durations of batches vary, so add a quarter. An answer after the deadline is wasted work.
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

    /// Returns the time since the running batch began; `None` if no batch runs.
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

    /// Returns the pace of a worker with batches of 100 ms, and the start of the running batch.
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
        // 100 ms later, the running batch counts as complete, so the command waits for one batch fewer.
        pace.admit(now + millis(100), 10 * WIDTH, None).unwrap();
    }

    #[test]
    fn a_command_is_refused_if_its_deadline_passes_before_its_answer() {
        let (pace, now) = busy();
        pace.admit(now, 1, Some(millis(250))).unwrap();
        assert!(matches!(pace.admit(now, 1, Some(millis(150))), Err(Error::Overloaded { .. })));
        assert!(pace.admit(now, 2 * WIDTH, Some(millis(250))).is_err());
    }

    #[test]
    fn a_command_that_fits_the_next_batch_is_accepted_even_if_the_database_is_slow() {
        let pace = Pace::new("test");
        pace.end(3 * SECOND, true);
        pace.begin(pace.origin);
        pace.admit(pace.origin, WIDTH - 1, Some(30 * SECOND)).unwrap();
        assert!(pace.admit(pace.origin, WIDTH, Some(30 * SECOND)).is_err());
    }

    #[test]
    fn a_command_is_accepted_if_no_other_command_waits() {
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
    fn a_batch_that_hangs_means_that_the_database_is_unavailable() {
        let (pace, now) = busy();
        pace.admit(now + 2 * SECOND, 1, Some(30 * SECOND)).unwrap();
        assert!(matches!(pace.admit(now + 2 * SECOND, 1, Some(SECOND)), Err(Error::StorageUnavailable)));
        // The duration of a batch that could not reach the database does not count.
        pace.end(2 * SECOND, false);
        pace.admit(now + 2 * SECOND, 9 * WIDTH, None).unwrap();
    }
}
