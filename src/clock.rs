//! The clock for all decisions that depend on the time. An instant is a whole number of microseconds since the Unix
//! epoch, in UTC.
//!
//! On PostgreSQL all replicas use the database's clock. Each replica reads that clock every 5 seconds. To get the
//! current time, the replica takes the last reading that it accepted. It adds the time that its monotonic clock has
//! measured after this reading. So a wrong system clock of a replica does not change its decisions. On SQLite the
//! server uses the system clock of its machine.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::RwLock;
use tokio::sync::watch;

/// An instant in microseconds since the Unix epoch, or a duration in microseconds.
pub type Micros = i64;

/// Age after which the current reading may be replaced by a new reading with a longer round trip. A new reading with
/// the same or a shorter round trip always replaces the current reading.
const ANCHOR_AGE: Duration = Duration::from_secs(30);
/// A reading with this round trip or a longer round trip never replaces a reading with a shorter round trip. The error
/// of a reading is up to half of its round trip. A monotonic clock that is wrong by 50 ppm needs 83 minutes to reach an
/// error of 250 ms.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(500);

/// The clock for decisions. A system clock shows the time of the machine, or the time of another clock after
/// [`Clock::anchor`]. A manual clock is for tests. Clones show the same time.
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
    /// Returns a clock that shows the time of the machine's clock. After the first [`Clock::anchor`], the returned
    /// clock shows the time of the other clock.
    pub fn system() -> Self {
        Self(Arc::new(Kind::System(RwLock::new(None))))
    }

    /// Returns a clock for tests that shows `start`. Only [`Clock::advance`] changes its time.
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

    /// Sets the clock to the time of another clock. The caller requested the `reading` at `asked`, and must have just
    /// received it. A manual clock stays unchanged.
    ///
    /// The clock prefers readings with a short round trip, because the error of a reading is at most half of its round
    /// trip. For 30 seconds after the current reading, the clock ignores readings with a longer round trip. After that
    /// time, the clock ignores such a reading only if its round trip is 500 ms or longer.
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

    /// Waits until the clock shows `at` or later. If a system clock is set to another time during the wait, the
    /// duration of the wait stays the same.
    pub async fn sleep_until(&self, at: Micros) {
        match &*self.0 {
            // The timers of tokio have a resolution of 1 ms, so the wait is 1 ms longer.
            Kind::System(_) => tokio::time::sleep(until(at, self.now()) + Duration::from_millis(1)).await,
            Kind::Manual(now) => {
                // The wait fails only if the sender was dropped. The clock keeps the sender.
                let _ = now.subscribe().wait_for(|now| *now >= at).await;
            }
        }
    }

    /// Moves a manual clock forward. A system clock stays unchanged.
    pub fn advance(&self, by: Duration) {
        if let Kind::Manual(now) = &*self.0 {
            now.send_modify(|now| *now += micros(by));
        }
    }
}

/// Converts a duration to microseconds. Returns `i64::MAX` if the result does not fit into an `i64`.
pub fn micros(span: Duration) -> Micros {
    Micros::try_from(span.as_micros()).unwrap_or(Micros::MAX)
}

/// Returns the duration from `now` until `then`, or zero if `then` has passed.
pub fn until(then: Micros, now: Micros) -> Duration {
    Duration::from_micros(then.saturating_sub(now).max(0).unsigned_abs())
}

#[allow(clippy::disallowed_methods, reason = "the only function that reads the machine's clock")]
fn machine_now() -> Micros {
    micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchored_clock_shows_the_time_of_its_reading() {
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
    fn only_advance_changes_a_manual_clock() {
        let clock = Clock::manual(5);
        assert_eq!(clock.now(), 5);
        clock.advance(Duration::from_millis(2));
        assert_eq!(clock.now(), 2_005);
    }
}
