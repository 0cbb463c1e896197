//! Tests extensions of holds.

use std::time::Duration;

use boxoffice::rpc::proto::{self, ReservationState, SeatState};
use tonic::Code;
use uuid::Uuid;

use crate::harness::{DATE, START, World, assert_failure, on_both_engines};

on_both_engines!(
    an_extension_lasts_one_hold_ttl_from_now_and_never_longer_than_the_token,
    a_hold_is_extended_twice_and_no_more,
    an_extended_hold_blocks_other_users_and_can_be_paid,
    a_request_id_extends_once_and_returns_the_first_answer,
    only_held_seats_are_extended,
);

const SECOND: i64 = 1_000_000;

async fn an_extension_lasts_one_hold_ttl_from_now_and_never_longer_than_the_token(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let held = caller.hold(DATE, &[1, 2]).await.unwrap();
    world.advance(Duration::from_secs(100));
    let extended = caller.extend(&held.reservation_id, "").await.unwrap();
    let expected = proto::Reservation { expire_time: Some(proto::timestamp(START + 400 * SECOND)), ..held.clone() };
    assert_eq!(extended, expected);
    assert_eq!(caller.reservation(&held.reservation_id).await.unwrap(), expected);
    world.advance(Duration::from_secs(290));
    let last = caller.extend(&held.reservation_id, "").await.unwrap();
    assert_eq!(last.expire_time, Some(proto::timestamp(START + 600 * SECOND)));
    world.check_invariants().await;
}

async fn a_hold_is_extended_twice_and_no_more(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let held = caller.hold(DATE, &[1]).await.unwrap();
    let calls = (0..5).map(|_| caller.extend(&held.reservation_id, ""));
    let answers = futures::future::join_all(calls).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 2);
    for answer in answers.into_iter().filter(Result::is_err) {
        let details = assert_failure(answer, Code::FailedPrecondition, "EXTENSION_LIMIT_EXCEEDED");
        assert_eq!(details.error_info().unwrap().metadata["extension_limit"], "2");
    }
    // The limit applies to each hold separately.
    let other = caller.hold(DATE, &[2]).await.unwrap();
    caller.extend(&other.reservation_id, "").await.unwrap();
}

async fn an_extended_hold_blocks_other_users_and_can_be_paid(world: World) {
    world.concert("IU", 50).await;
    let (caller, other) = (world.admitted("IU").await, world.admitted("IU").await);
    let held = caller.hold(DATE, &[1]).await.unwrap();
    world.advance(Duration::from_secs(200));
    caller.extend(&held.reservation_id, "").await.unwrap();
    world.advance(Duration::from_secs(200));
    world.expire().await;
    let details = assert_failure(other.hold(DATE, &[1]).await, Code::FailedPrecondition, "SEAT_HELD");
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(100)));
    assert_eq!(other.seat(DATE, 1).await, SeatState::Held);
    caller.pay().await.unwrap();
    world.check_invariants().await;
}

async fn a_request_id_extends_once_and_returns_the_first_answer(world: World) {
    world.concert("IU", 50).await;
    let (caller, other) = (world.admitted("IU").await, world.admitted("IU").await);
    let held = caller.hold(DATE, &[1]).await.unwrap();
    let mine = other.hold(DATE, &[2]).await.unwrap();
    world.advance(Duration::from_secs(10));
    let request_id = Uuid::now_v7().to_string();
    let calls = (0..10).map(|_| caller.extend(&held.reservation_id, &request_id));
    let answers = futures::future::join_all(calls).await;
    let first = answers[0].as_ref().unwrap().clone();
    for answer in answers {
        assert_eq!(answer.unwrap(), first);
    }
    world.advance(Duration::from_secs(10));
    caller.extend(&held.reservation_id, "").await.unwrap();
    caller.release(&held.reservation_id).await.unwrap();
    assert_eq!(caller.extend(&held.reservation_id, &request_id).await.unwrap(), first);
    let conflict = other.extend(&mine.reservation_id, &request_id).await;
    assert_failure(conflict, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
    world.check_invariants().await;
}

async fn only_held_seats_are_extended(world: World) {
    world.concert("IU", 50).await;
    let (caller, other) = (world.admitted("IU").await, world.admitted("IU").await);
    let held = caller.hold(DATE, &[1]).await.unwrap();
    let id = held.reservation_id.as_str();
    assert_failure(other.extend(id, "").await, Code::NotFound, "RESERVATION_NOT_FOUND");
    caller.release(id).await.unwrap();
    assert_failure(caller.extend(id, "").await, Code::FailedPrecondition, "NO_HELD_SEAT");
    let held = caller.hold(DATE, &[1]).await.unwrap();
    world.advance(Duration::from_secs(300));
    let late = caller.extend(&held.reservation_id, "").await;
    assert_failure(late, Code::FailedPrecondition, "HOLD_EXPIRED");
    let expired = caller.reservation(&held.reservation_id).await.unwrap();
    assert_eq!(expired.state(), ReservationState::Expired);
    let bad = caller.extend("x", "y").await;
    let details = assert_failure(bad, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(details.bad_request().unwrap().field_violations.len(), 2);
}
