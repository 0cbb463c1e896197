//! Tests holds, releases, and the expiry of holds.

use std::time::Duration;

use boxoffice::rpc::proto::{self, ReservationState, SeatState};
use tonic::Code;
use uuid::Uuid;

use crate::harness::{DATE, NEXT_DATE, PRICE, START, World, assert_failure, on_both_engines};

on_both_engines!(
    a_hold_returns_its_seats_its_price_and_its_end,
    several_seats_are_held_all_or_none,
    a_repeated_hold_of_held_seats_returns_the_same_reservation,
    a_hold_never_lasts_longer_than_its_admission,
    a_request_id_returns_the_first_answer_also_after_the_hold_has_ended,
    a_request_id_is_refused_for_another_request_and_another_user,
    a_refused_hold_leaves_no_trace_and_its_request_id_is_free,
    the_limit_counts_held_and_paid_seats_of_all_dates_and_tokens,
    a_released_seat_is_free_immediately_and_release_is_idempotent,
    an_expired_hold_is_reported_before_and_after_the_expiry_pass,
    reservations_are_listed_newest_first_in_pages,
);

async fn a_hold_returns_its_seats_its_price_and_its_end(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let held = caller.hold(DATE, &[9, 3]).await.unwrap();
    let seat =
        |seat_number| proto::ReservedSeat { seat_number, section: "Floor".into(), price: PRICE, ..Default::default() };
    let expected = proto::Reservation {
        reservation_id: held.reservation_id.clone(),
        user_id: caller.user_id.clone(),
        concert_code: "IU".into(),
        concert_name: "IU live".into(),
        date: DATE.into(),
        seats: vec![seat(3), seat(9)],
        total_price: 2 * PRICE,
        state: ReservationState::Held.into(),
        hold_time: Some(proto::timestamp(START)),
        expire_time: Some(proto::timestamp(START + 300_000_000)),
    };
    assert_eq!(held, expected);
    assert!(Uuid::parse_str(&held.reservation_id).is_ok());
    assert_eq!(caller.reservation(&held.reservation_id).await.unwrap(), held);
}

async fn several_seats_are_held_all_or_none(world: World) {
    world.concert("IU", 50).await;
    let (first, second) = (world.admitted("IU").await, world.admitted("IU").await);
    first.hold(DATE, &[5]).await.unwrap();
    let details = assert_failure(second.hold(DATE, &[4, 5, 6]).await, Code::FailedPrecondition, "SEAT_HELD");
    assert_eq!(details.error_info().unwrap().metadata["seat_numbers"], "5");
    assert_eq!(second.seat(DATE, 4).await, SeatState::Available);
    assert_eq!(second.seat(DATE, 6).await, SeatState::Available);
    second.hold(DATE, &[4, 6]).await.unwrap();
    world.check_invariants().await;
}

async fn a_repeated_hold_of_held_seats_returns_the_same_reservation(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let held = caller.hold(DATE, &[1, 2]).await.unwrap();
    assert_eq!(caller.hold(DATE, &[2, 1]).await.unwrap(), held);
    assert_eq!(caller.hold(DATE, &[2]).await.unwrap(), held);
    // A hold of a held seat and another seat is a new request, so the held seat is refused.
    assert_failure(caller.hold(DATE, &[2, 3]).await, Code::FailedPrecondition, "SEAT_HELD");
    assert_ne!(caller.hold(NEXT_DATE, &[1, 2]).await.unwrap().reservation_id, held.reservation_id);
    world.check_invariants().await;
}

async fn a_hold_never_lasts_longer_than_its_admission(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    world.advance(Duration::from_secs(420));
    let held = caller.hold(DATE, &[1]).await.unwrap();
    assert_eq!(held.expire_time, Some(proto::timestamp(START + 600_000_000)));
    let other = world.admitted("IU").await;
    world.advance(Duration::from_secs(180));
    other.hold(DATE, &[1]).await.unwrap();
}

async fn a_request_id_returns_the_first_answer_also_after_the_hold_has_ended(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let request_id = Uuid::now_v7().to_string();
    let held = caller.hold_as(DATE, &[1, 2], &request_id).await.unwrap();
    assert_eq!(caller.hold_as(DATE, &[2, 1], &request_id).await.unwrap(), held);
    caller.release(&held.reservation_id).await.unwrap();
    assert_eq!(caller.hold_as(DATE, &[1, 2], &request_id).await.unwrap(), held);
    assert_eq!(caller.seat(DATE, 1).await, SeatState::Available);
    world.advance(Duration::from_secs(3_600));
    assert_eq!(caller.hold_as(DATE, &[1, 2], &request_id).await.unwrap(), held);
    world.check_invariants().await;
}

async fn a_request_id_is_refused_for_another_request_and_another_user(world: World) {
    world.concert("IU", 50).await;
    let (caller, other) = (world.admitted("IU").await, world.admitted("IU").await);
    let request_id = Uuid::now_v7().to_string();
    caller.hold_as(DATE, &[1], &request_id).await.unwrap();
    for answer in [
        caller.hold_as(DATE, &[2], &request_id).await,
        caller.hold_as(NEXT_DATE, &[1], &request_id).await,
        other.hold_as(DATE, &[1], &request_id).await,
        other.hold_as(DATE, &[3], &request_id).await,
    ] {
        let details = assert_failure(answer, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
        assert_eq!(details.error_info().unwrap().metadata["request_id"], request_id);
    }
    assert_eq!(world.stats("IU").await.held_seat_count, 1);
}

async fn a_refused_hold_leaves_no_trace_and_its_request_id_is_free(world: World) {
    world.concert("IU", 50).await;
    let (caller, other) = (world.admitted("IU").await, world.admitted("IU").await);
    let held = other.hold(DATE, &[1]).await.unwrap();
    let request_id = Uuid::now_v7().to_string();
    let refused = caller.hold_as(DATE, &[1], &request_id).await;
    assert_failure(refused, Code::FailedPrecondition, "SEAT_HELD");
    other.release(&held.reservation_id).await.unwrap();
    caller.hold_as(DATE, &[1], &request_id).await.unwrap();
}

async fn the_limit_counts_held_and_paid_seats_of_all_dates_and_tokens(world: World) {
    world.concert("IU", 50).await;
    let mut caller = world.admitted("IU").await;
    let five = caller.hold(DATE, &[1, 2, 3, 4, 5]).await;
    let details = assert_failure(five, Code::FailedPrecondition, "SEAT_LIMIT_EXCEEDED");
    assert_eq!(details.error_info().unwrap().metadata["seats_per_user_limit"], "4");
    caller.hold(DATE, &[1, 2, 3]).await.unwrap();
    let more = caller.hold(NEXT_DATE, &[1, 2]).await;
    assert_failure(more, Code::FailedPrecondition, "SEAT_LIMIT_EXCEEDED");
    caller.pay().await.unwrap();
    let again = caller.issue().await.unwrap();
    (caller.token, caller.queue_number) = (again.token, again.queue_number);
    world.promote().await;
    let more = caller.hold(DATE, &[6, 7]).await;
    let details = assert_failure(more, Code::FailedPrecondition, "SEAT_LIMIT_EXCEEDED");
    assert_eq!(details.error_info().unwrap().metadata["seat_count"], "3");
    caller.hold(DATE, &[6]).await.unwrap();
    caller.pay().await.unwrap();
    world.check_invariants().await;
}

async fn a_released_seat_is_free_immediately_and_release_is_idempotent(world: World) {
    world.concert("IU", 50).await;
    let (caller, other) = (world.admitted("IU").await, world.admitted("IU").await);
    let held = caller.hold(DATE, &[1]).await.unwrap();
    let released = caller.release(&held.reservation_id).await.unwrap();
    assert_eq!(released.state(), ReservationState::Released);
    assert_eq!(caller.release(&held.reservation_id).await.unwrap(), released);
    other.hold(DATE, &[1]).await.unwrap();
    // A repeated release must not free the seat, because another user holds the seat now.
    caller.release(&held.reservation_id).await.unwrap();
    assert_eq!(caller.seat(DATE, 1).await, SeatState::Held);
    assert_failure(caller.pay_as(&held.reservation_id, "").await, Code::FailedPrecondition, "NO_HELD_SEAT");
    world.check_invariants().await;
}

async fn an_expired_hold_is_reported_before_and_after_the_expiry_pass(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let held = caller.hold(DATE, &[1]).await.unwrap();
    world.advance(Duration::from_secs(300));
    let id = held.reservation_id.as_str();
    for _ in 0..2 {
        assert_eq!(caller.reservation(id).await.unwrap().state(), ReservationState::Expired);
        assert_eq!(caller.release(id).await.unwrap().state(), ReservationState::Expired);
        assert_failure(caller.pay_as(id, "").await, Code::FailedPrecondition, "HOLD_EXPIRED");
        assert_failure(caller.pay().await, Code::FailedPrecondition, "HOLD_EXPIRED");
        world.expire().await;
    }
    assert_eq!(world.stats("IU").await.held_seat_count, 0);
    caller.hold(DATE, &[1]).await.unwrap();
    caller.pay().await.unwrap();
    world.check_invariants().await;
}

async fn reservations_are_listed_newest_first_in_pages(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let mut ids = Vec::new();
    for seat in 1..=4 {
        ids.push(caller.hold(DATE, &[seat]).await.unwrap().reservation_id);
        if seat % 2 == 0 {
            world.advance(Duration::from_secs(1));
        }
    }
    ids.reverse();
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let user_id = caller.user_id.clone();
        let request = proto::ListReservationsRequest { user_id, page_size: 3, page_token };
        let page = caller.reservations().list_reservations(request).await.unwrap().into_inner();
        listed.extend(page.reservations.into_iter().map(|reservation| reservation.reservation_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, ids);
}
