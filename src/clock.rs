//! The time that decisions go by: instants are whole microseconds since the Unix epoch, UTC.
//!
//! On PostgreSQL all replicas go by the database's clock: the clock is anchored to readings of it and runs on by the
//! machine's monotonic clock in between, so a replica whose own clock is wrong by an hour decides like the others.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::RwLock;
use tokio::sync::watch;

/// Microseconds since the Unix epoch, or a span of them.
pub type Micros = i64;

/// A reading is replaced by a more precise one at once, and after this long by any that is not useless.
const ANCHOR_AGE: Duration = Duration::from_secs(30);
/// Useless is what took so long, as when the database was away: it may be wrong by half of it. The machine's monotonic clock takes hours to
/// be as wrong.
const USELESS_ROUND_TRIP: Duration = Duration::from_millis(500);

/// Tells the time; clones tell the same.
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
    /// The machine's clock until [`Clock::anchor`] is called, then the clock that was read.
    pub fn system() -> Self {
        Self(Arc::new(Kind::System(RwLock::new(None))))
    }

    /// A clock for tests that moves only by [`Clock::advance`].
    pub fn manual(start: Micros) -> Self {
        Self(Arc::new(Kind::Manual(watch::Sender::new(start))))
    }

    /// Now.
    pub fn now(&self) -> Micros {
        match &*self.0 {
            Kind::Manual(now) => *now.borrow(),
            Kind::System(anchor) => match &*anchor.read() {
                Some(anchor) => anchor.reading + micros(anchor.at.elapsed()),
                None => machine_now(),
            },
        }
    }

    /// Takes over `reading`, another clock's answer to a question asked at `asked` and answered just now. Of several
    /// readings the one with the shortest round trip counts, since its error is at most half of that.
    pub fn anchor(&self, asked: Instant, reading: Micros) {
        let Kind::System(slot) = &*self.0 else {
            return;
        };
        let round_trip = asked.elapsed();
        let mut slot = slot.write();
        let better = slot.as_ref().is_none_or(|old| {
            let is_old = old.at.elapsed() > ANCHOR_AGE;
            round_trip <= old.round_trip || (is_old && round_trip < USELESS_ROUND_TRIP)
        });
        if better {
            *slot = Some(Anchor { at: asked + round_trip / 2, reading, round_trip });
        }
    }

    /// Waits until the clock tells `at` or later.
    pub async fn sleep_until(&self, at: Micros) {
        match &*self.0 {
            // A little later, so that the instant has come for sure.
            Kind::System(_) => tokio::time::sleep(until(at, self.now()) + Duration::from_millis(1)).await,
            Kind::Manual(now) => {
                // The sender lives as long as the clock.
                let _ = now.subscribe().wait_for(|now| *now >= at).await;
            }
        }
    }

    /// Moves a manual clock on; the system's clock stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Kind::Manual(now) = &*self.0 {
            now.send_modify(|now| *now += micros(by));
        }
    }
}

/// A span in microseconds; one too long for that is the longest there is.
pub fn micros(span: Duration) -> Micros {
    Micros::try_from(span.as_micros()).unwrap_or(Micros::MAX)
}

/// The span from `now` until `then`; zero if it has passed.
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
    fn an_anchored_clock_tells_the_time_it_was_anchored_to() {
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
    fn an_old_reading_is_replaced_by_a_new_one_but_not_by_one_that_took_long() {
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
