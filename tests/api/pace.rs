//! Tests of `max_admissions_per_minute`: the number of admissions over time.

use std::time::Duration;

use boxoffice::rpc::proto::{self, AdmissionOrder, QueueState};
use tonic::Code;

use crate::harness::{Caller, START, World, assert_failure, on_both_engines};

on_both_engines!(
    users_are_admitted_evenly_over_the_minute,
    replicas_and_restarts_share_the_pace,
    the_pace_can_change_at_any_time,
    slots_of_a_quiet_time_are_lost,
    the_estimated_wait_knows_the_pace,
    a_draw_is_admitted_at_the_pace,
    a_negative_pace_is_refused,
);

/// The number of users that are admitted at the opening: the slot of the opening itself.
const AT_OPENING: i64 = 1;

/// Creates a concert with 60 admissions per minute, and with a number of waiting users.
async fn sale(world: &World, count: usize) -> Vec<Caller> {
    world.concert_with("IU", 400, |concert| concert.max_admissions_per_minute = 60).await;
    let mut callers = Vec::new();
    for _ in 0..count {
        callers.push(world.waiting("IU").await);
    }
    callers
}

fn pace(max_admissions_per_minute: i32) -> proto::UpdateSaleRequest {
    let max_admissions_per_minute = Some(max_admissions_per_minute);
    proto::UpdateSaleRequest { concert_code: "IU".into(), max_admissions_per_minute, ..Default::default() }
}

async fn admitted(world: &World) -> i64 {
    world.stats("IU").await.active_count
}

async fn users_are_admitted_evenly_over_the_minute(world: World) {
    let callers = sale(&world, 80).await;
    assert_eq!(world.update_sale(pace(60)).await.max_admissions_per_minute, 60);
    world.promote().await;
    assert_eq!(admitted(&world).await, AT_OPENING);
    world.promote().await;
    assert_eq!(admitted(&world).await, AT_OPENING, "a second promotion at the same time admits no user");
    for round in 1..=30 {
        world.advance(Duration::from_secs(2));
        world.promote().await;
        assert_eq!(admitted(&world).await, AT_OPENING + 2 * round);
    }
    assert_eq!(callers[60].state().await, QueueState::Active);
    assert_eq!(callers[61].position().await.unwrap().position, Some(1));
    assert_eq!(world.stats("IU").await.admissions_last_minute, 60);
    world.check_invariants().await;
}

async fn replicas_and_restarts_share_the_pace(mut world: World) {
    sale(&world, 40).await;
    let second = world.add_replica().await;
    world.promote().await;
    world.server(second).promote().await.unwrap();
    assert_eq!(admitted(&world).await, AT_OPENING);
    // Two promotions per second, by two replicas, admit one user per second.
    for half in 1..=20 {
        world.advance(Duration::from_millis(500));
        world.server(half % 2).promote().await.unwrap();
        assert_eq!(admitted(&world).await, AT_OPENING + half as i64 / 2);
    }
    world.restart().await;
    world.promote().await;
    assert_eq!(admitted(&world).await, AT_OPENING + 10);
    world.advance(Duration::from_secs(3));
    world.promote().await;
    assert_eq!(admitted(&world).await, AT_OPENING + 13);
}

async fn the_pace_can_change_at_any_time(world: World) {
    sale(&world, 150).await;
    world.promote().await;
    world.update_sale(pace(600)).await;
    world.advance(Duration::from_secs(1));
    world.promote().await;
    assert_eq!(admitted(&world).await, AT_OPENING + 10);
    world.update_sale(pace(6)).await;
    world.advance(Duration::from_secs(9));
    world.promote().await;
    assert_eq!(admitted(&world).await, AT_OPENING + 10);
    world.advance(Duration::from_secs(1));
    world.promote().await;
    assert_eq!(admitted(&world).await, AT_OPENING + 11);
    world.update_sale(pace(0)).await;
    world.promote().await;
    assert_eq!(admitted(&world).await, 150);
    // The pace starts at the last admission, also if that admission had no pace.
    world.update_sale(pace(60)).await;
    let last = [world.waiting("IU").await, world.waiting("IU").await];
    world.promote().await;
    assert_eq!(admitted(&world).await, 150);
    world.advance(Duration::from_secs(1));
    world.promote().await;
    assert_eq!((last[0].state().await, last[1].state().await), (QueueState::Active, QueueState::Waiting));
}

async fn slots_of_a_quiet_time_are_lost(world: World) {
    sale(&world, 1).await;
    world.promote().await;
    world.advance(Duration::from_secs(300));
    for _ in 0..20 {
        world.waiting("IU").await;
    }
    world.promote().await;
    assert_eq!(admitted(&world).await, 1 + AT_OPENING);
}

async fn the_estimated_wait_knows_the_pace(world: World) {
    let open_time = Some(proto::timestamp(START + 30_000_000));
    let set = |concert: &mut proto::CreateConcertRequest| {
        (concert.max_admissions_per_minute, concert.open_time) = (30, open_time);
    };
    world.concert_with("IU", 400, set).await;
    let mut callers = Vec::new();
    for _ in 0..20 {
        callers.push(world.waiting("IU").await);
    }
    let wait = async |index: usize| {
        let position = callers[index].position().await.unwrap();
        position.estimated_wait.map(|wait| wait.seconds)
    };
    world.promote().await;
    // The sale opens in 30 seconds. The tenth user is admitted after 20 seconds.
    assert_eq!(wait(9).await, Some(50));
    world.update_sale(proto::UpdateSaleRequest { paused: Some(true), ..pace(30) }).await;
    world.promote().await;
    assert_eq!(wait(9).await, None);
    world.update_sale(proto::UpdateSaleRequest { paused: Some(false), ..pace(60) }).await;
    world.promote().await;
    assert_eq!(wait(9).await, Some(40));
}

async fn a_draw_is_admitted_at_the_pace(world: World) {
    let open_time = Some(proto::timestamp(START + 60_000_000));
    let set = |concert: &mut proto::CreateConcertRequest| {
        concert.set_admission_order(AdmissionOrder::Draw);
        (concert.max_admissions_per_minute, concert.open_time) = (60, open_time);
    };
    world.concert_with("IU", 400, set).await;
    for _ in 0..20 {
        world.waiting("IU").await;
    }
    world.advance(Duration::from_secs(60));
    world.promote().await;
    assert_eq!(admitted(&world).await, AT_OPENING);
    world.advance(Duration::from_secs(2));
    world.promote().await;
    assert_eq!(admitted(&world).await, AT_OPENING + 2);
    world.check_invariants().await;
}

async fn a_negative_pace_is_refused(world: World) {
    world.concert("IU", 50).await;
    let details = assert_failure(world.admin().update_sale(pace(-1)).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "max_admissions_per_minute");
    let bad = proto::CreateConcertRequest {
        concert_code: "BTS".into(),
        name: "BTS".into(),
        max_admissions_per_minute: -1,
        ..Default::default()
    };
    let details = assert_failure(world.admin().create_concert(bad).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "max_admissions_per_minute");
}
