//! Tests AdminService: venues, concerts, performances, and the changes and statistics of a sale.

use std::time::Duration;

use boxoffice::rpc::proto::{self, admin_service_client::AdminServiceClient};
use tonic::Code;

use crate::harness::{DATE, PRICE, START, World, assert_failure, on_both_engines};

on_both_engines!(
    created_objects_are_returned,
    an_id_that_exists_is_refused,
    a_missing_concert_or_venue_is_named,
    all_ill_formed_fields_are_named_in_one_answer,
    an_update_changes_only_the_fields_that_are_set,
    stats_count_the_tokens_seats_and_money_of_a_sale,
    the_public_listener_does_not_serve_admin_calls,
);

fn venue(venue_id: &str) -> proto::CreateVenueRequest {
    let sections = vec![
        proto::Section { name: "A".into(), seat_count: 10, ..Default::default() },
        proto::Section { name: "B".into(), seat_count: 5, ..Default::default() },
    ];
    proto::CreateVenueRequest { venue_id: venue_id.into(), name: "Hall".into(), sections }
}

fn concert(concert_code: &str) -> proto::CreateConcertRequest {
    proto::CreateConcertRequest { concert_code: concert_code.into(), name: "Live".into(), ..Default::default() }
}

fn performance(concert_code: &str, venue_id: &str) -> proto::AddPerformanceRequest {
    proto::AddPerformanceRequest {
        concert_code: concert_code.into(),
        date: DATE.into(),
        start_time: Some(proto::timestamp(START)),
        venue_id: venue_id.into(),
        price: PRICE,
        section_prices: Vec::new(),
        sale_end_time: None,
    }
}

async fn created_objects_are_returned(world: World) {
    let mut admin = world.admin();
    let created = admin.create_venue(venue("hall")).await.unwrap().into_inner().venue.unwrap();
    let proto::CreateVenueRequest { venue_id, name, sections } = venue("hall");
    assert_eq!(created, proto::Venue { venue_id, name, sections });
    let created = admin.create_concert(concert("IU")).await.unwrap().into_inner().concert.unwrap();
    let expected = proto::Concert {
        concert_code: "IU".into(),
        name: "Live".into(),
        open_time: Some(proto::timestamp(START)),
        paused: false,
        max_active_count: 0,
        seats_per_user_limit: 4,
        claim_ttl: None,
        max_admissions_per_minute: 0,
        admission_order: proto::AdmissionOrder::FirstCome.into(),
        draw: None,
    };
    assert_eq!(created, expected);
    let added = admin.add_performance(performance("IU", "hall")).await.unwrap().into_inner().performance.unwrap();
    assert_eq!((added.seat_count, added.available_seat_count, added.price), (15, 15, PRICE));
    assert_eq!((added.venue_name.as_str(), added.date.as_str()), ("Hall", DATE));
}

async fn an_id_that_exists_is_refused(world: World) {
    let mut admin = world.admin();
    admin.create_venue(venue("hall")).await.unwrap();
    admin.create_concert(concert("IU")).await.unwrap();
    admin.add_performance(performance("IU", "hall")).await.unwrap();
    assert_failure(admin.create_venue(venue("hall")).await, Code::AlreadyExists, "ALREADY_EXISTS");
    assert_failure(admin.create_concert(concert("IU")).await, Code::AlreadyExists, "ALREADY_EXISTS");
    let again = admin.add_performance(performance("IU", "hall")).await;
    assert_failure(again, Code::AlreadyExists, "ALREADY_EXISTS");
    assert_eq!(world.stats("IU").await.unsold_seat_count, 15);
}

async fn a_missing_concert_or_venue_is_named(world: World) {
    let mut admin = world.admin();
    admin.create_venue(venue("hall")).await.unwrap();
    let answer = admin.add_performance(performance("IU", "hall")).await;
    assert_failure(answer, Code::NotFound, "CONCERT_NOT_FOUND");
    admin.create_concert(concert("IU")).await.unwrap();
    let answer = admin.add_performance(performance("IU", "arena")).await;
    let details = assert_failure(answer, Code::NotFound, "VENUE_NOT_FOUND");
    assert_eq!(details.error_info().unwrap().metadata["venue_id"], "arena");
    let unknown = proto::UpdateSaleRequest { concert_code: "BTS".into(), ..Default::default() };
    assert_failure(admin.update_sale(unknown).await, Code::NotFound, "CONCERT_NOT_FOUND");
}

async fn all_ill_formed_fields_are_named_in_one_answer(world: World) {
    let mut admin = world.admin();
    let fields = |status: tonic::Status| {
        let details = assert_failure(Err::<(), _>(status), Code::InvalidArgument, "INVALID_ARGUMENT");
        let violations = &details.bad_request().unwrap().field_violations;
        violations.iter().map(|violation| violation.field.clone()).collect::<Vec<_>>()
    };
    let twice = proto::Section { name: "A".into(), seat_count: 0, ..Default::default() };
    let request =
        proto::CreateVenueRequest { venue_id: "Hall".into(), name: " ".into(), sections: vec![twice.clone(), twice] };
    let status = admin.create_venue(request).await.unwrap_err();
    let expected = ["venue_id", "name", "sections[0].seat_count", "sections[1].seat_count", "sections"];
    assert_eq!(fields(status), expected);

    let request = proto::CreateConcertRequest {
        concert_code: "iu".into(),
        name: String::new(),
        open_time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
        max_active_count: -1,
        seats_per_user_limit: 101,
        claim_ttl: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        max_admissions_per_minute: -1,
        admission_order: 3,
        draw_salt_source: "x".repeat(1_001),
    };
    let status = admin.create_concert(request).await.unwrap_err();
    let fields_of_concert = [
        "concert_code",
        "name",
        "open_time",
        "max_active_count",
        "seats_per_user_limit",
        "claim_ttl",
        "max_admissions_per_minute",
        "admission_order",
        "draw_salt_source",
        "draw_salt_source",
    ];
    assert_eq!(fields(status), fields_of_concert);

    let request = proto::AddPerformanceRequest { price: -1, ..Default::default() };
    let status = admin.add_performance(request).await.unwrap_err();
    assert_eq!(fields(status), ["concert_code", "date", "start_time", "venue_id", "price"]);
    admin.create_venue(venue("hall")).await.unwrap();
    admin.create_concert(concert("IU")).await.unwrap();
    let mut request = performance("IU", "hall");
    request.section_prices = vec![proto::SectionPrice { section: "C".into(), price: 1 }];
    let status = admin.add_performance(request).await.unwrap_err();
    assert_eq!(fields(status), ["section_prices"]);
}

async fn an_update_changes_only_the_fields_that_are_set(world: World) {
    world.concert_with("IU", 5, |concert| concert.max_active_count = 7).await;
    let update = |change: fn(&mut proto::UpdateSaleRequest)| {
        let mut request = proto::UpdateSaleRequest { concert_code: "IU".into(), ..Default::default() };
        change(&mut request);
        world.update_sale(request)
    };
    let paused = update(|request| request.paused = Some(true)).await;
    assert_eq!((paused.paused, paused.max_active_count), (true, 7));
    let capped = update(|request| request.max_active_count = Some(0)).await;
    assert_eq!((capped.paused, capped.max_active_count), (true, 0));
    let later = update(|request| request.open_time = Some(proto::timestamp(START + 1))).await;
    assert_eq!((later.paused, later.open_time), (true, Some(proto::timestamp(START + 1))));
    assert_eq!(update(|_| ()).await, later);
}

async fn stats_count_the_tokens_seats_and_money_of_a_sale(world: World) {
    world.concert_with("IU", 5, |concert| concert.max_active_count = 4).await;
    let paid = world.admitted("IU").await;
    paid.hold(DATE, &[1, 2]).await.unwrap();
    paid.pay().await.unwrap();
    let left = world.admitted("IU").await;
    left.leave().await.unwrap();
    world.advance(Duration::from_secs(60));
    let over = world.admitted("IU").await;
    over.hold(DATE, &[3]).await.unwrap();
    world.advance(Duration::from_secs(600));
    let active = world.admitted("IU").await;
    active.hold(DATE, &[4]).await.unwrap();
    for _ in 0..3 {
        world.admitted("IU").await;
    }
    world.waiting("IU").await;
    world.waiting("IU").await.leave().await.unwrap();
    let expected = proto::SaleStats {
        concert_code: "IU".into(),
        issued_count: 9,
        waiting_count: 1,
        active_count: 4,
        expired_count: 1,
        completed_count: 1,
        left_count: 2,
        unsold_seat_count: 8,
        held_seat_count: 1,
        sold_seat_count: 2,
        admissions_last_minute: 4,
        payments_last_minute: 0,
        revenue: 2 * PRICE,
        oldest_waiting_age: Some(prost_types::Duration::default()),
    };
    assert_eq!(world.stats("IU").await, expected);
    world.expire().await;
    assert_eq!(world.stats("IU").await, expected);
    active.pay().await.unwrap();
    let stats = world.stats("IU").await;
    assert_eq!((stats.payments_last_minute, stats.revenue), (1, 3 * PRICE));
}

async fn the_public_listener_does_not_serve_admin_calls(world: World) {
    let mut public = AdminServiceClient::new(world.channel(0));
    let status = public.create_concert(concert("IU")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let request = proto::GetConcertRequest { concert_code: "IU".into() };
    let mut concerts = proto::concert_service_client::ConcertServiceClient::new(world.channel(0));
    assert_failure(concerts.get_concert(request).await, Code::NotFound, "CONCERT_NOT_FOUND");
}
