//! The `QueuePosition` of a token, as the API returns it.

use std::time::Duration;

use super::{
    admission::Admission,
    line::{Line, View},
    rules,
};
use crate::{
    clock,
    db::entity::queue_token::{Model as Token, State},
    rpc::{Error, proto},
    token::Bearer,
};

/// Poll interval of a token that does not wait.
const ACTIVE_POLL: Duration = Duration::from_secs(5);

/// Returns the position of a token. If memory shows that the token waits and belongs to its bearer, no query is made.
/// Otherwise the row of the token is read.
///
/// Fails with TOKEN_INVALID if the token has no row or if the row belongs to another user.
pub async fn locate(admission: &Admission, bearer: &Bearer) -> Result<proto::QueuePosition, Error> {
    let line = admission.line(bearer.concert_id).await?;
    if let Some(position) = in_memory(admission, bearer, &line) {
        return Ok(position);
    }
    let token = admission.find(bearer).await?;
    // The row may be newer than the view that was read before, so the view is read again.
    let view = line.view();
    Ok(match rules::state_at(&token, admission.now()) {
        State::Waiting => {
            line.note_waiting(token.queue_number, token.user_id);
            waiting(admission, bearer, &view)
        }
        state => over_or_active(&token, state, &view),
    })
}

/// Returns the position of a token from memory. Returns `None` if memory does not show that the token waits, or does
/// not show that its row belongs to the bearer.
pub fn in_memory(admission: &Admission, bearer: &Bearer, line: &Line) -> Option<proto::QueuePosition> {
    let view = line.view();
    let is_known = view.waits(bearer.queue_number) && line.is_noted(bearer.queue_number, bearer.user_id);
    is_known.then(|| waiting(admission, bearer, &view))
}

/// Returns the position of a waiting token.
pub fn waiting(admission: &Admission, bearer: &Bearer, view: &View) -> proto::QueuePosition {
    let draw_time = view.order.draw_time();
    let position = draw_time.is_none().then(|| view.position(bearer.queue_number));
    let wait = position.and_then(|position| rules::estimated_wait(position, view.admissions_per_second));
    let until_opening = clock::until(view.open_time, admission.now());
    proto::QueuePosition {
        state: proto::QueueState::Waiting.into(),
        queue_number: bearer.queue_number,
        position,
        estimated_wait: wait.map(|wait| proto::duration(wait.saturating_add(until_opening))),
        poll_after: Some(proto::duration(admission.retry_after(bearer))),
        expire_time: None,
        unsold_seat_count: unsold(view),
        draw_time: draw_time.map(proto::timestamp),
        participant_count: view.order.participant_count(view.issued_number),
    }
}

/// Returns the position of a token in any `state` except WAITING.
pub fn over_or_active(token: &Token, state: State, view: &View) -> proto::QueuePosition {
    proto::QueuePosition {
        state: state_to_proto(state).into(),
        queue_number: token.queue_number,
        position: None,
        estimated_wait: None,
        poll_after: Some(proto::duration(ACTIVE_POLL)),
        expire_time: token.expire_time.map(proto::timestamp),
        unsold_seat_count: unsold(view),
        draw_time: None,
        participant_count: None,
    }
}

fn unsold(view: &View) -> i32 {
    i32::try_from(view.unsold_seat_count).unwrap_or(i32::MAX)
}

/// Converts a state to the enum of the API.
pub fn state_to_proto(state: State) -> proto::QueueState {
    match state {
        State::Waiting => proto::QueueState::Waiting,
        State::Active => proto::QueueState::Active,
        State::Expired => proto::QueueState::Expired,
        State::Completed => proto::QueueState::Completed,
        State::Left => proto::QueueState::Left,
    }
}
