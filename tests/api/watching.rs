//! Tests the streams of the seats of a date and of the counts of a sale.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use boxoffice::rpc::proto::{self, SeatState};
use tonic::{Code, Streaming};

use crate::harness::{Caller, DATE, Engine, NEXT_DATE, PRICE, World, assert_failure, on_both_engines};

on_both_engines!(
    a_watcher_of_seats_sees_all_seats_once_and_then_each_change,
    a_slow_watcher_gets_the_newest_states_and_misses_none,
    a_watcher_of_seats_needs_an_admission_and_ends_with_it,
    watchers_may_connect_and_disconnect_at_any_time,
    the_sale_can_be_watched,
    wrong_requests_to_watch_a_sale_are_refused,
    streams_end_with_unavailable_when_the_server_shuts_down,
);

type Seats = Streaming<proto::WatchSeatsResponse>;

async fn next(stream: &mut Seats) -> Vec<(i32, SeatState)> {
    let message = tokio::time::timeout(Duration::from_secs(10), stream.message()).await.expect("a message in time");
    let seats = message.unwrap().expect("a message").seats;
    seats.iter().map(|seat| (seat.seat_number, seat.state())).collect()
}

async fn a_watcher_of_seats_sees_all_seats_once_and_then_each_change(world: World) {
    world.concert("IU", 50).await;
    let (caller, watcher) = (world.admitted("IU").await, world.admitted("IU").await);
    caller.hold(DATE, &[9]).await.unwrap();
    let mut stream = watcher.watch_seats(DATE).await.unwrap();
    let first = stream.message().await.unwrap().unwrap().seats;
    assert_eq!(first, watcher.seats(DATE).await.unwrap());
    assert_eq!(first.len(), 50);

    let held = caller.hold(DATE, &[3, 4]).await.unwrap();
    assert_eq!(next(&mut stream).await, [(3, SeatState::Held), (4, SeatState::Held)]);
    caller.release(&held.reservation_id).await.unwrap();
    assert_eq!(next(&mut stream).await, [(3, SeatState::Available), (4, SeatState::Available)]);
    // This stream must not contain changes of another date.
    caller.hold(NEXT_DATE, &[3]).await.unwrap();
    world.advance(Duration::from_secs(300));
    assert_eq!(next(&mut stream).await, [(9, SeatState::Available)]);
    caller.hold(DATE, &[5]).await.unwrap();
    assert_eq!(next(&mut stream).await, [(5, SeatState::Held)]);
    let payment = caller.pay().await.unwrap();
    assert_eq!(next(&mut stream).await, [(5, SeatState::Sold)]);
    caller.refund(&payment.payment_id).await.unwrap();
    assert_eq!(next(&mut stream).await, [(5, SeatState::Available)]);
}

async fn a_slow_watcher_gets_the_newest_states_and_misses_none(world: World) {
    world.concert_with("IU", 300, |concert| concert.seats_per_user_limit = 100).await;
    let (caller, watcher) = (world.admitted("IU").await, world.admitted("IU").await);
    let mut stream = watcher.watch_seats(DATE).await.unwrap();
    let mut seen: BTreeMap<i32, SeatState> = next(&mut stream).await.into_iter().collect();
    for seat in 1..=60 {
        let held = caller.hold(DATE, &[seat]).await.unwrap();
        if seat % 3 == 0 {
            caller.release(&held.reservation_id).await.unwrap();
        }
    }
    let expected: BTreeMap<i32, SeatState> =
        watcher.seats(DATE).await.unwrap().iter().map(|seat| (seat.seat_number, seat.state())).collect();
    while seen != expected {
        seen.extend(next(&mut stream).await);
    }
}

async fn a_watcher_of_seats_needs_an_admission_and_ends_with_it(world: World) {
    world.concert("IU", 50).await;
    let waiting = world.waiting("IU").await;
    assert_failure(waiting.watch_seats(DATE).await, Code::FailedPrecondition, "NOT_ADMITTED");
    world.promote().await;
    assert_failure(waiting.watch_seats("2027-03-01").await, Code::NotFound, "PERFORMANCE_NOT_FOUND");
    let stranger = Caller { token: String::new(), ..waiting.clone() };
    assert_failure(stranger.watch_seats(DATE).await, Code::Unauthenticated, "TOKEN_MISSING");
    let mut stream = waiting.watch_seats(DATE).await.unwrap();
    next(&mut stream).await;
    world.advance(Duration::from_secs(600));
    assert_failure(stream.message().await, Code::FailedPrecondition, "TOKEN_EXPIRED");
}

async fn watchers_may_connect_and_disconnect_at_any_time(world: World) {
    world.concert("IU", 50).await;
    let (caller, watcher) = (world.admitted("IU").await, world.admitted("IU").await);
    for seat in 1..=3 {
        let mut streams = Vec::new();
        for _ in 0..20 {
            let mut stream = watcher.watch_seats(DATE).await.unwrap();
            assert_eq!(next(&mut stream).await.len(), 50);
            streams.push(stream);
        }
        caller.hold(DATE, &[seat]).await.unwrap();
        for stream in &mut streams {
            assert_eq!(next(stream).await, [(seat, SeatState::Held)]);
        }
        drop(streams);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seat_sold_through_one_server_is_seen_through_another() {
    let mut world = World::new(Engine::Postgres).await;
    let other = world.add_replica().await;
    world.concert("IU", 50).await;
    let watcher = world.admitted("IU").await.via(world.channel(other));
    let mut stream = watcher.watch_seats(DATE).await.unwrap();
    next(&mut stream).await;
    let mut lags = Vec::new();
    for seat in 1..=5 {
        let caller = world.admitted("IU").await;
        caller.hold(DATE, &[seat]).await.unwrap();
        next(&mut stream).await;
        caller.pay().await.unwrap();
        let paid = Instant::now();
        assert_eq!(next(&mut stream).await, [(seat, SeatState::Sold)]);
        lags.push(paid.elapsed());
    }
    // The documentation of WatchSeats says "about half a second". The test does not check this, because the machine may
    // be busy.
    println!("a sale was seen through the other server after {lags:?}");
}

async fn watch_sale(world: &World, millis: i32) -> Streaming<proto::WatchSaleStatsResponse> {
    let request = proto::WatchSaleStatsRequest {
        concert_code: "IU".into(),
        interval: Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 }),
    };
    world.admin().watch_sale_stats(request).await.unwrap().into_inner()
}

async fn the_sale_can_be_watched(world: World) {
    world.concert("IU", 1).await;
    let mut stream = watch_sale(&world, 200).await;
    let mut stats = async || stream.message().await.unwrap().unwrap().stats.unwrap();
    assert_eq!(stats().await.issued_count, 0);
    let caller = world.admitted("IU").await;
    caller.hold(DATE, &[1]).await.unwrap();
    caller.pay().await.unwrap();
    for _ in 0..3 {
        world.waiting("IU").await;
    }
    world.promote().await;
    world.advance(Duration::from_secs(30));
    let mut last = stats().await;
    while last != world.stats("IU").await {
        last = stats().await;
    }
    assert_eq!((last.admissions_last_minute, last.payments_last_minute, last.revenue), (2, 1, PRICE));
    assert_eq!((last.waiting_count, last.sold_seat_count), (2, 1));
    assert_eq!(last.oldest_waiting_age, Some(prost_types::Duration { seconds: 30, nanos: 0 }));
}

async fn wrong_requests_to_watch_a_sale_are_refused(world: World) {
    let unknown = proto::WatchSaleStatsRequest { concert_code: "NOPE".into(), interval: None };
    assert_failure(world.admin().watch_sale_stats(unknown).await, Code::NotFound, "CONCERT_NOT_FOUND");
    for nanos in [0, -1, 199_999_999] {
        let interval = Some(prost_types::Duration { seconds: 0, nanos });
        let bad = proto::WatchSaleStatsRequest { concert_code: "iu".into(), interval };
        let details =
            assert_failure(world.admin().watch_sale_stats(bad).await, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(details.bad_request().unwrap().field_violations.len(), 2);
    }
}

async fn streams_end_with_unavailable_when_the_server_shuts_down(mut world: World) {
    world.concert("IU", 5).await;
    let caller = world.admitted("IU").await;
    let mut seats = caller.watch_seats(DATE).await.unwrap();
    let mut sale = watch_sale(&world, 200).await;
    next(&mut seats).await;
    sale.message().await.unwrap().unwrap();
    world.stop_first().await;
    assert_failure(seats.message().await, Code::Unavailable, "SHUTTING_DOWN");
    loop {
        match sale.message().await {
            Ok(message) => assert!(message.is_some()),
            end => break drop(assert_failure(end, Code::Unavailable, "SHUTTING_DOWN")),
        }
    }
}
