//! Tests the end of a date's sale.

use std::time::Duration;

use boxoffice::rpc::proto::{self, QueueState};
use tonic::Code;

use crate::harness::{DATE, NEXT_DATE, PRICE, START, World, assert_failure, on_both_engines};

on_both_engines!(
    a_date_is_sold_until_its_sale_ends,
    a_sale_ends_by_default_when_the_performance_starts,
    unsold_seats_of_a_closed_sale_admit_no_user,
);

const HOUR: i64 = 3_600_000_000;

/// Creates a concert with two dates. The sale of the first date ends in one hour, and the sale of the second date ends
/// 98 hours later.
async fn concert(world: &World, seat_count: i32) {
    let request = proto::CreateConcertRequest { concert_code: "IU".into(), name: "IU".into(), ..Default::default() };
    world.admin().create_concert(request).await.unwrap();
    world.venue("hall", seat_count).await;
    for (date, end) in [(DATE, START + HOUR), (NEXT_DATE, START + 99 * HOUR)] {
        let request = proto::AddPerformanceRequest {
            concert_code: "IU".into(),
            date: date.into(),
            start_time: Some(proto::timestamp(START + 2 * HOUR)),
            sale_end_time: Some(proto::timestamp(end)),
            venue_id: "hall".into(),
            price: PRICE,
            section_prices: Vec::new(),
        };
        let added = world.admin().add_performance(request).await.unwrap().into_inner().performance.unwrap();
        assert_eq!(added.sale_end_time, Some(proto::timestamp(end)));
    }
}

async fn a_date_is_sold_until_its_sale_ends(world: World) {
    concert(&world, 50).await;
    world.advance(Duration::from_secs(3_540));
    let (payer, late) = (world.admitted("IU").await, world.admitted("IU").await);
    payer.hold(DATE, &[1]).await.unwrap();
    late.hold(DATE, &[2]).await.unwrap();
    assert_eq!(payer.performances().await.unwrap().len(), 2);
    payer.pay().await.unwrap();
    world.advance(Duration::from_secs(60));
    let dates: Vec<String> = late.performances().await.unwrap().into_iter().map(|p| p.date).collect();
    assert_eq!(dates, [NEXT_DATE]);
    let details = assert_failure(late.hold(DATE, &[3]).await, Code::FailedPrecondition, "SALE_CLOSED");
    let info = details.error_info().unwrap();
    assert_eq!((info.metadata["date"].as_str(), info.metadata["concert_code"].as_str()), (DATE, "IU"));
    assert_failure(late.pay().await, Code::FailedPrecondition, "SALE_CLOSED");
    assert_eq!(world.balance(late.uuid()).await, 100 * PRICE);
    // Both performances started one hour ago. The sale of the second date has not ended, so its seats can still be
    // sold.
    world.advance(Duration::from_secs(2 * 3_600));
    let door = world.admitted("IU").await;
    door.hold(NEXT_DATE, &[1]).await.unwrap();
    door.pay().await.unwrap();
    world.check_invariants().await;
}

async fn a_sale_ends_by_default_when_the_performance_starts(world: World) {
    world.concert("IU", 50).await;
    let start = Duration::from_secs(1_000_000);
    world.advance(start - Duration::from_secs(1));
    let caller = world.admitted("IU").await;
    let listed = caller.performances().await.unwrap();
    assert!(listed.iter().all(|p| p.sale_end_time == p.start_time));
    caller.hold(DATE, &[1]).await.unwrap();
    world.advance(Duration::from_secs(1));
    assert_failure(caller.pay().await, Code::FailedPrecondition, "SALE_CLOSED");
    assert_eq!(caller.performances().await.unwrap(), []);
}

async fn unsold_seats_of_a_closed_sale_admit_no_user(world: World) {
    concert(&world, 2).await;
    let mut callers = futures::future::join_all((0..5).map(|_| world.waiting("IU"))).await;
    callers.sort_by_key(|caller| caller.queue_number);
    world.advance(Duration::from_secs(3_600));
    world.promote().await;
    let states = futures::future::join_all(callers.iter().map(|caller| caller.state())).await;
    let active = states.iter().filter(|state| **state == QueueState::Active).count();
    assert_eq!(active, 2, "{states:?}");
    assert_eq!(callers[4].position().await.unwrap().unsold_seat_count, 2);
    world.advance(Duration::from_secs(98 * 3_600));
    world.expire().await;
    world.promote().await;
    assert_eq!(callers[4].position().await.unwrap().state(), QueueState::Waiting);
    assert_eq!(callers[4].position().await.unwrap().unsold_seat_count, 0);
    world.check_invariants().await;
}
