//! When who is refused should try again: the more are refused, the later, and never all at once.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(5);
/// Multiples of it, modulo 1, fill the interval evenly however many there are.
const GOLDEN_RATIO: f64 = 0.618_033_988_749_895;

/// How many were refused of late.
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
    /// Nobody was refused yet by what takes on `capacity` at a time.
    pub fn new(capacity: usize) -> Self {
        let window = Window { since: Instant::now(), refused: 0, refused_before: 0 };
        Self { capacity: capacity.max(1) as f64, window: Mutex::new(window) }
    }

    /// Refuses somebody; returns when to try again.
    pub fn refuse(&self) -> Duration {
        self.refuse_at(Instant::now())
    }

    /// As many seconds as those refused within a second would fill what refuses them, give or take a half: their retries are spread
    /// over that time, so that they come no faster than they can be served.
    fn refuse_at(&self, now: Instant) -> Duration {
        let mut window = self.window.lock();
        let age = now.saturating_duration_since(window.since);
        if age >= WINDOW {
            let refused_before = if age < 2 * WINDOW { window.refused } else { 0 };
            *window = Window { since: now, refused: 0, refused_before };
        }
        window.refused = window.refused.saturating_add(1);
        let fills = f64::from(window.refused.max(window.refused_before)) / self.capacity;
        let delay = WINDOW.mul_f64(fills.min(LONGEST.as_secs_f64())).clamp(SHORTEST, LONGEST);
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
        // What was refused in the second before still counts, what was refused before that does not.
        assert!(pressure.refuse_at(now + WINDOW) > Duration::from_secs(2));
        assert!(pressure.refuse_at(now + 4 * WINDOW) <= Duration::from_millis(750));
    }

    #[test]
    fn those_refused_at_once_do_not_come_back_at_once() {
        let pressure = Pressure::new(1_000_000);
        let now = Instant::now();
        let mut delays: Vec<Duration> = (0..100).map(|_| pressure.refuse_at(now)).collect();
        delays.sort_unstable();
        let gaps = delays.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.max().unwrap() < Duration::from_millis(15), "{delays:?}");
        assert!(delays[99] - delays[0] > Duration::from_millis(480), "{delays:?}");
    }
}
