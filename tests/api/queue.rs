//! Tests tokens, positions, promotion, expiry and departures.

use std::time::Duration;

use boxoffice::rpc::proto::{self, QueueState};
use tonic::Code;

use crate::harness::{DATE, START, World, assert_failure, eventually, on_both_engines};

on_both_engines!(
    numbers_are_dense_per_concert_and_a_repeat_returns_the_same_token,
    a_promoted_token_is_active_and_has_an_end,
    a_waiting_token_has_a_position_and_a_time_for_the_next_poll,
    promotion_admits_as_many_as_seats_are_unsold_in_queue_order,
    promotion_is_limited_by_a_maximum_only_if_it_is_below_the_unsold_seats,
    promotion_counts_holds_as_unsold_and_payments_as_sold,
    promotion_skips_the_numbers_of_departed_users,
    promotion_admits_no_user_when_sold_out,
    promotion_continues_when_no_active_token_is_left,
    two_concerts_are_promoted_independently,
    no_user_is_admitted_while_paused_or_before_the_opening_but_admitted_users_can_buy,
    an_admission_ends_at_its_expiry_before_any_expiry_pass,
    after_expiry_a_new_token_is_at_the_end_of_the_queue,
    leaving_is_idempotent_makes_room_and_releases_seats,
    leaving_does_not_change_an_ended_token,
    a_position_decreases_when_a_user_ahead_leaves,
    a_watcher_sees_each_change_and_the_end,
    a_watcher_sees_its_admission_expire,
    a_watcher_of_an_ended_token_gets_one_message,
    the_estimate_comes_from_the_measured_rate,
    the_scheme_bearer_may_be_in_upper_or_lower_case,
);

async fn numbers_are_dense_per_concert_and_a_repeat_returns_the_same_token(world: World) {
    world.concert("IU", 50).await;
    world.concert("BTS", 50).await;
    let first = world.waiting("IU").await;
    let second = world.waiting("IU").await;
    assert_eq!((first.queue_number, second.queue_number), (1, 2));
    assert_eq!(world.join("BTS", first.uuid()).await.queue_number, 1);

    let again = first.issue().await.unwrap();
    assert_eq!((again.token.as_str(), again.queue_number), (first.token.as_str(), 1));
    assert_eq!(again.state(), QueueState::Waiting);
    assert_eq!(again.issue_time, Some(proto::timestamp(START)));
    assert_eq!(again.expire_time, None);
    world.promote().await;
    let active = first.issue().await.unwrap();
    assert_eq!((active.token.as_str(), active.queue_number), (first.token.as_str(), 1));
    assert_eq!(active.state(), QueueState::Active);
    assert_eq!(active.expire_time, Some(proto::timestamp(START + 600_000_000)));
    world.check_invariants().await;
}

async fn a_promoted_token_is_active_and_has_an_end(world: World) {
    world.concert("IU", 50).await;
    let caller = world.waiting("IU").await;
    assert_eq!(caller.state().await, QueueState::Waiting);
    world.advance(Duration::from_secs(2));
    world.promote().await;
    let position = caller.position().await.unwrap();
    assert_eq!(position.state(), QueueState::Active);
    assert_eq!(position.position, None);
    assert_eq!(position.expire_time, Some(proto::timestamp(START + 602_000_000)));
    assert_eq!(position.unsold_seat_count, 100);
}

async fn a_waiting_token_has_a_position_and_a_time_for_the_next_poll(world: World) {
    world.concert("IU", 1).await;
    let mut callers = Vec::new();
    for _ in 0..5 {
        callers.push(world.waiting("IU").await);
    }
    for (caller, place) in callers.iter().zip(1..) {
        let position = caller.position().await.unwrap();
        assert_eq!((position.position, position.queue_number), (Some(place), place));
        assert!(position.poll_after.unwrap().seconds >= 2);
        assert_eq!(position.expire_time, None);
    }
    world.promote().await;
    // The concert has two dates with one seat each, so two users are admitted.
    assert_eq!(callers[1].state().await, QueueState::Active);
    assert_eq!(callers[2].position().await.unwrap().position, Some(1));
    assert_eq!(callers[4].position().await.unwrap().position, Some(3));
}

async fn promotion_admits_as_many_as_seats_are_unsold_in_queue_order(world: World) {
    world.concert("IU", 2).await;
    let mut callers = Vec::new();
    for _ in 0..7 {
        callers.push(world.waiting("IU").await);
    }
    world.promote().await;
    world.promote().await;
    let mut states = Vec::new();
    for caller in &callers {
        states.push(caller.state().await);
    }
    assert_eq!(states[..4], [QueueState::Active; 4]);
    assert_eq!(states[4..], [QueueState::Waiting; 3]);
    world.check_invariants().await;
}

async fn promotion_is_limited_by_a_maximum_only_if_it_is_below_the_unsold_seats(world: World) {
    world.concert_with("LOW", 5, |concert| concert.max_active_count = 3).await;
    world.concert_with("HIGH", 1, |concert| concert.max_active_count = 3).await;
    for _ in 0..5 {
        world.waiting("LOW").await;
        world.waiting("HIGH").await;
    }
    world.promote().await;
    assert_eq!(world.stats("LOW").await.active_count, 3);
    assert_eq!(world.stats("HIGH").await.active_count, 2);
    let raised =
        proto::UpdateSaleRequest { concert_code: "LOW".into(), max_active_count: Some(4), ..Default::default() };
    assert_eq!(world.update_sale(raised).await.max_active_count, 4);
    world.promote().await;
    assert_eq!(world.stats("LOW").await.active_count, 4);
}

async fn promotion_counts_holds_as_unsold_and_payments_as_sold(world: World) {
    world.concert_with("IU", 3, |concert| concert.seats_per_user_limit = 3).await;
    let holder = world.admitted("IU").await;
    let payer = world.admitted("IU").await;
    holder.hold(DATE, &[1]).await.unwrap();
    payer.hold(DATE, &[2, 3]).await.unwrap();
    payer.pay().await.unwrap();
    for _ in 0..6 {
        world.waiting("IU").await;
    }
    world.promote().await;
    // Six seats minus two sold seats leave room for four users. The user with the hold is one of them.
    let stats = world.stats("IU").await;
    assert_eq!((stats.unsold_seat_count, stats.held_seat_count, stats.sold_seat_count), (4, 1, 2));
    assert_eq!((stats.active_count, stats.completed_count, stats.waiting_count), (4, 1, 3));
    world.check_invariants().await;
}

async fn promotion_skips_the_numbers_of_departed_users(world: World) {
    world.concert("IU", 1).await;
    let mut callers = Vec::new();
    for _ in 0..8 {
        callers.push(world.waiting("IU").await);
    }
    for index in [0, 1, 3] {
        callers[index].leave().await.unwrap();
    }
    world.promote().await;
    let mut states = Vec::new();
    for caller in &callers {
        states.push(caller.state().await);
    }
    use QueueState::{Active, Left, Waiting};
    assert_eq!(states, [Left, Left, Active, Left, Active, Waiting, Waiting, Waiting]);
    assert_eq!(callers[5].position().await.unwrap().position, Some(1));
    world.check_invariants().await;
}

async fn promotion_admits_no_user_when_sold_out(world: World) {
    world.concert("IU", 1).await;
    for date in [DATE, crate::harness::NEXT_DATE] {
        let caller = world.admitted("IU").await;
        caller.hold(date, &[1]).await.unwrap();
        caller.pay().await.unwrap();
    }
    let late = world.waiting("IU").await;
    world.promote().await;
    let position = late.position().await.unwrap();
    assert_eq!((position.state(), position.position), (QueueState::Waiting, Some(1)));
    assert_eq!(position.unsold_seat_count, 0);
}

async fn promotion_continues_when_no_active_token_is_left(world: World) {
    world.concert("IU", 1).await;
    let first = world.admitted("IU").await;
    let second = world.admitted("IU").await;
    let third = world.waiting("IU").await;
    world.promote().await;
    assert_eq!(third.state().await, QueueState::Waiting);
    first.leave().await.unwrap();
    world.advance(Duration::from_secs(600));
    world.expire().await;
    assert_eq!(second.state().await, QueueState::Expired);
    world.promote().await;
    assert_eq!(third.state().await, QueueState::Active);
}

async fn two_concerts_are_promoted_independently(world: World) {
    world.concert("IU", 1).await;
    world.concert("BTS", 2).await;
    for _ in 0..5 {
        world.waiting("IU").await;
        world.waiting("BTS").await;
    }
    world.promote().await;
    let (iu, bts) = (world.stats("IU").await, world.stats("BTS").await);
    assert_eq!((iu.active_count, iu.waiting_count), (2, 3));
    assert_eq!((bts.active_count, bts.waiting_count), (4, 1));
    world.check_invariants().await;
}

async fn no_user_is_admitted_while_paused_or_before_the_opening_but_admitted_users_can_buy(world: World) {
    let open_time = Some(proto::timestamp(START + 60_000_000));
    world.concert_with("IU", 50, |concert| concert.open_time = open_time).await;
    let early = world.waiting("IU").await;
    world.promote().await;
    assert_eq!(early.state().await, QueueState::Waiting);
    world.advance(Duration::from_secs(60));
    world.promote().await;
    assert_eq!(early.state().await, QueueState::Active);

    let pause =
        |paused| proto::UpdateSaleRequest { concert_code: "IU".into(), paused: Some(paused), ..Default::default() };
    assert!(world.update_sale(pause(true)).await.paused);
    let late = world.waiting("IU").await;
    world.promote().await;
    assert_eq!(late.state().await, QueueState::Waiting);
    early.hold(DATE, &[1]).await.unwrap();
    early.pay().await.unwrap();
    assert!(!world.update_sale(pause(false)).await.paused);
    world.promote().await;
    assert_eq!(late.state().await, QueueState::Active);
}

async fn an_admission_ends_at_its_expiry_before_any_expiry_pass(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    world.advance(Duration::from_millis(599_999));
    assert_eq!(caller.state().await, QueueState::Active);
    world.advance(Duration::from_millis(1));
    assert_eq!(caller.state().await, QueueState::Expired);
    assert_failure(caller.seats(DATE).await, Code::FailedPrecondition, "TOKEN_EXPIRED");
    assert_failure(caller.hold(DATE, &[1]).await, Code::FailedPrecondition, "TOKEN_EXPIRED");
    world.expire().await;
    assert_eq!(caller.state().await, QueueState::Expired);
    assert_eq!(world.stats("IU").await.expired_count, 1);
}

async fn after_expiry_a_new_token_is_at_the_end_of_the_queue(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    world.waiting("IU").await;
    world.advance(Duration::from_secs(600));
    // The expiry pass has not run yet.
    let again = caller.issue().await.unwrap();
    assert_eq!((again.queue_number, again.state()), (3, QueueState::Waiting));
    assert_ne!(again.token, caller.token);
    assert_eq!(caller.state().await, QueueState::Expired);
    world.check_invariants().await;
}

async fn leaving_is_idempotent_makes_room_and_releases_seats(world: World) {
    world.concert("IU", 1).await;
    let caller = world.admitted("IU").await;
    let other = world.admitted("IU").await;
    let held = caller.hold(DATE, &[1]).await.unwrap();
    let late = world.waiting("IU").await;
    world.promote().await;
    assert_eq!(late.state().await, QueueState::Waiting);
    caller.leave().await.unwrap();
    caller.leave().await.unwrap();
    assert_eq!(caller.state().await, QueueState::Left);
    let released = caller.reservation(&held.reservation_id).await.unwrap();
    assert_eq!(released.state(), proto::ReservationState::Released);
    other.hold(DATE, &[1]).await.unwrap();
    world.promote().await;
    assert_eq!(late.state().await, QueueState::Active);
    assert_failure(caller.hold(DATE, &[1]).await, Code::FailedPrecondition, "TOKEN_LEFT");
    let again = caller.issue().await.unwrap();
    assert_eq!(again.queue_number, 4);
    world.check_invariants().await;
}

async fn leaving_does_not_change_an_ended_token(world: World) {
    world.concert("IU", 5).await;
    let paid = world.admitted("IU").await;
    paid.hold(DATE, &[1]).await.unwrap();
    paid.pay().await.unwrap();
    let over = world.admitted("IU").await;
    world.advance(Duration::from_secs(600));
    paid.leave().await.unwrap();
    over.leave().await.unwrap();
    assert_eq!(paid.state().await, QueueState::Completed);
    assert_eq!(over.state().await, QueueState::Expired);
    world.check_invariants().await;
}

async fn a_position_decreases_when_a_user_ahead_leaves(world: World) {
    world.concert("IU", 1).await;
    let mut callers = Vec::new();
    for _ in 0..4 {
        callers.push(world.waiting("IU").await);
    }
    callers[1].leave().await.unwrap();
    let mut places = Vec::new();
    for caller in &callers {
        places.push(caller.position().await.unwrap().position);
    }
    assert_eq!(places, [Some(1), None, Some(2), Some(3)]);
}

async fn a_watcher_sees_each_change_and_the_end(world: World) {
    world.concert("IU", 1).await;
    let ahead = world.waiting("IU").await;
    world.waiting("IU").await;
    let caller = world.waiting("IU").await;
    let mut stream = caller.watch().await.unwrap();
    let mut next = async || stream.message().await.unwrap().map(|message| message.position.unwrap());
    let first = next().await.unwrap();
    assert_eq!((first.state(), first.position), (QueueState::Waiting, Some(3)));
    ahead.leave().await.unwrap();
    assert_eq!(next().await.unwrap().position, Some(2));
    world.promote().await;
    let active = next().await.unwrap();
    assert_eq!((active.state(), active.position), (QueueState::Active, None));
    assert!(active.expire_time.is_some());
    caller.hold(DATE, &[1]).await.unwrap();
    caller.pay().await.unwrap();
    assert_eq!(next().await.unwrap().state(), QueueState::Completed);
    assert_eq!(next().await, None);
}

async fn a_watcher_sees_its_admission_expire(world: World) {
    world.concert("IU", 5).await;
    let caller = world.admitted("IU").await;
    let mut stream = caller.watch().await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().position.unwrap().state(), QueueState::Active);
    world.advance(Duration::from_secs(600));
    assert_eq!(stream.message().await.unwrap().unwrap().position.unwrap().state(), QueueState::Expired);
    assert_eq!(stream.message().await.unwrap(), None);
}

async fn a_watcher_of_an_ended_token_gets_one_message(world: World) {
    world.concert("IU", 5).await;
    let caller = world.waiting("IU").await;
    caller.leave().await.unwrap();
    let mut stream = caller.watch().await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().position.unwrap().state(), QueueState::Left);
    assert_eq!(stream.message().await.unwrap(), None);
}

async fn the_estimate_comes_from_the_measured_rate(world: World) {
    world.concert_with("IU", 50, |concert| concert.max_active_count = 1).await;
    let mut callers = Vec::new();
    for _ in 0..10 {
        callers.push(world.waiting("IU").await);
    }
    assert_eq!(callers[9].position().await.unwrap().estimated_wait, None);
    for caller in &callers[..4] {
        world.advance(Duration::from_secs(2));
        world.promote().await;
        caller.leave().await.unwrap();
    }
    world.advance(Duration::from_secs(2));
    world.promote().await;
    // One user is admitted every two seconds, and five users wait.
    let position = callers[9].position().await.unwrap();
    assert_eq!(position.position, Some(5));
    let estimate = position.estimated_wait.unwrap().seconds;
    assert!((8..=14).contains(&estimate), "{estimate} s");
}

async fn the_scheme_bearer_may_be_in_upper_or_lower_case(world: World) {
    world.concert("IU", 5).await;
    let caller = world.waiting("IU").await;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let message = proto::GetPositionRequest { concert_code: "IU".into(), user_id: caller.user_id.clone() };
        let mut request = tonic::Request::new(message);
        let value = format!("{scheme} {}", caller.token).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        caller.queue().get_position(request).await.unwrap();
    }
    eventually("GetPosition succeeds", async || caller.position().await.is_ok()).await;
}
