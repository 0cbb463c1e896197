//! Tests payments of held seats.

use std::time::Duration;

use boxoffice::rpc::proto::{self, PaymentState, QueueState, ReservationState, SeatState};
use tonic::Code;
use uuid::Uuid;

use crate::harness::{DATE, NEXT_DATE, PRICE, START, World, assert_failure, on_both_engines};

on_both_engines!(
    a_payment_changes_money_seats_reservation_and_token_together,
    paying_again_returns_the_same_payment,
    a_request_id_pays_once_and_is_refused_for_another_request,
    a_wallet_without_enough_money_pays_nothing_and_the_hold_stays,
    other_holds_of_the_token_are_released,
    a_token_with_several_holds_must_name_one,
    an_expired_hold_is_not_paid_even_if_the_seat_is_free,
    an_expired_hold_is_not_paid_if_another_user_took_the_seat,
    payments_are_listed_newest_first_in_pages,
);

async fn a_payment_changes_money_seats_reservation_and_token_together(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let held = caller.hold(DATE, &[7, 8]).await.unwrap();
    world.advance(Duration::from_secs(10));
    let payment = caller.pay().await.unwrap();
    let expected = proto::Payment {
        payment_id: payment.payment_id.clone(),
        user_id: caller.user_id.clone(),
        reservation_id: held.reservation_id.clone(),
        concert_code: "IU".into(),
        concert_name: "IU live".into(),
        date: DATE.into(),
        seat_numbers: vec![7, 8],
        price: 2 * PRICE,
        state: PaymentState::Paid.into(),
        pay_time: Some(proto::timestamp(START + 10_000_000)),
        refund_time: None,
    };
    assert_eq!(payment, expected);
    assert!(Uuid::parse_str(&payment.payment_id).is_ok());
    assert_eq!(world.balance(caller.uuid()).await, 98 * PRICE);
    assert_eq!(caller.reservation(&held.reservation_id).await.unwrap().state(), ReservationState::Paid);
    assert_eq!(caller.state().await, QueueState::Completed);
    let other = world.admitted("IU").await;
    assert_eq!(other.seat(DATE, 7).await, SeatState::Sold);
    let request = proto::GetPaymentRequest { user_id: caller.user_id.clone(), payment_id: payment.payment_id.clone() };
    let found = caller.payments().get_payment(request).await.unwrap().into_inner().payment.unwrap();
    assert_eq!(found, payment);
    world.advance(Duration::from_secs(3_600));
    world.expire().await;
    assert_eq!(world.stats("IU").await.sold_seat_count, 2);
    assert_eq!(world.stats("IU").await.revenue, 2 * PRICE);
    world.check_invariants().await;
}

async fn paying_again_returns_the_same_payment(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let held = caller.hold(DATE, &[7]).await.unwrap();
    let payment = caller.pay().await.unwrap();
    assert_eq!(caller.pay().await.unwrap(), payment);
    assert_eq!(caller.pay_as(&held.reservation_id, "").await.unwrap(), payment);
    let request_id = Uuid::now_v7().to_string();
    assert_eq!(caller.pay_as(&held.reservation_id, &request_id).await.unwrap(), payment);
    assert_eq!(world.balance(caller.uuid()).await, 99 * PRICE);
    world.check_invariants().await;
}

async fn a_request_id_pays_once_and_is_refused_for_another_request(world: World) {
    world.concert("IU", 50).await;
    let (caller, other) = (world.admitted("IU").await, world.admitted("IU").await);
    let held = caller.hold(DATE, &[7]).await.unwrap();
    other.hold(DATE, &[8]).await.unwrap();
    let request_id = Uuid::now_v7().to_string();
    let calls = (0..20).map(|_| caller.pay_as(&held.reservation_id, &request_id));
    let answers = futures::future::join_all(calls).await;
    let first = answers[0].as_ref().unwrap().clone();
    for answer in answers {
        assert_eq!(answer.unwrap(), first);
    }
    assert_eq!(caller.pay_as("", &request_id).await.unwrap(), first);
    let another = caller.pay_as(&Uuid::now_v7().to_string(), &request_id).await;
    assert_failure(another, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
    assert_failure(other.pay_as("", &request_id).await, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
    assert_eq!(world.balance(other.uuid()).await, 100 * PRICE);
    assert_eq!(world.balance(caller.uuid()).await, 99 * PRICE);
    world.check_invariants().await;
}

async fn a_wallet_without_enough_money_pays_nothing_and_the_hold_stays(world: World) {
    world.concert("IU", 50).await;
    let user_id = world.user(PRICE - 1).await;
    let caller = world.join("IU", user_id).await;
    world.promote().await;
    let held = caller.hold(DATE, &[7]).await.unwrap();
    let details = assert_failure(caller.pay().await, Code::FailedPrecondition, "INSUFFICIENT_BALANCE");
    let metadata = &details.error_info().unwrap().metadata;
    assert_eq!((metadata["balance"].as_str(), metadata["price"].as_str()), ("9999", "10000"));
    assert_eq!(caller.reservation(&held.reservation_id).await.unwrap(), held);
    assert_eq!(caller.state().await, QueueState::Active);
    world.charge(user_id, 1, "").await.unwrap();
    caller.pay().await.unwrap();
    assert_eq!(world.balance(user_id).await, 0);
    world.check_invariants().await;
}

async fn other_holds_of_the_token_are_released(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let first = caller.hold(DATE, &[1]).await.unwrap();
    let second = caller.hold(NEXT_DATE, &[1]).await.unwrap();
    caller.pay_as(&first.reservation_id, "").await.unwrap();
    assert_eq!(caller.reservation(&second.reservation_id).await.unwrap().state(), ReservationState::Released);
    let other = world.admitted("IU").await;
    other.hold(NEXT_DATE, &[1]).await.unwrap();
    world.check_invariants().await;
}

async fn a_token_with_several_holds_must_name_one(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    caller.hold(DATE, &[1]).await.unwrap();
    let second = caller.hold(DATE, &[2]).await.unwrap();
    let details = assert_failure(caller.pay().await, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "reservation_id");
    assert_eq!(caller.pay_as(&second.reservation_id, "").await.unwrap().seat_numbers, [2]);
}

async fn an_expired_hold_is_not_paid_even_if_the_seat_is_free(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let held = caller.hold(DATE, &[1]).await.unwrap();
    world.advance(Duration::from_millis(299_999));
    let last_moment = world.admitted("IU").await;
    world.advance(Duration::from_millis(1));
    let details = assert_failure(caller.pay().await, Code::FailedPrecondition, "HOLD_EXPIRED");
    let metadata = &details.error_info().unwrap().metadata;
    assert_eq!(metadata["reservation_id"], held.reservation_id);
    assert_eq!(metadata["expire_time"], "2027-01-15T08:05:00.000000Z");
    assert_eq!(world.balance(caller.uuid()).await, 100 * PRICE);
    assert_eq!(last_moment.seat(DATE, 1).await, SeatState::Available);
    world.check_invariants().await;
}

async fn an_expired_hold_is_not_paid_if_another_user_took_the_seat(world: World) {
    world.concert("IU", 50).await;
    let (caller, other) = (world.admitted("IU").await, world.admitted("IU").await);
    let held = caller.hold(DATE, &[1, 2]).await.unwrap();
    world.advance(Duration::from_secs(300));
    other.hold(DATE, &[2]).await.unwrap();
    assert_failure(caller.pay_as(&held.reservation_id, "").await, Code::FailedPrecondition, "HOLD_EXPIRED");
    world.expire().await;
    assert_eq!(other.seat(DATE, 1).await, SeatState::Available);
    assert_eq!(other.seat(DATE, 2).await, SeatState::Held);
    other.pay().await.unwrap();
    world.check_invariants().await;
}

async fn payments_are_listed_newest_first_in_pages(world: World) {
    world.concert("IU", 50).await;
    let mut caller = world.waiting("IU").await;
    let mut ids = Vec::new();
    for seat in 1..=4 {
        let token = caller.issue().await.unwrap();
        (caller.token, caller.queue_number) = (token.token, token.queue_number);
        world.promote().await;
        caller.hold(DATE, &[seat]).await.unwrap();
        ids.push(caller.pay().await.unwrap().payment_id);
    }
    ids.reverse();
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let user_id = caller.user_id.clone();
        let request = proto::ListPaymentsRequest { user_id, page_size: 3, page_token };
        let page = caller.payments().list_payments(request).await.unwrap().into_inner();
        listed.extend(page.payments.into_iter().map(|payment| payment.payment_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, ids);
}
