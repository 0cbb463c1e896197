//! The arithmetic of a queue: pure functions on plain values.

use std::time::Duration;

use crate::{
    clock::Micros,
    entity::queue_token::{Model as Token, State},
    error::Error,
};

/// Whoever is next to be admitted asks this often: as often as the default promotion runs.
const SHORTEST_POLL: Duration = Duration::from_secs(2);
/// Whoever is furthest back asks this often.
const LONGEST_POLL: Duration = Duration::from_secs(30);
/// So many places further back, one second longer to wait before asking again.
const PLACES_PER_POLL_SECOND: i64 = 500;

/// How many more tokens may be admitted: the unsold seats less the ACTIVE tokens, the ACTIVE tokens bounded by
/// `max_active_count` (0: no bound), never negative. Source: the seed's scheduler, and the cap of a concert.
pub fn free_places(unsold_seat_count: i64, active_count: i64, max_active_count: i32) -> i64 {
    let capacity = match max_active_count {
        0 => unsold_seat_count,
        bound => unsold_seat_count.min(i64::from(bound)),
    };
    (capacity - active_count).max(0)
}

/// Whether anybody is admitted now.
pub fn admits(paused: bool, open_time: Micros, now: Micros) -> bool {
    !paused && open_time <= now
}

/// How many waiting places there are up to and including `queue_number`: the numbers after the last admitted one, less those
/// that left. `departed` is ascending; numbers up to `admitted_number` in it do not count.
pub fn position(queue_number: i64, admitted_number: i64, departed: &[i64]) -> i64 {
    let from = departed.partition_point(|number| *number <= admitted_number);
    let to = departed.partition_point(|number| *number < queue_number);
    let gone = to.saturating_sub(from) as i64;
    (queue_number - admitted_number - gone).max(1)
}

/// How long `position` places take at `admissions_per_second`; `None` while that is unknown.
pub fn estimated_wait(position: i64, admissions_per_second: Option<f64>) -> Option<Duration> {
    let rate = admissions_per_second.filter(|rate| *rate > 0.0)?;
    let seconds = (position as f64 / rate).ceil();
    // A year is as good as any number above it.
    Some(Duration::from_secs(seconds.clamp(1.0, 31_536_000.0) as u64))
}

/// When a waiting caller should ask again: short near the front, longer far back, spread by up to a tenth so that those who
/// came together do not ask together.
pub fn poll_after(position: i64, queue_number: i64) -> Duration {
    let further = Duration::from_secs((position / PLACES_PER_POLL_SECOND).max(0).unsigned_abs());
    let base = SHORTEST_POLL.saturating_add(further).min(LONGEST_POLL);
    // A multiplicative hash: neighbours in the queue are spread evenly.
    let spread = (queue_number.unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32;
    let jitter = base.mul_f64(0.1 * f64::from(spread) / f64::from(u32::MAX));
    if position <= 1 { base } else { base + jitter }
}

/// What a token may do at `now`: an admission is over at its expiry, whether or not a sweep has said so.
pub fn state_at(token: &Token, now: Micros) -> State {
    match token.state {
        State::Active if token.expire_time.is_some_and(|at| at <= now) => State::Expired,
        state => state,
    }
}

/// Refuses a token that is not admitted at `now`; `retry_after` is for one that waits.
pub fn require_active(token: &Token, now: Micros, retry_after: Duration) -> Result<(), Error> {
    match state_at(token, now) {
        State::Active => Ok(()),
        State::Waiting => Err(Error::NotAdmitted { queue_number: token.queue_number, retry_after }),
        State::Expired => Err(Error::TokenExpired),
        State::Completed => Err(Error::TokenCompleted),
        State::Left => Err(Error::TokenLeft),
    }
}

/// Whether a token is the one live token of its user and concert.
pub fn is_live(token: &Token, now: Micros) -> bool {
    matches!(state_at(token, now), State::Waiting | State::Active)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_admitted_as_seats_are_unsold() {
        assert_eq!(free_places(50, 0, 0), 50);
        assert_eq!(free_places(50, 20, 0), 30);
        assert_eq!(free_places(0, 0, 0), 0);
    }

    #[test]
    fn more_active_than_unsold_admits_nobody() {
        assert_eq!(free_places(5, 9, 0), 0);
    }

    #[test]
    fn a_cap_below_the_unsold_seats_binds_and_one_above_does_not() {
        assert_eq!(free_places(50, 4, 10), 6);
        assert_eq!(free_places(50, 12, 10), 0);
        assert_eq!(free_places(50, 0, 80), 50);
    }

    #[test]
    fn nobody_is_admitted_while_paused_or_before_the_opening() {
        assert!(admits(false, 10, 10));
        assert!(!admits(true, 10, 10));
        assert!(!admits(false, 11, 10));
    }

    #[test]
    fn the_position_counts_waiting_places_up_to_mine() {
        assert_eq!(position(1, 0, &[]), 1);
        assert_eq!(position(10, 4, &[]), 6);
    }

    #[test]
    fn those_who_left_ahead_of_me_do_not_count_and_others_do_not_matter() {
        // 2 was admitted before it left; 5, 7 are ahead; 12 is behind.
        assert_eq!(position(10, 4, &[2, 5, 7, 12]), 4);
    }

    #[test]
    fn a_position_is_never_below_one() {
        assert_eq!(position(3, 9, &[]), 1);
        assert_eq!(position(3, 9, &[1, 2, 3, 20]), 1);
    }

    #[test]
    fn the_estimate_is_absent_while_the_rate_is_unknown() {
        assert_eq!(estimated_wait(10, None), None);
        assert_eq!(estimated_wait(10, Some(0.0)), None);
        assert_eq!(estimated_wait(10, Some(f64::NAN)), None);
        assert_eq!(estimated_wait(10, Some(2.0)), Some(Duration::from_secs(5)));
        assert!(estimated_wait(i64::MAX, Some(f64::MIN_POSITIVE)).is_some());
    }

    #[test]
    fn the_front_asks_often_and_the_back_seldom() {
        assert_eq!(poll_after(1, 1), SHORTEST_POLL);
        for number in 1..1_000 {
            assert!(poll_after(10, number) <= SHORTEST_POLL.mul_f64(1.1));
            let far = poll_after(1_000_000, number);
            assert!((LONGEST_POLL..=LONGEST_POLL.mul_f64(1.1)).contains(&far));
        }
        assert!(poll_after(i64::MAX, i64::MAX) >= LONGEST_POLL);
    }

    fn token(state: State, expire_time: Option<i64>) -> Token {
        Token {
            concert_id: 1,
            queue_number: 1,
            user_id: uuid::Uuid::nil(),
            state,
            issue_time: 0,
            admit_time: None,
            expire_time,
            departure_number: None,
        }
    }

    #[test]
    fn an_admission_is_over_at_the_moment_it_is_due() {
        let active = token(State::Active, Some(10));
        assert_eq!(state_at(&active, 9), State::Active);
        assert_eq!(state_at(&active, 10), State::Expired);
        assert!(is_live(&active, 9) && !is_live(&active, 10));
        assert!(matches!(require_active(&active, 10, SHORTEST_POLL), Err(Error::TokenExpired)));
    }

    #[test]
    fn a_token_that_is_over_stays_what_it_was() {
        for state in [State::Waiting, State::Completed, State::Left, State::Expired] {
            assert_eq!(state_at(&token(state, Some(1)), 99), state);
        }
    }
}
