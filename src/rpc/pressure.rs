//! Computes the retry delay of refused calls. The delay grows with the number of refusals per second. The delay has
//! jitter, so that retries do not arrive at the same time.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Duration of the window in which refusals are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// Minimum delay, before the jitter.
const MIN_DELAY: Duration = Duration::from_millis(500);
/// Maximum delay, before the jitter.
const MAX_DELAY: Duration = Duration::from_secs(5);
/// Source of the jitter. The multiples of this number, modulo 1, are spread evenly from 0 to 1.
const GOLDEN_RATIO: f64 = 0.618_033_988_749_895;

/// Counts the recent refusals of a limit or of a worker of a lane.
pub struct Pressure {
    capacity: f64,
    window: Mutex<Window>,
}

struct Window {
    since: Instant,
    refused: u32,
    refused_before: u32,
}

impl Pressure {
    /// Returns a counter for a limit of `capacity` permits, or for a worker with a queue of `capacity` commands.
    pub fn new(capacity: usize) -> Self {
        let window = Window { since: Instant::now(), refused: 0, refused_before: 0 };
        Self { capacity: capacity.max(1) as f64, window: Mutex::new(window) }
    }

    /// Counts a refusal and returns the retry delay.
    pub fn refuse(&self) -> Duration {
        self.refuse_at(Instant::now())
    }

    /// Counts a refusal at `now` and returns the retry delay.
    ///
    /// In seconds, the delay is refusals per second divided by the capacity. It is at least 0.5 s and at most 5 s, plus
    /// or minus 50 %. So the number of retries per second is about the capacity or lower, unless the delay has reached
    /// its maximum.
    fn refuse_at(&self, now: Instant) -> Duration {
        let mut window = self.window.lock();
        let age = now.saturating_duration_since(window.since);
        if age >= WINDOW {
            let refused_before = if age < 2 * WINDOW { window.refused } else { 0 };
            *window = Window { since: now, refused: 0, refused_before };
        }
        window.refused = window.refused.saturating_add(1);
        let fills = f64::from(window.refused.max(window.refused_before)) / self.capacity;
        let delay = WINDOW.mul_f64(fills.min(MAX_DELAY.as_secs_f64())).clamp(MIN_DELAY, MAX_DELAY);
        delay.mul_f64(0.5 + (f64::from(window.refused) * GOLDEN_RATIO).fract())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_with_the_number_refused_and_is_bounded() {
        let pressure = Pressure::new(1_000);
        let now = Instant::now();
        let longest = |refusals: u32| (0..refusals).map(|_| pressure.refuse_at(now)).max().unwrap();
        assert!(longest(100) <= Duration::from_millis(750));
        assert!(longest(2_900) > Duration::from_secs(3));
        assert!(longest(100_000) <= Duration::from_millis(7_500));
        // Refusals of the previous second are counted. Older refusals are not.
        assert!(pressure.refuse_at(now + WINDOW) > Duration::from_secs(2));
        assert!(pressure.refuse_at(now + 4 * WINDOW) <= Duration::from_millis(750));
    }

    #[test]
    fn calls_refused_at_the_same_time_do_not_retry_at_the_same_time() {
        let pressure = Pressure::new(1_000_000);
        let now = Instant::now();
        let mut delays: Vec<Duration> = (0..100).map(|_| pressure.refuse_at(now)).collect();
        delays.sort_unstable();
        let gaps = delays.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.max().unwrap() < Duration::from_millis(15), "{delays:?}");
        assert!(delays[99] - delays[0] > Duration::from_millis(480), "{delays:?}");
    }
}
