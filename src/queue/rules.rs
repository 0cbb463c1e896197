//! The arithmetic of a queue: pure functions on plain values.

use std::time::Duration;

use crate::{
    clock::Micros,
    db::entity::{
        queue_counter::Model as Counter,
        queue_token::{Model as Token, State},
    },
    rpc::Error,
};

/// Whoever is next to be admitted asks this often: as often as the default promotion runs.
const SHORTEST_POLL: Duration = Duration::from_secs(2);
/// Whoever is furthest back asks at least this often, as far as the budget allows.
const LONGEST_POLL: Duration = Duration::from_secs(30);

/// How many more tokens may be admitted: the unsold seats less the ACTIVE tokens, the ACTIVE tokens bounded by
/// `max_active_count` (0: no bound), never negative. Source: the seed's scheduler, and the cap of a concert.
pub fn free_places(unsold_seat_count: i64, active_count: i64, max_active_count: i32) -> i64 {
    let capacity = match max_active_count {
        0 => unsold_seat_count,
        bound => unsold_seat_count.min(i64::from(bound)),
    };
    (capacity - active_count).max(0)
}

/// How many admitted tokens have not ended: those admitted less those that left, expired or were completed. A token whose
/// admission is over counts until it says EXPIRED.
pub fn active_count(counter: &Counter, completed_count: i64) -> i64 {
    counter.admitted_count - counter.left_admitted_count - counter.expired_count - completed_count
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

/// How often who waits where may ask, so that all of them together stay within a budget of calls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PollPlan {
    /// Up to this position one asks as often as possible: half of the budget.
    front: f64,
    /// After it, the interval grows with the position: a quarter of the budget.
    seconds_per_place: f64,
    /// Up to this longest one: the last quarter.
    longest_seconds: f64,
}

/// The plan for queues with `waiting_counts` waiting, within `budget` calls a second in all.
///
/// With n queues, `front` = budget / n places of each ask every 2 s. After that the interval is c x position, so those of a queue of w ask
/// ln(w / front) / c times a second. Nobody asks less often than the longest interval, which adds all / longest.
pub fn poll_plan(waiting_counts: &[i64], budget: f64) -> PollPlan {
    let counts: Vec<f64> = waiting_counts.iter().filter(|count| **count > 0).map(|count| *count as f64).collect();
    let front = (budget / counts.len().max(1) as f64).max(1.0);
    let behind: f64 = counts.iter().filter(|count| **count > front).map(|count| (count / front).ln()).sum();
    let all: f64 = counts.iter().sum();
    PollPlan {
        front,
        seconds_per_place: 4.0 * behind / budget,
        longest_seconds: LONGEST_POLL.as_secs_f64().max(4.0 * all / budget),
    }
}

/// When a waiting caller should ask again: two seconds at the front, longer far back as the plan says, spread by up to a tenth so that
/// those who came together do not ask together.
pub fn poll_after(position: i64, queue_number: i64, plan: &PollPlan) -> Duration {
    let place = position as f64;
    let base = match place <= plan.front {
        true => SHORTEST_POLL,
        false => Duration::from_secs_f64((plan.seconds_per_place * place).min(plan.longest_seconds)).max(SHORTEST_POLL),
    };
    // A multiplicative hash: neighbours in the queue are spread evenly.
    let spread = (queue_number.unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32;
    let jitter = base.mul_f64(0.1 * f64::from(spread) / f64::from(u32::MAX));
    if position <= 1 { base } else { base.saturating_add(jitter) }
}

/// Until when an admission at `now` lasts, and until when once there was a sign of life. A `claim_ttl` of 0 or none asks for no sign; one
/// that is not shorter than the admission neither.
pub fn admission_end(now: Micros, admission_ttl: Micros, claim_ttl: Option<Micros>) -> (Micros, Option<Micros>) {
    let end = now.saturating_add(admission_ttl);
    match claim_ttl {
        Some(claim_ttl) if claim_ttl > 0 && claim_ttl < admission_ttl => (now.saturating_add(claim_ttl), Some(end)),
        _ => (end, None),
    }
}

/// The token after a sign of life at `now`; `None` if it needs none, or comes too late.
pub fn claimed(token: &Token, now: Micros) -> Option<Token> {
    let end = token.claimed_expire_time.filter(|_| state_at(token, now) == State::Active)?;
    Some(Token { expire_time: Some(end), claimed_expire_time: None, ..token.clone() })
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
        let plan = poll_plan(&[1_000_000], 5_000.0);
        assert_eq!(poll_after(1, 1, &plan), SHORTEST_POLL);
        for number in 1..1_000 {
            assert!(poll_after(5_000, number, &plan) <= SHORTEST_POLL.mul_f64(1.1));
            assert!(poll_after(1_000_000, number, &plan) >= LONGEST_POLL);
        }
        assert!(poll_after(i64::MAX, i64::MAX, &plan) >= LONGEST_POLL);
        let few = poll_plan(&[], 5_000.0);
        assert_eq!(poll_after(1, 1, &few), SHORTEST_POLL);
    }

    #[test]
    fn all_who_wait_stay_within_the_budget_of_calls() {
        for (counts, budget) in [
            (vec![1_000_000], 5_000.0),
            (vec![1_000_000], 100.0),
            (vec![900_000, 90_000, 9_000, 900, 90], 2_000.0),
            (vec![10_000; 100], 1_000.0),
            (vec![3_000], 5_000.0),
        ] {
            let plan = poll_plan(&counts, budget);
            let calls = |count: &i64| -> f64 {
                (1..=*count).map(|place| 1.0 / poll_after(place, place, &plan).as_secs_f64()).sum()
            };
            let calls: f64 = counts.iter().map(calls).sum();
            assert!(calls <= budget, "{counts:?}: {calls} calls/s of {budget}");
        }
    }

    #[test]
    fn a_sign_of_life_is_asked_for_only_where_it_shortens_the_admission() {
        assert_eq!(admission_end(10, 600, None), (610, None));
        assert_eq!(admission_end(10, 600, Some(0)), (610, None));
        assert_eq!(admission_end(10, 600, Some(600)), (610, None));
        assert_eq!(admission_end(10, 600, Some(30)), (40, Some(610)));
    }

    #[test]
    fn a_claim_in_time_lasts_as_long_as_an_admission_and_a_late_one_does_not_count() {
        let unclaimed = Token { claimed_expire_time: Some(600), ..token(State::Active, Some(30)) };
        let after = claimed(&unclaimed, 29).unwrap();
        assert_eq!((after.expire_time, after.claimed_expire_time), (Some(600), None));
        assert_eq!(claimed(&unclaimed, 30), None);
        assert_eq!(claimed(&after, 29), None);
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
            claimed_expire_time: None,
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
