//! Tests many concurrent callers.

use std::time::Duration;

use boxoffice::rpc::proto::{QueueState, SeatState};
use tonic::Code;
use uuid::Uuid;

use crate::harness::{Caller, DATE, PRICE, World, assert_failure, on_both_engines};

on_both_engines!(
    of_200_callers_for_one_seat_exactly_one_wins,
    of_200_callers_for_overlapping_pairs_no_seat_is_held_twice,
    two_hundred_concurrent_charges_of_one_wallet_add_up,
    concurrent_issues_of_one_user_are_one_token,
    concurrent_issues_of_many_users_are_dense,
    a_wallet_never_pays_more_than_it_holds,
    a_seat_whose_hold_expires_is_paid_or_held_by_another_user_and_never_both,
    a_user_that_leaves_and_pays_at_the_same_time_does_only_one,
);

/// Adds `count` new users to the queue, then runs the promotion pass once.
async fn crowd(world: &World, count: usize) -> Vec<Caller> {
    let joins = (0..count).map(|_| world.waiting("IU"));
    let callers = futures::future::join_all(joins).await;
    world.promote().await;
    callers
}

async fn of_200_callers_for_one_seat_exactly_one_wins(world: World) {
    world.concert("IU", 200).await;
    let callers = crowd(&world, 200).await;
    let calls = callers.iter().map(|caller| caller.hold(DATE, &[7]));
    let answers = futures::future::join_all(calls).await;
    let winners = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(winners, 1);
    for answer in answers.into_iter().filter(Result::is_err) {
        let details = assert_failure(answer, Code::FailedPrecondition, "SEAT_HELD");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(300)));
    }
    world.check_invariants().await;
}

async fn of_200_callers_for_overlapping_pairs_no_seat_is_held_twice(world: World) {
    world.concert("IU", 200).await;
    let callers = crowd(&world, 200).await;
    let calls = callers.iter().zip(0..).map(|(caller, i)| async move {
        let pair = [1 + i % 20, 1 + (i + 1) % 20];
        caller.hold(DATE, &pair).await.is_ok()
    });
    let winners = futures::future::join_all(calls).await.into_iter().filter(|won| *won).count();
    let held = callers[0].seats(DATE).await.unwrap().iter().filter(|seat| seat.state() == SeatState::Held).count();
    assert_eq!(held, 2 * winners);
    assert!(winners >= 7, "{winners}");
    world.check_invariants().await;
}

async fn two_hundred_concurrent_charges_of_one_wallet_add_up(world: World) {
    let user_id = world.user(0).await;
    let calls = (1..=200).map(|amount| world.charge(user_id, amount, ""));
    let mut balances: Vec<i64> =
        futures::future::join_all(calls).await.into_iter().map(|answer| answer.unwrap().balance).collect();
    assert_eq!(world.balance(user_id).await, 200 * 201 / 2);
    balances.sort_unstable();
    balances.dedup();
    assert_eq!(balances.len(), 200, "two charges returned the same balance");
    world.check_invariants().await;
}

async fn concurrent_issues_of_one_user_are_one_token(world: World) {
    world.concert("IU", 5).await;
    let user_id = world.user(0).await;
    let calls = (0..100).map(|_| world.join("IU", user_id));
    for caller in futures::future::join_all(calls).await {
        assert_eq!(caller.queue_number, 1);
    }
    assert_eq!(world.stats("IU").await.issued_count, 1);
}

async fn concurrent_issues_of_many_users_are_dense(world: World) {
    world.concert("IU", 5).await;
    let mut numbers: Vec<i64> = crowd(&world, 300).await.into_iter().map(|caller| caller.queue_number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=300).collect::<Vec<_>>());
    world.check_invariants().await;
}

async fn a_wallet_never_pays_more_than_it_holds(world: World) {
    for code in ["A", "B", "C", "D", "E"] {
        world.concert(code, 5).await;
    }
    let user_id = world.user(3 * PRICE).await;
    let joins = ["A", "B", "C", "D", "E"].map(|code| world.join(code, user_id));
    let callers = futures::future::join_all(joins).await;
    world.promote().await;
    for caller in &callers {
        caller.hold(DATE, &[1]).await.unwrap();
    }
    let answers = futures::future::join_all(callers.iter().map(Caller::pay)).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
    for answer in answers.into_iter().filter(Result::is_err) {
        assert_failure(answer, Code::FailedPrecondition, "INSUFFICIENT_BALANCE");
    }
    assert_eq!(world.balance(user_id).await, 0);
    world.check_invariants().await;
}

async fn a_seat_whose_hold_expires_is_paid_or_held_by_another_user_and_never_both(world: World) {
    world.concert("IU", 100).await;
    let callers = crowd(&world, 80).await;
    let (holders, takers) = callers.split_at(40);
    for (holder, seat) in holders.iter().zip(1..) {
        holder.hold(DATE, &[seat]).await.unwrap();
    }
    world.advance(Duration::from_millis(299_999));
    let pays = futures::future::join_all(holders.iter().map(Caller::pay));
    let takes = takers.iter().zip(1..).map(|(taker, seat)| async move { taker.hold(DATE, &[seat]).await });
    let takes = futures::future::join_all(takes);
    let end = async { world.advance(Duration::from_millis(1)) };
    let (pays, takes, ()) = tokio::join!(pays, takes, end);
    for (paid, taken) in pays.into_iter().zip(takes) {
        assert!(!(paid.is_ok() && taken.is_ok()), "a seat was paid and held by another user");
        if paid.is_err() {
            assert_failure(paid, Code::FailedPrecondition, "HOLD_EXPIRED");
        }
        if let Err(status) = taken {
            let reason = if status.message().contains("sold") { "SEAT_SOLD" } else { "SEAT_HELD" };
            assert_failure(Err::<(), _>(status), Code::FailedPrecondition, reason);
        }
    }
    world.check_invariants().await;
}

async fn a_user_that_leaves_and_pays_at_the_same_time_does_only_one(world: World) {
    world.concert("IU", 100).await;
    let callers = crowd(&world, 40).await;
    for (caller, seat) in callers.iter().zip(1..) {
        caller.hold(DATE, &[seat]).await.unwrap();
    }
    let request_id = Uuid::now_v7().to_string();
    let race = callers.iter().map(|caller| async { tokio::join!(caller.pay_as("", ""), caller.leave()) });
    let answers = futures::future::join_all(race).await;
    for (caller, (paid, left)) in callers.iter().zip(answers) {
        left.unwrap();
        let expected = if paid.is_ok() { QueueState::Completed } else { QueueState::Left };
        assert_eq!(caller.state().await, expected);
        if paid.is_err() {
            assert_failure(paid, Code::FailedPrecondition, "TOKEN_LEFT");
            assert_failure(caller.pay_as("", &request_id).await, Code::FailedPrecondition, "TOKEN_LEFT");
        }
    }
    world.check_invariants().await;
}
