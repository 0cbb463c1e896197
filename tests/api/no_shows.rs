//! Tests the claim TTL, which ends the admission of a user that makes no call, and the estimated wait of waiting users.

use std::time::Duration;

use boxoffice::rpc::proto::{self, QueueState};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tonic::Code;

use crate::harness::{Caller, DATE, START, World, assert_failure, on_both_engines};

on_both_engines!(
    a_user_without_a_first_call_is_expired_and_the_next_is_admitted,
    any_call_with_the_token_keeps_the_admission,
    an_open_watch_keeps_the_admission,
    without_a_claim_ttl_no_first_call_is_needed,
    a_concert_may_set_a_shorter_claim_ttl_or_none,
    the_estimate_is_near_the_real_wait_in_a_steady_sale,
);

const CLAIM_TTL: prost_types::Duration = prost_types::Duration { seconds: 30, nanos: 0 };
const SECOND: i64 = 1_000_000;

async fn concert(world: &World, seat_count: i32) {
    world.concert_with("IU", seat_count, |concert| concert.claim_ttl = Some(CLAIM_TTL)).await;
}

async fn a_user_without_a_first_call_is_expired_and_the_next_is_admitted(world: World) {
    concert(&world, 1).await;
    let (first, second) = (world.waiting("IU").await, world.waiting("IU").await);
    let third = world.waiting("IU").await;
    world.promote().await;
    assert_eq!(second.state().await, QueueState::Active);
    world.advance(Duration::from_secs(30));
    world.promote().await;
    assert_eq!(third.state().await, QueueState::Active);
    assert_eq!(first.state().await, QueueState::Expired);
    assert_failure(first.hold(DATE, &[1]).await, Code::FailedPrecondition, "TOKEN_EXPIRED");
    assert_eq!(second.state().await, QueueState::Active);
    world.expire().await;
    let stats = world.stats("IU").await;
    assert_eq!((stats.active_count, stats.expired_count), (2, 1));
    world.check_invariants().await;
}

async fn any_call_with_the_token_keeps_the_admission(world: World) {
    concert(&world, 50).await;
    let callers = futures::future::join_all((0..6).map(|_| world.waiting("IU"))).await;
    world.promote().await;
    world.advance(Duration::from_secs(29));
    callers[0].position().await.unwrap();
    callers[1].performances().await.unwrap();
    callers[2].seats(DATE).await.unwrap();
    let held = callers[3].hold(DATE, &[3]).await.unwrap();
    // The claim TTL does not limit the hold, because this call is the first use of the admission.
    assert_eq!(held.expire_time, Some(proto::timestamp(START + 329 * SECOND)));
    assert_failure(callers[4].pay().await, Code::FailedPrecondition, "NO_HELD_SEAT");
    world.advance(Duration::from_secs(1));
    world.expire().await;
    world.advance(Duration::from_secs(569));
    for caller in &callers[..5] {
        let position = caller.position().await.unwrap();
        assert_eq!(position.state(), QueueState::Active, "{}", caller.queue_number);
        assert_eq!(position.expire_time, Some(proto::timestamp(START + 600 * SECOND)));
    }
    assert_eq!(callers[5].state().await, QueueState::Expired);
    world.check_invariants().await;
}

async fn an_open_watch_keeps_the_admission(world: World) {
    concert(&world, 50).await;
    let caller = world.waiting("IU").await;
    let mut stream = caller.watch().await.unwrap();
    let mut next = async || stream.message().await.unwrap().unwrap().position.unwrap();
    assert_eq!(next().await.state(), QueueState::Waiting);
    world.promote().await;
    let active = next().await;
    assert_eq!(active.state(), QueueState::Active);
    assert_eq!(active.expire_time, Some(proto::timestamp(START + 600 * SECOND)));
    world.advance(Duration::from_secs(30));
    world.expire().await;
    assert_eq!(caller.state().await, QueueState::Active);
}

async fn without_a_claim_ttl_no_first_call_is_needed(world: World) {
    world.concert("IU", 50).await;
    let caller = world.waiting("IU").await;
    world.promote().await;
    world.advance(Duration::from_secs(599));
    world.expire().await;
    assert_eq!(caller.state().await, QueueState::Active);
}

async fn a_concert_may_set_a_shorter_claim_ttl_or_none(world: World) {
    // The default claim TTL of this server is 20 s.
    let world = World::with(world.engine, &["--claim-ttl", "20s"]).await;
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    world.concert("DEFAULT", 5).await;
    world.concert_with("LESS", 5, |concert| concert.claim_ttl = seconds(5)).await;
    world.concert_with("NONE", 5, |concert| concert.claim_ttl = seconds(0)).await;
    let join = async |code| world.waiting(code).await;
    let callers = [join("DEFAULT").await, join("LESS").await, join("NONE").await];
    world.promote().await;
    world.advance(Duration::from_secs(10));
    world.expire().await;
    let active = async |code: &str| world.stats(code).await.active_count;
    assert_eq!([active("DEFAULT").await, active("LESS").await, active("NONE").await], [1, 0, 1]);
    world.advance(Duration::from_secs(10));
    assert_eq!([active("DEFAULT").await, active("LESS").await, active("NONE").await], [0, 0, 1]);
    assert_eq!(callers[2].state().await, QueueState::Active);

    let concert_code = "NONE".to_owned();
    let change = proto::UpdateSaleRequest { concert_code, claim_ttl: seconds(7), ..Default::default() };
    assert_eq!(world.update_sale(change).await.claim_ttl, seconds(7));
    let concert_code = "NONE".to_owned();
    let bad = proto::UpdateSaleRequest { concert_code, claim_ttl: seconds(-1), ..Default::default() };
    let details = assert_failure(world.admin().update_sale(bad).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "claim_ttl");
}

/// An estimated wait: the index of the caller that received it, the time of the answer, and the wait. The time and the
/// wait are in seconds.
struct Estimate {
    caller: usize,
    at: i64,
    seconds: i64,
}

async fn the_estimate_is_near_the_real_wait_in_a_steady_sale(world: World) {
    const CALLERS: usize = 260;
    world.concert_with("IU", 500, |concert| concert.max_active_count = 20).await;
    let callers = futures::future::join_all((0..CALLERS).map(|_| world.waiting("IU"))).await;
    let mut callers: Vec<Caller> = callers;
    callers.sort_unstable_by_key(|caller| caller.queue_number);
    let mut random = StdRng::seed_from_u64(7);
    let mut admitted_at: Vec<Option<i64>> = vec![None; CALLERS];
    let mut estimates: Vec<Estimate> = Vec::new();
    let (mut now, mut first_active, mut first_waiting) = (0_i64, 0_usize, 0_usize);
    world.promote().await;
    while first_waiting < CALLERS {
        while first_waiting < CALLERS && callers[first_waiting].state().await != QueueState::Waiting {
            admitted_at[first_waiting] = Some(now);
            first_waiting += 1;
        }
        for _ in 0..10 {
            let caller = random.random_range(first_waiting.min(CALLERS - 1)..CALLERS);
            let position = callers[caller].position().await.unwrap();
            let warm = now >= 20;
            if let Some(estimate) = position.estimated_wait.filter(|_| warm) {
                assert!(estimate.seconds > 0);
                estimates.push(Estimate { caller, at: now, seconds: estimate.seconds });
            }
        }
        // Every two seconds, one to four admitted users leave.
        for _ in 0..random.random_range(1..=4) {
            if first_active < first_waiting {
                callers[first_active].leave().await.unwrap();
                first_active += 1;
            }
        }
        now += 2;
        world.advance(Duration::from_secs(2));
        world.promote().await;
    }
    let mut errors: Vec<f64> = estimates
        .iter()
        .filter_map(|estimate| {
            let wait = (admitted_at[estimate.caller]? - estimate.at).max(1) as f64;
            Some((estimate.seconds as f64 - wait).abs() / wait)
        })
        .collect();
    errors.sort_unstable_by(f64::total_cmp);
    let median = errors[errors.len() / 2];
    println!("median error {median:.2} of {} estimates", errors.len());
    assert!(errors.len() > 300 && median <= 0.3, "median error {median:.2} of {}", errors.len());
}
