//! Tests the errors of the contract: their codes, reasons and details. Also checks that each reason occurs in a test of
//! this file or of another file.

use std::time::Duration;

use boxoffice::rpc::proto::{self, ErrorReason, QueueState};
use sea_orm::{ConnectionTrait, Database};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::harness::{
    Caller, DATE, Engine, PRICE, World, assert_failure, connect, lock_database, on_both_engines, start,
};

on_both_engines!(
    an_unknown_concert_is_named,
    an_unknown_user_is_named,
    a_date_without_performance_is_named,
    seats_that_do_not_exist_are_named,
    a_sold_seat_is_refused_without_a_retry_delay,
    a_held_seat_is_refused_with_the_time_when_the_hold_ends,
    a_call_without_its_token_is_refused,
    a_forged_or_unknown_token_is_refused,
    a_token_of_another_user_is_refused,
    a_token_of_another_concert_is_refused,
    a_waiting_token_is_refused_with_the_time_of_the_next_poll,
    an_ended_token_is_refused_with_its_last_state,
    paying_without_a_held_seat_is_refused,
    reservations_and_payments_of_another_user_are_not_found,
    all_ill_formed_fields_are_named_in_one_answer,
    overload_is_refused_immediately_and_leaves_no_trace,
    a_stopping_server_ends_its_streams_with_unavailable,
    without_a_database_calls_are_answered_unavailable,
);

/// The reasons that these tests cannot cause.
const SHOWN_ELSEWHERE: [ErrorReason; 2] = [
    // This value is never sent.
    ErrorReason::Unspecified,
    // Only a defect in the service causes this reason. The tests of `src/batch/lane.rs` cause a panic and an unexpected
    // error.
    ErrorReason::Internal,
];

#[test]
fn every_reason_is_tested() {
    let sources = [
        include_str!("admin.rs"),
        include_str!("best_available.rs"),
        include_str!("credentials.rs"),
        include_str!("draw.rs"),
        include_str!("error_contract.rs"),
        include_str!("event_callers.rs"),
        include_str!("events.rs"),
        include_str!("extension.rs"),
        include_str!("overload.rs"),
        include_str!("payment.rs"),
        include_str!("queue.rs"),
        include_str!("refund.rs"),
        include_str!("reservation.rs"),
        include_str!("sale_end.rs"),
        include_str!("wallet.rs"),
    ];
    for number in 0..200 {
        let Ok(reason) = ErrorReason::try_from(number) else { continue };
        let name = reason.as_str_name().strip_prefix("ERROR_REASON_").expect("the prefix of the enum");
        let met = sources.iter().any(|source| source.contains(&format!("\"{name}\"")));
        assert!(met || SHOWN_ELSEWHERE.contains(&reason), "no test expects the reason {name}; add a test");
    }
}

/// The calls that need a token in any state.
const WITH_TOKEN: [&str; 3] = ["GetPosition", "WatchPosition", "LeaveQueue"];
/// The calls that need an admitted token.
const WITH_ADMISSION: [&str; 7] =
    ["ListPerformances", "ListSeats", "WatchSeats", "HoldSeats", "ExtendReservation", "ReleaseReservation", "Pay"];

async fn call(rpc: &str, caller: &Caller) -> Result<(), Status> {
    match rpc {
        "GetPosition" => caller.position().await.map(drop),
        "WatchPosition" => caller.watch().await.map(drop),
        "LeaveQueue" => caller.leave().await,
        "ListPerformances" => caller.performances().await.map(drop),
        "ListSeats" => caller.seats(DATE).await.map(drop),
        "WatchSeats" => caller.watch_seats(DATE).await.map(drop),
        "ExtendReservation" => caller.extend(&Uuid::now_v7().to_string(), "").await.map(drop),
        "HoldSeats" => caller.hold(DATE, &[1]).await.map(drop),
        "ReleaseReservation" => caller.release(&Uuid::now_v7().to_string()).await.map(drop),
        "Pay" => caller.pay().await.map(drop),
        other => panic!("no call {other}"),
    }
}

fn all_with_token() -> impl Iterator<Item = &'static str> {
    WITH_TOKEN.into_iter().chain(WITH_ADMISSION)
}

fn metadata(details: &tonic_types::ErrorDetails, key: &str) -> String {
    details.error_info().expect("ErrorInfo").metadata.get(key).cloned().unwrap_or_default()
}

async fn an_unknown_concert_is_named(world: World) {
    world.concert("IU", 50).await;
    let mut caller = world.admitted("IU").await;
    caller.concert_code = "NOPE".into();
    for rpc in
        ["GetPosition", "WatchPosition", "LeaveQueue", "ListPerformances", "ListSeats", "WatchSeats", "HoldSeats"]
    {
        let details = assert_failure(call(rpc, &caller).await, Code::NotFound, "CONCERT_NOT_FOUND");
        assert_eq!(metadata(&details, "concert_code"), "NOPE", "{rpc}");
    }
    assert_failure(caller.issue().await, Code::NotFound, "CONCERT_NOT_FOUND");
    let request = proto::GetConcertRequest { concert_code: "NOPE".into() };
    assert_failure(caller.concerts().get_concert(request).await, Code::NotFound, "CONCERT_NOT_FOUND");
    let request = proto::GetSaleStatsRequest { concert_code: "NOPE".into() };
    assert_failure(world.admin().get_sale_stats(request).await, Code::NotFound, "CONCERT_NOT_FOUND");
}

async fn an_unknown_user_is_named(world: World) {
    world.concert("IU", 50).await;
    let user_id = Uuid::now_v7();
    let unknown = user_id.to_string();
    let named = |answer: Result<(), Status>| {
        let details = assert_failure(answer, Code::NotFound, "USER_NOT_FOUND");
        assert_eq!(metadata(&details, "user_id"), unknown);
    };
    named(Caller::join(world.channel(0), "IU", user_id).await.map(drop));
    named(world.charge(user_id, 1, "").await.map(drop));
    let request = proto::GetBalanceRequest { user_id: unknown.clone() };
    named(world.wallets().get_balance(request).await.map(drop));
    let request = proto::ListWalletEntriesRequest { user_id: unknown.clone(), ..Default::default() };
    named(world.wallets().list_wallet_entries(request).await.map(drop));
    let caller = world.waiting("IU").await;
    let request = proto::ListReservationsRequest { user_id: unknown.clone(), ..Default::default() };
    named(caller.reservations().list_reservations(request).await.map(drop));
    let request = proto::ListPaymentsRequest { user_id: unknown.clone(), ..Default::default() };
    named(caller.payments().list_payments(request).await.map(drop));
    // The failed IssueToken did not take a queue number.
    assert_eq!(caller.queue_number, 1);
}

async fn a_date_without_performance_is_named(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    for answer in [caller.seats("2027-02-03").await.map(drop), caller.hold("2027-02-03", &[1]).await.map(drop)] {
        let details = assert_failure(answer, Code::NotFound, "PERFORMANCE_NOT_FOUND");
        assert_eq!(
            (metadata(&details, "concert_code"), metadata(&details, "date")),
            ("IU".into(), "2027-02-03".into())
        );
    }
}

async fn seats_that_do_not_exist_are_named(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    for seat in [-1, 0, 51, i32::MIN, i32::MAX] {
        let details = assert_failure(caller.hold(DATE, &[seat, 1]).await, Code::NotFound, "SEAT_NOT_FOUND");
        assert_eq!(metadata(&details, "seat_numbers"), seat.to_string());
        assert_eq!(metadata(&details, "seat_count"), "50");
    }
    assert_eq!(world.stats("IU").await.held_seat_count, 0);
}

async fn a_sold_seat_is_refused_without_a_retry_delay(world: World) {
    world.concert("IU", 50).await;
    let (payer, caller) = (world.admitted("IU").await, world.admitted("IU").await);
    payer.hold(DATE, &[1]).await.unwrap();
    payer.pay().await.unwrap();
    world.advance(Duration::from_secs(599));
    let details = assert_failure(caller.hold(DATE, &[1, 2]).await, Code::FailedPrecondition, "SEAT_SOLD");
    assert_eq!(metadata(&details, "seat_numbers"), "1");
    assert!(details.retry_info().is_none());
}

async fn a_held_seat_is_refused_with_the_time_when_the_hold_ends(world: World) {
    world.concert("IU", 50).await;
    let (holder, caller) = (world.admitted("IU").await, world.admitted("IU").await);
    holder.hold(DATE, &[1]).await.unwrap();
    world.advance(Duration::from_secs(100));
    let details = assert_failure(caller.hold(DATE, &[1, 2]).await, Code::FailedPrecondition, "SEAT_HELD");
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(200)));
}

async fn a_call_without_its_token_is_refused(world: World) {
    world.concert("IU", 50).await;
    let mut caller = world.admitted("IU").await;
    caller.token.clear();
    for rpc in all_with_token() {
        assert_failure(call(rpc, &caller).await, Code::Unauthenticated, "TOKEN_MISSING");
    }
}

async fn a_forged_or_unknown_token_is_refused(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let (head, signature) = caller.token.rsplit_once('.').unwrap();
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let forged = [
        "12345".to_owned(),
        head.to_owned(),
        format!("{head}."),
        format!("{head}.{flipped}{}", &signature[1..]),
        // The header is {"alg":"none"}.
        format!("eyJhbGciOiJub25lIn0.{}.", head.split_once('.').unwrap().1),
    ];
    for token in forged {
        let mallory = Caller { token, ..caller.clone() };
        for rpc in all_with_token() {
            assert_failure(call(rpc, &mallory).await, Code::Unauthenticated, "TOKEN_INVALID");
        }
    }
    // Two tokens with a valid signature: the number of the first was never issued, and the number of the second belongs
    // to another user. Another database with the same signing key could issue such tokens.
    let db = Database::connect(&world.database_url).await.unwrap();
    let secret =
        db.query_one_raw(sea_orm::Statement::from_string(db.get_database_backend(), "SELECT secret FROM signing_key"));
    let secret: String = secret.await.unwrap().unwrap().try_get("", "secret").unwrap();
    let ring = boxoffice::token::KeyRing::default();
    let key = boxoffice::token::SigningKey { id: "1".into(), secret: hex::decode(secret).unwrap().into() };
    ring.replace(vec![key], None);
    let bearer = |user_id, queue_number| {
        let concert_code = "IU".to_owned();
        boxoffice::token::Bearer { user_id, concert_code, concert_id: 1, queue_number }
    };
    let unknown = ring.sign(&bearer(caller.uuid(), 99)).unwrap();
    let of_another = Uuid::now_v7();
    let taken = ring.sign(&bearer(of_another, caller.queue_number)).unwrap();
    for (user_id, token) in [(caller.uuid(), unknown), (of_another, taken)] {
        let stranger = Caller { user_id: user_id.to_string(), token, ..caller.clone() };
        for rpc in
            ["GetPosition", "WatchPosition", "ListSeats", "HoldSeats", "ExtendReservation", "ReleaseReservation", "Pay"]
        {
            assert_failure(call(rpc, &stranger).await, Code::Unauthenticated, "TOKEN_INVALID");
        }
    }
}

async fn a_token_of_another_user_is_refused(world: World) {
    world.concert("IU", 50).await;
    let (caller, other) = (world.admitted("IU").await, world.admitted("IU").await);
    let held = other.hold(DATE, &[1]).await.unwrap();
    let mallory = Caller { user_id: other.user_id.clone(), ..caller };
    for rpc in all_with_token() {
        assert_failure(call(rpc, &mallory).await, Code::PermissionDenied, "TOKEN_USER_MISMATCH");
    }
    assert_eq!(other.reservation(&held.reservation_id).await.unwrap(), held);
    assert_eq!(other.state().await, QueueState::Active);
}

async fn a_token_of_another_concert_is_refused(world: World) {
    world.concert("IU", 50).await;
    world.concert("BTS", 50).await;
    let iu = world.admitted("IU").await;
    let bts = world.join("BTS", iu.uuid()).await;
    world.promote().await;
    let held = bts.hold(DATE, &[1]).await.unwrap();
    let mixed = Caller { concert_code: "BTS".into(), ..iu.clone() };
    for rpc in
        ["GetPosition", "WatchPosition", "LeaveQueue", "ListPerformances", "ListSeats", "WatchSeats", "HoldSeats"]
    {
        let details = assert_failure(call(rpc, &mixed).await, Code::PermissionDenied, "TOKEN_CONCERT_MISMATCH");
        assert_eq!(metadata(&details, "concert_code"), "IU", "{rpc}");
    }
    let id = held.reservation_id.as_str();
    assert_failure(iu.release(id).await, Code::PermissionDenied, "TOKEN_CONCERT_MISMATCH");
    assert_failure(iu.extend(id, "").await, Code::PermissionDenied, "TOKEN_CONCERT_MISMATCH");
    assert_failure(iu.pay_as(id, "").await, Code::PermissionDenied, "TOKEN_CONCERT_MISMATCH");
    bts.pay_as(id, "").await.unwrap();
}

async fn a_waiting_token_is_refused_with_the_time_of_the_next_poll(world: World) {
    world.concert("IU", 50).await;
    let caller = world.waiting("IU").await;
    for rpc in WITH_ADMISSION {
        let details = assert_failure(call(rpc, &caller).await, Code::FailedPrecondition, "NOT_ADMITTED");
        assert!(details.retry_info().unwrap().retry_delay.unwrap() >= Duration::from_secs(2));
        assert_eq!(metadata(&details, "queue_number"), "1");
    }
    assert_eq!(world.stats("IU").await.held_seat_count, 0);
}

async fn an_ended_token_is_refused_with_its_last_state(world: World) {
    world.concert("IU", 50).await;
    let (paid, left, over) = (world.admitted("IU").await, world.admitted("IU").await, world.admitted("IU").await);
    paid.hold(DATE, &[9]).await.unwrap();
    paid.pay().await.unwrap();
    left.leave().await.unwrap();
    world.advance(Duration::from_secs(600));
    for rpc in WITH_ADMISSION {
        assert_failure(call(rpc, &left).await, Code::FailedPrecondition, "TOKEN_LEFT");
        assert_failure(call(rpc, &over).await, Code::FailedPrecondition, "TOKEN_EXPIRED");
        if rpc != "Pay" {
            assert_failure(call(rpc, &paid).await, Code::FailedPrecondition, "TOKEN_COMPLETED");
        }
    }
}

async fn paying_without_a_held_seat_is_refused(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    assert_failure(caller.pay().await, Code::FailedPrecondition, "NO_HELD_SEAT");
    let held = caller.hold(DATE, &[1]).await.unwrap();
    caller.release(&held.reservation_id).await.unwrap();
    assert_failure(caller.pay().await, Code::FailedPrecondition, "NO_HELD_SEAT");
    caller.hold(DATE, &[1]).await.unwrap();
    let paid = caller.pay().await.unwrap().reservation_id;
    let again = world.join("IU", caller.uuid()).await;
    world.promote().await;
    assert_failure(again.release(&paid).await, Code::FailedPrecondition, "NO_HELD_SEAT");
    assert_failure(again.pay().await, Code::FailedPrecondition, "NO_HELD_SEAT");
}

async fn reservations_and_payments_of_another_user_are_not_found(world: World) {
    world.concert("IU", 50).await;
    let (caller, other) = (world.admitted("IU").await, world.admitted("IU").await);
    let held = caller.hold(DATE, &[1]).await.unwrap();
    let unknown = Uuid::now_v7().to_string();
    for id in [&held.reservation_id, &unknown] {
        for answer in [
            other.reservation(id).await.map(drop),
            other.release(id).await.map(drop),
            other.pay_as(id, "").await.map(drop),
        ] {
            let details = assert_failure(answer, Code::NotFound, "RESERVATION_NOT_FOUND");
            assert_eq!(&metadata(&details, "reservation_id"), id);
        }
    }
    let payment = caller.pay().await.unwrap();
    for payment_id in [payment.payment_id, unknown] {
        let user_id = other.user_id.clone();
        let request = proto::GetPaymentRequest { user_id, payment_id: payment_id.clone() };
        let details = assert_failure(other.payments().get_payment(request).await, Code::NotFound, "PAYMENT_NOT_FOUND");
        assert_eq!(metadata(&details, "payment_id"), payment_id);
    }
}

#[track_caller]
fn assert_violations<T: std::fmt::Debug>(answer: Result<T, Status>, fields: &[&str]) {
    let details = assert_failure(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    let violations = &details.bad_request().expect("BadRequest").field_violations;
    let named: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(named, fields);
    assert!(violations.iter().all(|violation| !violation.description.is_empty()));
}

async fn all_ill_formed_fields_are_named_in_one_answer(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let bad = Caller { concert_code: "iu".into(), user_id: "me".into(), ..caller.clone() };
    assert_violations(bad.issue().await, &["concert_code", "user_id"]);
    assert_violations(bad.position().await, &["concert_code", "user_id"]);
    assert_violations(bad.seats("24.12.2026").await, &["concert_code", "user_id", "date"]);
    let all = ["concert_code", "user_id", "date", "request_id", "seat_numbers"];
    assert_violations(bad.hold_as("", &[], "1").await, &all);
    assert_violations(caller.hold(DATE, &[1, 2, 1]).await, &["seat_numbers"]);
    assert_violations(caller.hold(DATE, &[]).await, &["seat_numbers"]);
    assert_violations(bad.pay_as("r", "q").await, &["user_id", "reservation_id", "request_id"]);
    assert_violations(bad.release("r").await, &["user_id", "reservation_id"]);
    assert_violations(bad.reservation("r").await, &["user_id", "reservation_id"]);
    for amount in [0, -1, i64::MIN] {
        assert_violations(world.charge(caller.uuid(), amount, "").await, &["amount"]);
    }
    assert_violations(world.charge(caller.uuid(), 0, "x").await, &["request_id", "amount"]);
    let request = proto::ListConcertsRequest { page_size: -1, page_token: String::new() };
    assert_violations(caller.concerts().list_concerts(request).await, &["page_size"]);
    let request = proto::ListConcertsRequest { page_size: 0, page_token: "foreign".into() };
    assert_violations(caller.concerts().list_concerts(request).await, &["page_token"]);
    let user_id = caller.user_id.clone();
    let request = proto::ListPaymentsRequest { user_id: "me".into(), page_size: -1, page_token: "00".into() };
    let refused = caller.payments().list_payments(request).await;
    assert_violations(refused, &["user_id", "page_size", "page_token"]);
    let request = proto::ListPaymentsRequest { user_id, page_size: 1, page_token: "00".into() };
    assert_violations(caller.payments().list_payments(request).await, &["page_token"]);
    assert_eq!(world.balance(caller.uuid()).await, 100 * PRICE);
}

async fn overload_is_refused_immediately_and_leaves_no_trace(world: World) {
    let user_id = world.user(0).await;
    // A lock of another connection makes charges wait in their lane.
    let lock = lock_database(&world).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..9_500 {
        let mut wallets = world.wallets();
        let request = proto::ChargeWalletRequest { user_id: user_id.to_string(), amount: 1, request_id: String::new() };
        calls.spawn(async move { wallets.charge_wallet(request).await });
    }
    // The lock is still held, so a call that is answered now was refused.
    let refused = calls.join_next().await.unwrap().unwrap();
    let details = assert_failure(refused, Code::ResourceExhausted, "OVERLOADED");
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    lock.rollback().await.unwrap();
    let mut charged = 0;
    while let Some(answer) = calls.join_next().await {
        match answer.unwrap() {
            Ok(_) => charged += 1,
            Err(status) => drop(assert_failure(Err::<(), _>(status), Code::ResourceExhausted, "OVERLOADED")),
        }
    }
    assert!(charged > 0);
    assert_eq!(world.balance(user_id).await, charged);
    world.check_invariants().await;
}

async fn a_stopping_server_ends_its_streams_with_unavailable(mut world: World) {
    world.concert("IU", 50).await;
    let caller = world.waiting("IU").await;
    let mut stream = caller.watch().await.unwrap();
    stream.message().await.unwrap().unwrap();
    world.stop_first().await;
    let end = stream.message().await;
    let details = assert_failure(end, Code::Unavailable, "SHUTTING_DOWN");
    assert!(details.retry_info().unwrap().retry_delay.is_some());
}

async fn without_a_database_calls_are_answered_unavailable(world: World) {
    // SQLite is unavailable while another connection holds its write lock. PostgreSQL is unavailable if nothing
    // listens on its port.
    let (answer, done): (_, futures::future::BoxFuture<()>) = match world.engine {
        Engine::Sqlite => {
            let lock = lock_database(&world).await;
            let answer = world.charge(Uuid::now_v7(), 1, "").await.map(drop);
            (answer, Box::pin(async move { lock.rollback().await.unwrap() }))
        }
        Engine::Postgres => {
            let mut settings = world.settings.clone();
            settings.database_url = "postgres://postgres@127.0.0.1:1/boxoffice".to_owned();
            let server = start(&settings, &world.clock, false).await;
            let channel = connect(server.address).await;
            let answer = Caller::join(channel, "IU", Uuid::now_v7()).await.map(drop);
            (answer, Box::pin(server.stop()))
        }
    };
    let details = assert_failure(answer, Code::Unavailable, "STORAGE_UNAVAILABLE");
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    done.await;
}
