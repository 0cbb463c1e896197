//! The rules of a queue: pure functions on plain values.

use std::time::Duration;

use crate::{
    clock::Micros,
    db::entity::{
        queue_counter::Model as Counter,
        queue_token::{Model as Token, State},
    },
    rpc::Error,
};

/// Poll interval at the front of the queue. The default interval between two promotions has the same value.
const SHORTEST_POLL: Duration = Duration::from_secs(2);
/// Maximum poll interval, unless the polls of all waiting users would exceed the budget. Then the interval is longer.
const LONGEST_POLL: Duration = Duration::from_secs(30);
/// One minute, in microseconds.
const MINUTE: Micros = 60_000_000;

/// Returns the number of tokens that may be admitted now: the capacity minus the number of ACTIVE tokens, at least 0.
///
/// The capacity is the number of unsold seats, or `max_active_count` if that is lower and not 0. Source:
/// `Concert.max_active_count` in concert_service.proto.
pub fn free_places(unsold_seat_count: i64, active_count: i64, max_active_count: i32) -> i64 {
    let capacity = match max_active_count {
        0 => unsold_seat_count,
        bound => unsold_seat_count.min(i64::from(bound)),
    };
    (capacity - active_count).max(0)
}

/// Returns the number of admitted tokens that have not left, expired or completed. A token past its expiry counts until
/// a pass sets its row to EXPIRED.
pub fn active_count(counter: &Counter, completed_count: i64) -> i64 {
    counter.admitted_count - counter.left_admitted_count - counter.expired_count - completed_count
}

/// Tells whether a concert admits users at `now`: admission is not paused, and `open_time` is not after `now`.
pub fn admits(paused: bool, open_time: Micros, now: Micros) -> bool {
    !paused && open_time <= now
}

/// Tells whether the draw of a concert must be held at `now`, before anything else happens in its queue.
pub fn is_draw_due(counter: &Counter, now: Micros) -> bool {
    counter.draw_time.is_some_and(|draw_time| draw_time <= now)
}

/// Holds the slots of a paced admission that are due. One token is admitted per slot, and the time between two slots is
/// one minute divided by `max_admissions_per_minute`. Source: `Concert.max_admissions_per_minute` in
/// concert_service.proto.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The number of slots that are due. `i64::MAX` if the concert has no maximum per minute.
    pub due: i64,
    first_slot: Micros,
    interval: Micros,
}

impl Pace {
    /// Returns the slots that are due at `now`. `last_slot` is the last slot in which a token was admitted. Slots that
    /// are older than `memory` are lost. After a quiet time, the next slot is now, so that no rush follows.
    pub fn at(now: Micros, last_slot: Micros, max_admissions_per_minute: i32, memory: Micros) -> Self {
        if max_admissions_per_minute == 0 {
            return Self { due: i64::MAX, first_slot: now, interval: 0 };
        }
        // The interval is rounded up, so that no minute has too many slots.
        let per_minute = i64::from(max_admissions_per_minute);
        let interval = (MINUTE + per_minute - 1) / per_minute;
        let next_slot = last_slot.saturating_add(interval);
        let first_slot = if next_slot < now - memory { now } else { next_slot };
        let due = if first_slot > now { 0 } else { (now - first_slot) / interval + 1 };
        Self { due, first_slot, interval }
    }

    /// Returns the last used slot after `admitted` tokens, at least 1, were admitted.
    pub fn last_slot(&self, admitted: i64) -> Micros {
        self.first_slot + (admitted - 1) * self.interval
    }
}

/// Returns the number of waiting tokens up to and including the token with this place, at least 1. These are the tokens
/// with places above `admitted_place`, without the departed tokens.
///
/// `departed` has the places of the departed tokens, ascending. Its places up to `admitted_place` are ignored. Source:
/// `QueuePosition.position` in queue_service.proto.
pub fn position(place: i64, admitted_place: i64, departed: &[i64]) -> i64 {
    let from = departed.partition_point(|departed| *departed <= admitted_place);
    let to = departed.partition_point(|departed| *departed < place);
    let gone = to.saturating_sub(from) as i64;
    (place - admitted_place - gone).max(1)
}

/// Returns the expected number of admissions per second: the measured rate, but at most the pace of the concert. If no
/// rate was measured, returns the pace, or `None` if the admission is paused or the concert has no pace.
///
/// Source: `QueuePosition.estimated_wait` in queue_service.proto.
pub fn expected_rate(measured: Option<f64>, max_admissions_per_minute: i32, paused: bool) -> Option<f64> {
    let pace = (max_admissions_per_minute > 0).then(|| f64::from(max_admissions_per_minute) / 60.0);
    match (measured, pace) {
        (Some(measured), Some(pace)) => Some(measured.min(pace)),
        (None, Some(pace)) if !paused => Some(pace),
        (measured, _) => measured,
    }
}

/// Returns the time in which `position` users are admitted at the rate `admissions_per_second`. The result is between 1
/// second and 365 days. Returns `None` if the rate is unknown or not above 0.
pub fn estimated_wait(position: i64, admissions_per_second: Option<f64>) -> Option<Duration> {
    let rate = admissions_per_second.filter(|rate| *rate > 0.0)?;
    let seconds = (position as f64 / rate).ceil();
    // 31,536,000 seconds are 365 days.
    Some(Duration::from_secs(seconds.clamp(1.0, 31_536_000.0) as u64))
}

/// Holds the parameters of the poll intervals. With these intervals, the GetPosition calls of all waiting users
/// together stay within a budget of calls per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PollPlan {
    /// The last position with the shortest interval. The users up to this position in all queues get half of the
    /// budget.
    front: f64,
    /// The poll interval divided by the position, for positions after `front`, in seconds. These users get a quarter of
    /// the budget.
    seconds_per_place: f64,
    /// The maximum poll interval, in seconds. The users with this interval get the last quarter of the budget.
    longest_seconds: f64,
}

/// Returns the poll plan for a set of queues. `waiting_counts` has the number of waiting users of each queue. `budget`
/// is the total number of calls per second.
///
/// With n queues, the first `front` = budget / n users of each queue poll every 2 seconds. After `front`, the interval
/// is c x position, with c = `seconds_per_place`. So the users after `front` in a queue of w users make ln(w / front) /
/// c calls per second. The users with the longest interval make at most (all users / longest interval) calls per
/// second.
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

/// Returns the time after which a waiting user should call GetPosition again. The time is 2 seconds at the front of the
/// queue. It grows with the position, up to the maximum of the plan.
///
/// Up to 10 % of jitter is added, so that users that joined at the same time do not poll at the same time. The first
/// position gets no jitter.
pub fn poll_after(position: i64, queue_number: i64, plan: &PollPlan) -> Duration {
    let place = position as f64;
    let base = match place <= plan.front {
        true => SHORTEST_POLL,
        false => Duration::from_secs_f64((plan.seconds_per_place * place).min(plan.longest_seconds)).max(SHORTEST_POLL),
    };
    // A multiplicative hash gives users with adjacent numbers different jitter.
    let spread = (queue_number.unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32;
    let jitter = base.mul_f64(0.1 * f64::from(spread) / f64::from(u32::MAX));
    if position <= 1 { base } else { base.saturating_add(jitter) }
}

/// Returns the end of an admission that starts at `now`, and the end that its first use gives to the admission.
///
/// The second value is `None` if no early use is required: `claim_ttl` is `None`, 0, or not shorter than the admission.
pub fn admission_end(now: Micros, admission_ttl: Micros, claim_ttl: Option<Micros>) -> (Micros, Option<Micros>) {
    let end = now.saturating_add(admission_ttl);
    match claim_ttl {
        Some(claim_ttl) if claim_ttl > 0 && claim_ttl < admission_ttl => (now.saturating_add(claim_ttl), Some(end)),
        _ => (end, None),
    }
}

/// Returns the token after the first use of its admission at `now`. Returns `None` if no first use is required, if the
/// first use is already recorded, or if the token is not admitted at `now`.
pub fn claimed(token: &Token, now: Micros) -> Option<Token> {
    let end = token.claimed_expire_time.filter(|_| state_at(token, now) == State::Active)?;
    Some(Token { expire_time: Some(end), claimed_expire_time: None, ..token.clone() })
}

/// Returns the state of a token at `now`. An admission ends exactly at its expiry, even before a pass has set the row
/// to EXPIRED. Source: `QueueState` in queue_service.proto.
pub fn state_at(token: &Token, now: Micros) -> State {
    match token.state {
        State::Active if token.expire_time.is_some_and(|at| at <= now) => State::Expired,
        state => state,
    }
}

/// Checks that a token is admitted at `now`. Fails with NOT_ADMITTED, TOKEN_EXPIRED, TOKEN_COMPLETED or TOKEN_LEFT.
///
/// `retry_after` is the retry delay in the error NOT_ADMITTED.
pub fn require_active(token: &Token, now: Micros, retry_after: Duration) -> Result<(), Error> {
    match state_at(token, now) {
        State::Active => Ok(()),
        State::Waiting => Err(Error::NotAdmitted { queue_number: token.queue_number, retry_after }),
        State::Expired => Err(Error::TokenExpired),
        State::Completed => Err(Error::TokenCompleted),
        State::Left => Err(Error::TokenLeft),
    }
}

/// Tells whether a token is live at `now`: WAITING, or ACTIVE and not expired. A user has at most one live token per
/// concert.
pub fn is_live(token: &Token, now: Micros) -> bool {
    matches!(state_at(token, now), State::Waiting | State::Active)
}

/// Tells whether a token is past its expiry at `now`, but its stored state is still ACTIVE.
pub fn is_over(token: &Token, now: Micros) -> bool {
    token.state == State::Active && !is_live(token, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_users_are_admitted_as_seats_are_unsold() {
        assert_eq!(free_places(50, 0, 0), 50);
        assert_eq!(free_places(50, 20, 0), 30);
        assert_eq!(free_places(0, 0, 0), 0);
    }

    #[test]
    fn no_user_is_admitted_if_more_tokens_are_active_than_seats_are_unsold() {
        assert_eq!(free_places(5, 9, 0), 0);
    }

    #[test]
    fn a_limit_of_active_tokens_matters_only_below_the_unsold_seats() {
        assert_eq!(free_places(50, 4, 10), 6);
        assert_eq!(free_places(50, 12, 10), 0);
        assert_eq!(free_places(50, 0, 80), 50);
    }

    #[test]
    fn no_user_is_admitted_while_admission_is_paused_or_before_it_opens() {
        assert!(admits(false, 10, 10));
        assert!(!admits(true, 10, 10));
        assert!(!admits(false, 11, 10));
    }

    const SECOND: Micros = 1_000_000;

    #[test]
    fn a_pace_admits_one_user_per_slot() {
        let at = |now, last_slot| Pace::at(now, last_slot, 60, 4 * SECOND);
        assert_eq!(at(100 * SECOND, 99 * SECOND).due, 1);
        assert_eq!(at(100 * SECOND - 1, 99 * SECOND).due, 0);
        // A promotion after 2.5 seconds uses two slots. The third slot keeps its time.
        let pace = at(100 * SECOND + SECOND / 2, 98 * SECOND);
        assert_eq!((pace.due, pace.last_slot(1), pace.last_slot(2)), (2, 99 * SECOND, 100 * SECOND));
        assert_eq!(Pace::at(7, 0, 0, 4 * SECOND).due, i64::MAX);
        assert_eq!(Pace::at(7, 0, 0, 4 * SECOND).last_slot(1_000), 7);
    }

    #[test]
    fn slots_of_a_quiet_time_are_lost() {
        for per_minute in [1, 60, 600] {
            let pace = Pace::at(1_000 * SECOND, 0, per_minute, 4 * SECOND);
            assert_eq!((pace.due, pace.last_slot(1)), (1, 1_000 * SECOND));
        }
        let pace = Pace::at(1_000 * SECOND, 995 * SECOND, 60, 4 * SECOND);
        assert_eq!((pace.due, pace.last_slot(5)), (5, 1_000 * SECOND));
    }

    #[test]
    fn promotions_at_any_times_keep_the_pace() {
        for per_minute in [1, 7, 25, 60, 1_000, 100_000] {
            let (mut last_slot, mut admitted, mut now) = (0, 0, 1_000 * SECOND);
            let start = now;
            while now < start + 600 * SECOND {
                let pace = Pace::at(now, last_slot, per_minute, 4 * SECOND);
                if pace.due > 0 {
                    last_slot = pace.last_slot(pace.due);
                    admitted += pace.due;
                }
                now += 1_700_003 + admitted % 7 * 100_000;
            }
            let (minimum, maximum) = (i64::from(per_minute) * 10 * 99 / 100, i64::from(per_minute) * 1_007 / 100 + 1);
            assert!((minimum..=maximum).contains(&admitted), "{admitted} in 10 minutes at {per_minute} per minute");
        }
    }

    #[test]
    fn a_change_of_the_pace_counts_from_the_last_admission() {
        assert_eq!(Pace::at(105 * SECOND, 100 * SECOND, 1, 4 * SECOND).due, 0);
        assert_eq!(Pace::at(105 * SECOND, 104 * SECOND, 600, 4 * SECOND).due, 10);
        assert_eq!(Pace::at(105 * SECOND, 104 * SECOND, i32::MAX, 4 * SECOND).due, SECOND);
    }

    #[test]
    fn the_pace_bounds_the_expected_rate() {
        assert_eq!(expected_rate(Some(5.0), 60, false), Some(1.0));
        assert_eq!(expected_rate(Some(0.5), 60, false), Some(0.5));
        assert_eq!(expected_rate(None, 60, false), Some(1.0));
        assert_eq!(expected_rate(None, 60, true), None);
        assert_eq!(expected_rate(None, 0, false), None);
        assert_eq!(expected_rate(Some(5.0), 0, true), Some(5.0));
    }

    #[test]
    fn a_position_counts_the_numbers_up_to_its_own() {
        assert_eq!(position(1, 0, &[]), 1);
        assert_eq!(position(10, 4, &[]), 6);
    }

    #[test]
    fn a_position_leaves_out_only_departures_ahead_of_it() {
        // Number 2 was admitted before it left. Numbers 5 and 7 are ahead of 10. Number 12 is behind it.
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
    fn users_at_the_front_poll_more_often_than_users_at_the_back() {
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
    fn all_waiting_users_stay_within_the_budget_of_calls() {
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
    fn a_first_use_is_required_only_if_it_shortens_the_admission() {
        assert_eq!(admission_end(10, 600, None), (610, None));
        assert_eq!(admission_end(10, 600, Some(0)), (610, None));
        assert_eq!(admission_end(10, 600, Some(600)), (610, None));
        assert_eq!(admission_end(10, 600, Some(30)), (40, Some(610)));
    }

    #[test]
    fn a_first_use_in_time_extends_the_admission_and_a_late_one_does_not() {
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
            turn: 1,
            state,
            issue_time: 0,
            admit_time: None,
            expire_time,
            claimed_expire_time: None,
            departure_number: None,
        }
    }

    #[test]
    fn an_admission_ends_exactly_at_its_expiry() {
        let active = token(State::Active, Some(10));
        assert_eq!(state_at(&active, 9), State::Active);
        assert_eq!(state_at(&active, 10), State::Expired);
        assert!(is_live(&active, 9) && !is_live(&active, 10));
        assert!(matches!(require_active(&active, 10, SHORTEST_POLL), Err(Error::TokenExpired)));
    }

    #[test]
    fn only_an_active_token_expires() {
        for state in [State::Waiting, State::Completed, State::Left, State::Expired] {
            assert_eq!(state_at(&token(state, Some(1)), 99), state);
        }
    }
}
