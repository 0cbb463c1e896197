//! Tests refunds of payments.

use std::time::Duration;

use boxoffice::rpc::proto::{PaymentState, QueueState, ReservationState, SeatState, WalletEntryKind};
use tonic::Code;
use uuid::Uuid;

use crate::harness::{Caller, DATE, PRICE, START, World, assert_failure, on_both_engines};

on_both_engines!(
    a_refund_gives_money_and_seats_back_together,
    a_refund_happens_once_however_often_it_is_requested,
    a_request_id_is_refused_for_another_refund,
    a_refund_is_closed_once_the_performance_has_started,
    payments_of_another_user_are_not_found,
    a_freed_seat_is_sold_again_and_counts_as_unsold_at_the_next_promotion,
    concurrent_refunds_and_payments_of_freed_seats_keep_the_invariants,
    a_retried_payment_returns_its_first_answer_after_a_refund,
    a_refund_that_would_overflow_the_wallet_is_refused,
);

async fn paid(world: &World, seats: &[i32]) -> (Caller, boxoffice::rpc::proto::Payment) {
    let caller = world.admitted("IU").await;
    caller.hold(DATE, seats).await.unwrap();
    let payment = caller.pay().await.unwrap();
    (caller, payment)
}

async fn a_refund_gives_money_and_seats_back_together(world: World) {
    world.concert("IU", 50).await;
    let (caller, payment) = paid(&world, &[7, 8]).await;
    world.advance(Duration::from_secs(60));
    let refunded = caller.refund(&payment.payment_id).await.unwrap();
    assert_eq!(refunded.state(), PaymentState::Refunded);
    assert_eq!(refunded.refund_time, Some(boxoffice::rpc::proto::timestamp(START + 60_000_000)));
    assert_eq!((refunded.price, &refunded.seat_numbers), (2 * PRICE, &vec![7, 8]));
    assert_eq!(world.balance(caller.uuid()).await, 100 * PRICE);
    let reservation = caller.reservation(&payment.reservation_id).await.unwrap();
    assert_eq!(reservation.state(), ReservationState::Refunded);
    assert_eq!(caller.state().await, QueueState::Completed);
    let request =
        boxoffice::rpc::proto::ListWalletEntriesRequest { user_id: caller.user_id.clone(), ..Default::default() };
    let entries = world.wallets().list_wallet_entries(request).await.unwrap().into_inner().entries;
    assert_eq!((entries[0].kind(), entries[0].amount), (WalletEntryKind::Refund, 2 * PRICE));
    assert_eq!(entries[0].payment_id, payment.payment_id);
    let other = world.admitted("IU").await;
    assert_eq!(other.seat(DATE, 7).await, SeatState::Available);
    let stats = world.stats("IU").await;
    assert_eq!((stats.sold_seat_count, stats.unsold_seat_count, stats.revenue), (0, 100, 0));
    world.check_invariants().await;
}

async fn a_refund_happens_once_however_often_it_is_requested(world: World) {
    world.concert("IU", 50).await;
    let (caller, payment) = paid(&world, &[7]).await;
    let ids: Vec<String> = (0..10).map(|_| Uuid::now_v7().to_string()).collect();
    let calls = ids.iter().chain(&ids).map(|id| caller.refund_as(&payment.payment_id, id));
    let answers = futures::future::join_all(calls).await;
    let first = answers[0].as_ref().unwrap().clone();
    for answer in answers {
        assert_eq!(answer.unwrap(), first);
    }
    assert_eq!(caller.refund(&payment.payment_id).await.unwrap(), first);
    assert_eq!(world.balance(caller.uuid()).await, 100 * PRICE);
    world.check_invariants().await;
}

async fn a_request_id_is_refused_for_another_refund(world: World) {
    world.concert("IU", 50).await;
    let (caller, payment) = paid(&world, &[7]).await;
    let (other, other_payment) = paid(&world, &[8]).await;
    let request_id = Uuid::now_v7().to_string();
    caller.refund_as(&payment.payment_id, &request_id).await.unwrap();
    caller.refund_as(&payment.payment_id, &request_id).await.unwrap();
    let conflict = other.refund_as(&other_payment.payment_id, &request_id).await;
    assert_failure(conflict, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
    assert_eq!(world.balance(other.uuid()).await, 99 * PRICE);
    world.check_invariants().await;
}

async fn a_refund_is_closed_once_the_performance_has_started(world: World) {
    world.concert("IU", 50).await;
    let (caller, payment) = paid(&world, &[7]).await;
    let (early, early_payment) = paid(&world, &[8]).await;
    world.advance(Duration::from_micros(999_999_999_999));
    early.refund(&early_payment.payment_id).await.unwrap();
    world.advance(Duration::from_micros(1));
    let closed = caller.refund(&payment.payment_id).await;
    let details = assert_failure(closed, Code::FailedPrecondition, "REFUND_CLOSED");
    let metadata = &details.error_info().unwrap().metadata;
    assert_eq!(metadata["payment_id"], payment.payment_id);
    assert!(metadata["start_time"].starts_with("2027-01-26T"));
    assert_eq!(world.balance(caller.uuid()).await, 99 * PRICE);
    // A repeat of the earlier refund still returns its result.
    assert_eq!(early.refund(&early_payment.payment_id).await.unwrap().state(), PaymentState::Refunded);
    world.check_invariants().await;
}

async fn payments_of_another_user_are_not_found(world: World) {
    world.concert("IU", 50).await;
    let (_, payment) = paid(&world, &[7]).await;
    let (other, _) = paid(&world, &[8]).await;
    for id in [payment.payment_id, Uuid::now_v7().to_string()] {
        let details = assert_failure(other.refund(&id).await, Code::NotFound, "PAYMENT_NOT_FOUND");
        assert_eq!(details.error_info().unwrap().metadata["payment_id"], id);
    }
    let bad = other.refund_as("x", "y").await;
    let details = assert_failure(bad, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(details.bad_request().unwrap().field_violations.len(), 2);
}

async fn a_freed_seat_is_sold_again_and_counts_as_unsold_at_the_next_promotion(world: World) {
    world.concert("IU", 1).await;
    let (caller, payment) = paid(&world, &[1]).await;
    let last = world.admitted("IU").await;
    last.hold(crate::harness::NEXT_DATE, &[1]).await.unwrap();
    last.pay().await.unwrap();
    let late = world.waiting("IU").await;
    world.promote().await;
    assert_eq!(late.state().await, QueueState::Waiting);
    caller.refund(&payment.payment_id).await.unwrap();
    world.promote().await;
    assert_eq!(late.state().await, QueueState::Active);
    late.hold(DATE, &[1]).await.unwrap();
    late.pay().await.unwrap();
    assert_failure(caller.pay_as(&payment.reservation_id, "").await, Code::FailedPrecondition, "TOKEN_COMPLETED");
    world.check_invariants().await;
}

async fn concurrent_refunds_and_payments_of_freed_seats_keep_the_invariants(world: World) {
    world.concert("IU", 60).await;
    let mut sold = Vec::new();
    for seat in 1..=20 {
        sold.push(paid(&world, &[seat]).await);
    }
    let takers = futures::future::join_all((0..20).map(|_| world.waiting("IU"))).await;
    world.promote().await;
    let refunds = sold.iter().map(|(caller, payment)| caller.refund(&payment.payment_id));
    let takes = takers.iter().zip(1..).map(|(taker, seat)| async move {
        loop {
            match taker.hold(DATE, &[seat]).await {
                Ok(_) => return taker.pay().await,
                Err(status) => assert!(status.message().contains("sold"), "{status:?}"),
            }
        }
    });
    let (refunds, takes) = futures::join!(futures::future::join_all(refunds), futures::future::join_all(takes));
    assert!(refunds.iter().all(Result::is_ok) && takes.iter().all(Result::is_ok));
    assert_eq!(world.stats("IU").await.sold_seat_count, 20);
    world.check_invariants().await;
}

async fn a_retried_payment_returns_its_first_answer_after_a_refund(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    caller.hold(DATE, &[1]).await.unwrap();
    let request_id = Uuid::now_v7().to_string();
    let payment = caller.pay_as("", &request_id).await.unwrap();
    caller.refund(&payment.payment_id).await.unwrap();
    assert_eq!(caller.pay_as("", &request_id).await.unwrap(), payment);
    assert_eq!(world.balance(caller.uuid()).await, 100 * PRICE);
    world.check_invariants().await;
}

async fn a_refund_that_would_overflow_the_wallet_is_refused(world: World) {
    world.concert("IU", 50).await;
    let (caller, payment) = paid(&world, &[1]).await;
    let balance = world.balance(caller.uuid()).await;
    world.charge(caller.uuid(), i64::MAX - balance, "").await.unwrap();
    let refused = caller.refund(&payment.payment_id).await;
    assert_failure(refused, Code::FailedPrecondition, "BALANCE_LIMIT_EXCEEDED");
    assert_eq!(world.stats("IU").await.sold_seat_count, 1);
}
