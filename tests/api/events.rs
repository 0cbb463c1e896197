//! Tests of EventService: the fields of each event, pages, filters, streams and deletion.

use std::time::Duration;

use boxoffice::rpc::proto::{
    self, Event, ListEventsRequest, ListEventsResponse, ReleaseReason, WatchEventsRequest, WatchEventsResponse,
    event::Kind, event_service_client::EventServiceClient,
};
use sea_orm::{ConnectionTrait, DatabaseBackend, Statement, TransactionTrait};
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::harness::{
    DATE, Engine, NEXT_DATE, PRICE, START, World, assert_failure, connect, eventually, on_both_engines,
};

on_both_engines!(
    a_sale_is_told_event_by_event,
    ended_holds_are_told_with_their_reason,
    an_expired_hold_frees_only_the_seats_that_nobody_else_took,
    the_server_tells_of_admissions_and_expiries,
    an_admin_change_is_told_once,
    a_refused_or_repeated_call_appends_nothing,
    pages_follow_each_other_without_a_gap,
    a_filter_selects_concerts_and_kinds,
    a_stream_continues_after_a_number_and_then_sends_new_events,
    a_stream_of_one_replica_sends_the_events_of_another,
    an_idle_stream_shows_that_it_is_not_behind,
    deleted_events_are_refused_and_the_last_one_stays,
    a_stopping_server_ends_the_stream,
    ill_formed_requests_are_refused,
    many_writers_leave_no_gap,
);

pub fn service(channel: &Channel) -> EventServiceClient<Channel> {
    EventServiceClient::new(channel.clone())
}

async fn list(world: &World, request: ListEventsRequest) -> Result<ListEventsResponse, Status> {
    Ok(service(&world.admin_channel()).list_events(request).await?.into_inner())
}

/// Returns all events after a number.
async fn events_after(world: &World, after_event_number: i64) -> Vec<Event> {
    let request = ListEventsRequest { after_event_number, page_size: 1_000, ..Default::default() };
    list(world, request).await.unwrap().events
}

async fn last_number(world: &World) -> i64 {
    list(world, ListEventsRequest::default()).await.unwrap().last_event_number
}

async fn watch(channel: &Channel, request: WatchEventsRequest) -> Result<Streaming<WatchEventsResponse>, Status> {
    Ok(service(channel).watch_events(request).await?.into_inner())
}

/// Returns the next `count` events of a stream. Skips messages without events.
async fn take(stream: &mut Streaming<WatchEventsResponse>, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let message = tokio::time::timeout(Duration::from_secs(10), stream.message()).await.expect("a message in time");
        events.extend(message.unwrap().expect("an open stream").events);
    }
    assert_eq!(events.len(), count, "{events:?}");
    events
}

pub fn kinds(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(|event| boxoffice::events::kind_name(event.kind.as_ref().unwrap())).collect()
}

fn seats(numbers: &[i32]) -> Vec<proto::ReservedSeat> {
    let seat = |number: &i32| proto::ReservedSeat {
        seat_number: *number,
        section: "Floor".into(),
        price: PRICE,
        ..Default::default()
    };
    numbers.iter().map(seat).collect()
}

fn kind(event: &Event) -> Kind {
    event.kind.clone().unwrap()
}

async fn a_sale_is_told_event_by_event(world: World) {
    world.concert("IU", 50).await;
    let before = last_number(&world).await;
    let buyer = world.admitted("IU").await;
    let held = buyer.hold(DATE, &[3, 4]).await.unwrap();
    world.advance(Duration::from_secs(1));
    let extended = buyer.extend(&held.reservation_id, "").await.unwrap();
    let paid = buyer.pay().await.unwrap();
    let refunded = buyer.refund(&paid.payment_id).await.unwrap();

    let events = events_after(&world, before).await;
    assert_eq!(
        kinds(&events),
        [
            "wallet_opened",
            "wallet_charged",
            "token_issued",
            "tokens_admitted",
            "seats_held",
            "hold_extended",
            "payment_made",
            "payment_refunded"
        ]
    );
    for (event, number) in events.iter().zip(before + 1..) {
        assert_eq!(event.event_number, number);
        assert_eq!(event.caller, "", "no API keys are configured");
        let is_of_wallet = kinds(std::slice::from_ref(event))[0].starts_with("wallet");
        assert_eq!(event.concert_code, if is_of_wallet { "" } else { "IU" }, "{event:?}");
    }
    let user_id = buyer.user_id.clone();
    assert_eq!(kind(&events[0]), Kind::WalletOpened(proto::WalletOpened { user_id: user_id.clone() }));
    let charged = proto::WalletCharged { user_id: user_id.clone(), amount: 100 * PRICE, balance_after: 100 * PRICE };
    assert_eq!(kind(&events[1]), Kind::WalletCharged(charged));
    let issued = proto::TokenIssued { user_id, queue_number: 1 };
    assert_eq!(kind(&events[2]), Kind::TokenIssued(issued));
    assert_holds_are_told(&events[4..6], &held, &extended);
    assert_payments_are_told(&events[6..8], &paid, &refunded);
    world.check_invariants().await;
}

#[track_caller]
fn assert_holds_are_told(events: &[Event], held: &proto::Reservation, extended: &proto::Reservation) {
    let (reservation_id, user_id) = (held.reservation_id.clone(), held.user_id.clone());
    let expected = proto::SeatsHeld {
        reservation_id: reservation_id.clone(),
        user_id: user_id.clone(),
        queue_number: 1,
        date: DATE.into(),
        seats: seats(&[3, 4]),
        total_price: 2 * PRICE,
        expire_time: held.expire_time,
    };
    assert_eq!((kind(&events[0]), events[0].event_time), (Kind::SeatsHeld(expected), held.hold_time));
    let expected = proto::HoldExtended {
        reservation_id,
        user_id,
        date: DATE.into(),
        seats: seats(&[3, 4]),
        expire_time: extended.expire_time,
    };
    assert_eq!(kind(&events[1]), Kind::HoldExtended(expected));
}

#[track_caller]
fn assert_payments_are_told(events: &[Event], paid: &proto::Payment, refunded: &proto::Payment) {
    let expected = proto::PaymentMade {
        payment_id: paid.payment_id.clone(),
        reservation_id: paid.reservation_id.clone(),
        user_id: paid.user_id.clone(),
        queue_number: 1,
        date: DATE.into(),
        seats: seats(&[3, 4]),
        price: 2 * PRICE,
        balance_after: 98 * PRICE,
    };
    assert_eq!((kind(&events[0]), events[0].event_time), (Kind::PaymentMade(expected), paid.pay_time));
    let expected = proto::PaymentRefunded {
        payment_id: paid.payment_id.clone(),
        reservation_id: paid.reservation_id.clone(),
        user_id: paid.user_id.clone(),
        date: DATE.into(),
        seats: seats(&[3, 4]),
        price: 2 * PRICE,
        balance_after: 100 * PRICE,
    };
    assert_eq!((kind(&events[1]), events[1].event_time), (Kind::PaymentRefunded(expected), refunded.refund_time));
}

fn released(event: &Event) -> proto::SeatsReleased {
    match kind(event) {
        Kind::SeatsReleased(released) => released,
        other => panic!("{other:?}"),
    }
}

async fn ended_holds_are_told_with_their_reason(world: World) {
    world.concert("IU", 50).await;
    let buyer = world.admitted("IU").await;
    let leaver = world.admitted("IU").await;
    let first = buyer.hold(DATE, &[1]).await.unwrap();
    let dropped = buyer.hold(NEXT_DATE, &[2]).await.unwrap();
    let third = buyer.hold(DATE, &[3]).await.unwrap();
    let left = leaver.hold(DATE, &[4, 5]).await.unwrap();
    let before = last_number(&world).await;
    buyer.release(&first.reservation_id).await.unwrap();
    buyer.pay_as(&third.reservation_id, "").await.unwrap();
    leaver.leave().await.unwrap();
    let events = events_after(&world, before).await;
    assert_eq!(
        kinds(&events),
        ["seats_released", "payment_made", "seats_released", "token_left", "seats_released"],
        "{events:?}"
    );
    let expect = |reservation: &proto::Reservation, numbers: &[i32], reason: ReleaseReason| proto::SeatsReleased {
        reservation_id: reservation.reservation_id.clone(),
        user_id: reservation.user_id.clone(),
        date: reservation.date.clone(),
        seats: seats(numbers),
        reason: reason.into(),
    };
    assert_eq!(released(&events[0]), expect(&first, &[1], ReleaseReason::Released));
    assert_eq!(released(&events[2]), expect(&dropped, &[2], ReleaseReason::Replaced));
    assert_eq!(released(&events[4]), expect(&left, &[4, 5], ReleaseReason::Left));
    let expected = proto::TokenLeft { user_id: leaver.user_id.clone(), queue_number: 2, was_admitted: true };
    assert_eq!(kind(&events[3]), Kind::TokenLeft(expected));
    world.check_invariants().await;
}

async fn an_expired_hold_frees_only_the_seats_that_nobody_else_took(world: World) {
    world.concert("IU", 50).await;
    let (slow, fast) = (world.admitted("IU").await, world.admitted("IU").await);
    let expired = slow.hold(DATE, &[1, 2]).await.unwrap();
    world.advance(Duration::from_secs(301));
    fast.hold(DATE, &[2]).await.unwrap();
    let before = last_number(&world).await;
    world.expire().await;
    let events = events_after(&world, before).await;
    assert_eq!(kinds(&events), ["seats_released"]);
    let released = released(&events[0]);
    assert_eq!((released.reservation_id, released.seats), (expired.reservation_id, seats(&[1])));
    assert_eq!(released.reason, i32::from(ReleaseReason::Expired));
    world.check_invariants().await;
}

async fn the_server_tells_of_admissions_and_expiries(world: World) {
    let ttl = prost_types::Duration { seconds: 30, nanos: 0 };
    world.concert_with("IU", 1, |concert| concert.claim_ttl = Some(ttl)).await;
    let (first, second) = (world.waiting("IU").await, world.waiting("IU").await);
    let before = last_number(&world).await;
    world.promote().await;
    world.advance(Duration::from_secs(31));
    world.expire().await;
    let waiting = world.waiting("IU").await;
    waiting.leave().await.unwrap();
    let events = events_after(&world, before).await;
    let others = ["wallet_opened", "wallet_charged", "token_issued", "token_left"];
    assert_eq!(kinds(&events), [&["tokens_admitted", "tokens_expired"][..], &others].concat());
    let Kind::TokensAdmitted(admitted) = kind(&events[0]) else { panic!("{events:?}") };
    assert_eq!(admitted.queue_numbers, [1, 2]);
    assert_eq!(admitted.user_ids, [first.user_id.clone(), second.user_id.clone()]);
    let seconds = |time: Option<prost_types::Timestamp>| time.unwrap().seconds - START / 1_000_000;
    assert_eq!((seconds(admitted.expire_time), seconds(admitted.claimed_expire_time)), (30, 600));
    let Kind::TokensExpired(expired) = kind(&events[1]) else { panic!("{events:?}") };
    assert_eq!((expired.queue_numbers, expired.user_ids), (vec![1, 2], vec![first.user_id, second.user_id]));
    let expected = proto::TokenLeft { user_id: waiting.user_id, queue_number: 3, was_admitted: false };
    assert_eq!(kind(&events[5]), Kind::TokenLeft(expected));
    world.check_invariants().await;
}

async fn an_admin_change_is_told_once(world: World) {
    world.concert("IU", 50).await;
    let pause = || proto::UpdateSaleRequest { concert_code: "IU".into(), paused: Some(true), ..Default::default() };
    let paused = world.update_sale(pause()).await;
    world.update_sale(pause()).await;
    let events = events_after(&world, 0).await;
    assert_eq!(kinds(&events), ["concert_created", "performance_added", "performance_added", "sale_updated"]);
    let created = proto::Concert { paused: false, ..paused.clone() };
    assert_eq!(kind(&events[0]), Kind::ConcertCreated(proto::ConcertCreated { concert: Some(created) }));
    let Kind::PerformanceAdded(added) = kind(&events[1]) else { panic!("{events:?}") };
    assert_eq!((added.date.as_str(), added.venue_id.as_str()), (DATE, "iu"));
    assert_eq!(added.start_time, added.sale_end_time);
    let section = proto::PricedSection { section: "Floor".into(), seat_count: 50, price: PRICE };
    assert_eq!(added.sections, [section]);
    assert_eq!(kind(&events[3]), Kind::SaleUpdated(proto::SaleUpdated { concert: Some(paused) }));
    world.check_invariants().await;
}

async fn a_refused_or_repeated_call_appends_nothing(world: World) {
    world.concert("IU", 50).await;
    let (buyer, other) = (world.admitted("IU").await, world.admitted("IU").await);
    let request_id = uuid::Uuid::now_v7().to_string();
    buyer.hold_as(DATE, &[1], &request_id).await.unwrap();
    world.charge(buyer.uuid(), 1, &request_id).await.unwrap();
    let before = last_number(&world).await;
    buyer.hold_as(DATE, &[1], &request_id).await.unwrap();
    buyer.hold(DATE, &[1]).await.unwrap();
    buyer.issue().await.unwrap();
    world.charge(buyer.uuid(), 1, &request_id).await.unwrap();
    assert_failure(other.hold(DATE, &[1]).await, Code::FailedPrecondition, "SEAT_HELD");
    assert_failure(other.pay().await, Code::FailedPrecondition, "NO_HELD_SEAT");
    world.promote().await;
    world.expire().await;
    assert_eq!(last_number(&world).await, before);
}

async fn pages_follow_each_other_without_a_gap(world: World) {
    let empty = list(&world, ListEventsRequest::default()).await.unwrap();
    assert_eq!(empty, ListEventsResponse { oldest_event_number: 1, ..Default::default() });
    world.concert("IU", 50).await;
    for _ in 0..60 {
        world.user(1).await;
    }
    let all = events_after(&world, 0).await;
    assert_eq!(all.iter().map(|event| event.event_number).collect::<Vec<_>>(), (1..=123).collect::<Vec<_>>());
    let (mut pages, mut after_event_number) = (Vec::new(), 0);
    loop {
        let request = ListEventsRequest { after_event_number, page_size: 50, ..Default::default() };
        let page = list(&world, request).await.unwrap();
        assert_eq!((page.oldest_event_number, page.last_event_number), (1, 123));
        assert!(page.events.len() <= 50);
        after_event_number = page.next_after_event_number;
        pages.extend(page.events);
        if after_event_number == page.last_event_number {
            break;
        }
    }
    assert_eq!(pages, all);
    assert_eq!(list(&world, ListEventsRequest::default()).await.unwrap().events.len(), 100);
    let request = ListEventsRequest { page_size: 1_000_000, ..Default::default() };
    assert_eq!(list(&world, request).await.unwrap().events.len(), 123);
}

async fn a_filter_selects_concerts_and_kinds(world: World) {
    world.concert("IU", 50).await;
    world.concert("BTS", 50).await;
    let buyer = world.admitted("BTS").await;
    buyer.hold(DATE, &[1]).await.unwrap();
    world.waiting("IU").await;
    let select = |concert_code: &str, kinds: &[&str]| ListEventsRequest {
        concert_code: concert_code.into(),
        kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        ..Default::default()
    };
    let found = list(&world, select("BTS", &["token_issued", "seats_held"])).await.unwrap();
    assert_eq!(kinds(&found.events), ["token_issued", "seats_held"]);
    assert!(found.events.iter().all(|event| event.concert_code == "BTS"));
    assert_eq!(found.next_after_event_number, found.last_event_number);
    let found = list(&world, select("", &["token_issued"])).await.unwrap();
    assert_eq!(found.events.iter().map(|e| e.concert_code.as_str()).collect::<Vec<_>>(), ["BTS", "IU"]);
    let none = list(&world, select("IU", &["payment_made"])).await.unwrap();
    assert!(none.events.is_empty());
    assert_failure(list(&world, select("NOPE", &[])).await, Code::NotFound, "CONCERT_NOT_FOUND");

    let request =
        WatchEventsRequest { concert_code: "BTS".into(), kinds: vec!["payment_made".into()], ..Default::default() };
    let mut stream = watch(&world.admin_channel(), request).await.unwrap();
    buyer.pay().await.unwrap();
    assert_eq!(kinds(&take(&mut stream, 1).await), ["payment_made"]);
}

async fn a_stream_continues_after_a_number_and_then_sends_new_events(world: World) {
    world.concert("IU", 50).await;
    let all = events_after(&world, 0).await;
    let request = |after_event_number| WatchEventsRequest { after_event_number, ..Default::default() };
    let mut stream = watch(&world.admin_channel(), request(0)).await.unwrap();
    assert_eq!(take(&mut stream, all.len()).await, all);
    let mut late = watch(&world.admin_channel(), request(1)).await.unwrap();
    assert_eq!(take(&mut late, all.len() - 1).await, all[1..]);
    for number in 1..=20 {
        let user = world.user(0).await;
        world.charge(user, number, "").await.unwrap();
    }
    let new = take_all(&mut stream, 40).await;
    assert_eq!(new, events_after(&world, all.last().unwrap().event_number).await);
    assert_eq!(take_all(&mut late, 40).await, new);
    // The first stream has ended. A new stream continues with the last number that the caller knows.
    drop(stream);
    let known = new[9].event_number;
    let mut again = watch(&world.admin_channel(), request(known)).await.unwrap();
    assert_eq!(take_all(&mut again, 30).await, new[10..]);
}

/// Returns the next `count` events of a stream, which may come in several messages.
async fn take_all(stream: &mut Streaming<WatchEventsResponse>, count: usize) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    while events.len() < count {
        let message = tokio::time::timeout(Duration::from_secs(10), stream.message()).await.expect("a message in time");
        let message = message.unwrap().expect("an open stream");
        events.extend(message.events);
        if let Some(last) = events.last() {
            assert!(message.next_after_event_number >= last.event_number);
            assert!(message.last_event_number >= message.next_after_event_number);
        }
    }
    assert_eq!(events.len(), count);
    events
}

async fn a_stream_of_one_replica_sends_the_events_of_another(mut world: World) {
    if world.engine == Engine::Sqlite {
        return;
    }
    let replica = world.add_replica().await;
    let other = connect(world.server(replica).admin_address).await;
    let mut stream = watch(&other, WatchEventsRequest::default()).await.unwrap();
    let user = world.user(0).await;
    let events = take(&mut stream, 1).await;
    assert_eq!(kind(&events[0]), Kind::WalletOpened(proto::WalletOpened { user_id: user.to_string() }));
}

async fn an_idle_stream_shows_that_it_is_not_behind(world: World) {
    world.user(5).await;
    let last = last_number(&world).await;
    let request = WatchEventsRequest { after_event_number: last, ..Default::default() };
    let mut stream = watch(&world.admin_channel(), request).await.unwrap();
    for _ in 0..2 {
        let message = tokio::time::timeout(Duration::from_secs(10), stream.message()).await.expect("a heartbeat");
        let message = message.unwrap().unwrap();
        let expected = WatchEventsResponse { events: vec![], last_event_number: last, next_after_event_number: last };
        assert_eq!(message, expected);
    }
}

async fn deleted_events_are_refused_and_the_last_one_stays(world: World) {
    const DAY: Duration = Duration::from_secs(86_400);
    world.concert("IU", 50).await;
    for _ in 0..200 {
        world.user(0).await;
    }
    world.advance(29 * DAY);
    world.tidy().await;
    assert_eq!(list(&world, ListEventsRequest::default()).await.unwrap().oldest_event_number, 1);
    let young = world.user(0).await;
    let last = last_number(&world).await;
    world.advance(2 * DAY);
    world.tidy().await;
    let request = |after_event_number| ListEventsRequest { after_event_number, ..Default::default() };
    let refused = assert_failure(list(&world, request(0)).await, Code::OutOfRange, "EVENTS_COMPACTED");
    assert_eq!(refused.error_info().unwrap().metadata["oldest_event_number"], last.to_string());
    let request_watch = WatchEventsRequest { after_event_number: last - 2, ..Default::default() };
    let refused = watch(&world.admin_channel(), request_watch).await;
    assert_failure(refused.map(drop), Code::OutOfRange, "EVENTS_COMPACTED");
    let kept = list(&world, request(last - 1)).await.unwrap();
    assert_eq!((kept.oldest_event_number, kept.last_event_number), (last, last));
    assert_eq!(kind(&kept.events[0]), Kind::WalletOpened(proto::WalletOpened { user_id: young.to_string() }));
    // The last event is kept however old it is, so that the numbers go on.
    world.advance(100 * DAY);
    world.tidy().await;
    assert_eq!(list(&world, request(last)).await.unwrap().last_event_number, last);
    world.user(0).await;
    assert_eq!(events_after(&world, last).await[0].event_number, last + 1);
}

async fn a_stopping_server_ends_the_stream(mut world: World) {
    let mut stream = watch(&world.admin_channel(), WatchEventsRequest::default()).await.unwrap();
    world.stop_first().await;
    assert_failure(stream.message().await, Code::Unavailable, "SHUTTING_DOWN");
}

async fn ill_formed_requests_are_refused(world: World) {
    world.user(0).await;
    let violations = |answer: Result<(), Status>| {
        let details = assert_failure(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
        let violations = details.bad_request().unwrap().field_violations.clone();
        violations.into_iter().map(|violation| violation.field).collect::<Vec<_>>()
    };
    let kinds = vec!["payment_made".to_owned(), "PaymentMade".to_owned()];
    let bad = ListEventsRequest { after_event_number: -1, concert_code: "iu".into(), kinds, ..Default::default() };
    let fields = ["after_event_number", "concert_code", "kinds[1]"];
    assert_eq!(violations(list(&world, bad.clone()).await.map(drop)), fields);
    let ListEventsRequest { after_event_number, concert_code, kinds, .. } = bad;
    let bad = WatchEventsRequest { after_event_number, concert_code, kinds };
    assert_eq!(violations(watch(&world.admin_channel(), bad).await.map(drop)), fields);
    let bad = ListEventsRequest { page_size: -1, ..Default::default() };
    assert_eq!(violations(list(&world, bad).await.map(drop)), ["page_size"]);
    // No event has this number yet, so the number must come from another database.
    let bad = ListEventsRequest { after_event_number: 2, ..Default::default() };
    assert_eq!(violations(list(&world, bad).await.map(drop)), ["after_event_number"]);
    let bad = WatchEventsRequest { after_event_number: 2, ..Default::default() };
    assert_eq!(violations(watch(&world.admin_channel(), bad).await.map(drop)), ["after_event_number"]);
    let end = ListEventsRequest { after_event_number: 1, ..Default::default() };
    assert!(list(&world, end).await.unwrap().events.is_empty());
}

async fn many_writers_leave_no_gap(mut world: World) {
    if world.engine == Engine::Postgres {
        world.add_replica().await;
        world.add_replica().await;
    }
    let mut stream = watch(&world.admin_channel(), WatchEventsRequest::default()).await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for call in 0..300 {
        let channel = world.channel(call % world.replica_count());
        calls.spawn(async move { testkit::wallet::open_new(&channel, 1).await.unwrap() });
    }
    calls.join_all().await;
    let told = take_all(&mut stream, 600).await;
    assert_eq!(told.iter().map(|event| event.event_number).collect::<Vec<_>>(), (1..=600).collect::<Vec<_>>());
    assert_eq!(told, events_after(&world, 0).await);
    world.check_invariants().await;
}

/// On PostgreSQL, the events of a batch and its other writes are one statement. A batch that waits for another lock
/// must not hold the lock of the head of the feed, because all writes need this lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_waits_for_a_lock_does_not_delay_other_events() {
    let world = World::new(Engine::Postgres).await;
    world.concert("IU", 5).await;
    let (payer, joiner) = (world.user(0).await, world.user(0).await);
    let db = sea_orm::Database::connect(&world.database_url).await.unwrap();
    let other = db.begin().await.unwrap();
    let entry = "INSERT INTO ledger_entry (user_id, entry_number, kind, amount, balance_after, create_time)";
    other.execute_unprepared(&format!("{entry} VALUES ('{payer}', 1, 'CHARGE', 1, 1, 0)")).await.unwrap();
    let mut wallets = world.wallets();
    let request = proto::ChargeWalletRequest { user_id: payer.to_string(), amount: 1, request_id: String::new() };
    let charge = tokio::spawn(async move { wallets.charge_wallet(request).await });
    let waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let waiting = Statement::from_string(DatabaseBackend::Postgres, waiting);
    let is_waiting = async || db.query_one_raw(waiting.clone()).await.unwrap().is_some();
    eventually("the charge waits for the other entry", is_waiting).await;
    let joined = tokio::time::timeout(Duration::from_secs(5), world.join("IU", joiner)).await;
    assert!(joined.is_ok(), "IssueToken waited for a charge");
    assert!(!charge.is_finished());
    other.rollback().await.unwrap();
    charge.await.unwrap().unwrap();
    let kinds: Vec<Option<Kind>> = events_after(&world, 0).await.into_iter().map(|event| event.kind).collect();
    let order = kinds.iter().position(|kind| matches!(kind, Some(Kind::TokenIssued(_))));
    assert!(order < kinds.iter().position(|kind| matches!(kind, Some(Kind::WalletCharged(_)))), "{kinds:?}");
    world.check_invariants().await;
}
