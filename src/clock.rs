//! The clock that all time-dependent code uses. An instant is a whole number of microseconds since the Unix epoch, in
//! UTC.
//!
//! On PostgreSQL all replicas use the database's clock. Each replica reads that clock every few seconds. Between two
//! readings it adds the time of its machine's monotonic clock. So a replica with a wrong system clock still has the
//! same time as the other replicas.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::RwLock;
use tokio::sync::watch;

/// Microseconds since the Unix epoch, or a duration in microseconds.
pub type Micros = i64;

/// Age after which a less precise reading may replace a reading. A more precise reading always replaces it.
const ANCHOR_AGE: Duration = Duration::from_secs(30);
/// Maximum round trip of a less precise reading that replaces an older one. The error of a reading is up to half of its
/// round trip. The machine's monotonic clock needs hours to reach such an error.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(500);

/// A clock. Clones show the same time.
#[derive(Clone)]
pub struct Clock(Arc<Kind>);

enum Kind {
    System(RwLock<Option<Anchor>>),
    Manual(watch::Sender<Micros>),
}

struct Anchor {
    at: Instant,
    reading: Micros,
    round_trip: Duration,
}

impl Clock {
    /// Returns the machine's clock. After [`Clock::anchor`] it shows the time of the other clock.
    pub fn system() -> Self {
        Self(Arc::new(Kind::System(RwLock::new(None))))
    }

    /// Returns a clock for tests. Only [`Clock::advance`] changes its time.
    pub fn manual(start: Micros) -> Self {
        Self(Arc::new(Kind::Manual(watch::Sender::new(start))))
    }

    /// Returns the current time.
    pub fn now(&self) -> Micros {
        match &*self.0 {
            Kind::Manual(now) => *now.borrow(),
            Kind::System(anchor) => match &*anchor.read() {
                Some(anchor) => anchor.reading + micros(anchor.at.elapsed()),
                None => machine_now(),
            },
        }
    }

    /// Sets the clock to the time of another clock. The caller requested the `reading` at `asked` and has just received
    /// it.
    ///
    /// The clock prefers the reading with the shortest round trip, because the error of a reading is at most half of
    /// its round trip.
    pub fn anchor(&self, asked: Instant, reading: Micros) {
        let Kind::System(slot) = &*self.0 else {
            return;
        };
        let round_trip = asked.elapsed();
        let mut slot = slot.write();
        let better = slot.as_ref().is_none_or(|old| {
            let is_old = old.at.elapsed() > ANCHOR_AGE;
            round_trip <= old.round_trip || (is_old && round_trip < MAX_ROUND_TRIP)
        });
        if better {
            *slot = Some(Anchor { at: asked + round_trip / 2, reading, round_trip });
        }
    }

    /// Waits until the clock shows `at` or later.
    pub async fn sleep_until(&self, at: Micros) {
        match &*self.0 {
            // Add one millisecond, because timers are less precise than the clock.
            Kind::System(_) => tokio::time::sleep(until(at, self.now()) + Duration::from_millis(1)).await,
            Kind::Manual(now) => {
                // This fails only if the sender was dropped, and the clock keeps the sender.
                let _ = now.subscribe().wait_for(|now| *now >= at).await;
            }
        }
    }

    /// Moves a manual clock forward. It has no effect on the machine's clock.
    pub fn advance(&self, by: Duration) {
        if let Kind::Manual(now) = &*self.0 {
            now.send_modify(|now| *now += micros(by));
        }
    }
}

/// Converts a duration to microseconds. Returns the maximum if the duration is too long.
pub fn micros(span: Duration) -> Micros {
    Micros::try_from(span.as_micros()).unwrap_or(Micros::MAX)
}

/// Returns the duration from `now` until `then`, or zero if `then` has passed.
pub fn until(then: Micros, now: Micros) -> Duration {
    Duration::from_micros(then.saturating_sub(now).max(0).unsigned_abs())
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
fn machine_now() -> Micros {
    micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchored_clock_shows_the_time_it_was_anchored_to() {
        let clock = Clock::system();
        clock.anchor(Instant::now(), 1_000_000_000);
        assert!((1_000_000_000..1_010_000_000).contains(&clock.now()));
    }

    #[test]
    fn a_less_precise_reading_does_not_replace_a_fresh_one() {
        let clock = Clock::system();
        clock.anchor(Instant::now(), 1_000_000_000);
        clock.anchor(Instant::now() - Duration::from_secs(2), 9_000_000_000);
        assert!(clock.now() < 2_000_000_000);
    }

    #[test]
    fn an_old_reading_is_replaced_by_a_new_one_but_not_by_one_with_a_long_round_trip() {
        let clock = Clock::system();
        let minute = Duration::from_secs(60);
        let Kind::System(slot) = &*clock.0 else { unreachable!() };
        let old = Anchor { at: Instant::now() - minute, reading: 1_000_000_000, round_trip: Duration::ZERO };
        *slot.write() = Some(old);
        clock.anchor(Instant::now() - Duration::from_secs(20), 9_000_000_000);
        assert!(clock.now() < 2_000_000_000);
        clock.anchor(Instant::now() - Duration::from_millis(20), 9_000_000_000);
        assert!(clock.now() >= 9_000_000_000);
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(5);
        assert_eq!(clock.now(), 5);
        clock.advance(Duration::from_millis(2));
        assert_eq!(clock.now(), 2_005);
    }
}
