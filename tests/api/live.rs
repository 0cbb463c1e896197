//! Tests special cases: decisions under the lock of a row, stored request ids, ends of streams, and durable commits.

use std::time::Duration;

use boxoffice::rpc::proto::{self, QueueState, admin_service_client::AdminServiceClient};
use sea_orm::{ConnectionTrait, DatabaseBackend, Statement};
use tonic::{Code, Status, transport::Channel};
use uuid::Uuid;

use crate::harness::{Caller, DATE, Engine, World, assert_failure, eventually, on_both_engines};

on_both_engines!(
    a_late_first_call_does_not_revive_an_expired_admission,
    a_token_is_invalid_if_its_number_belongs_to_another_user,
    the_request_id_of_a_repeated_hold_is_stored,
    the_request_id_of_a_repeated_payment_or_refund_is_stored,
    seat_held_names_the_callers_own_hold,
    a_seat_stream_ends_with_the_state_of_its_token,
    a_position_stream_shows_an_end_on_another_replica,
    an_admitted_user_sees_sold_out_and_seats_again,
    a_user_with_old_reservations_can_hold_and_pay,
);

fn request_id() -> String {
    Uuid::now_v7().to_string()
}

/// An admission ends while its first call waits for a lock. The call must fail, and the next promotion must admit the
/// next user.
async fn a_late_first_call_does_not_revive_an_expired_admission(world: World) {
    let claim_ttl = prost_types::Duration { seconds: 30, nanos: 0 };
    world.concert_with("IU", 1, |concert| (concert.claim_ttl, concert.max_active_count) = (Some(claim_ttl), 1)).await;
    let (first, second) = (world.waiting("IU").await, world.waiting("IU").await);
    world.promote().await;
    world.advance(Duration::from_secs(29));
    // The call starts before the end of the admission, but gets the lock on the row of its token after this end.
    let lock = crate::harness::lock_database(&world).await;
    lock.execute_unprepared("UPDATE queue_token SET issue_time = issue_time").await.unwrap();
    let call = tokio::spawn({
        let first = first.clone();
        async move { first.hold(DATE, &[1]).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.advance(Duration::from_secs(2));
    lock.rollback().await.unwrap();
    assert_failure(call.await.unwrap(), Code::FailedPrecondition, "TOKEN_EXPIRED");
    world.promote().await;
    assert_eq!(second.state().await, QueueState::Active);
    assert_eq!(first.state().await, QueueState::Expired);
    world.check_invariants().await;
}

/// Returns a caller whose token has a valid signature and the queue number of another user.
async fn with_number_of_another_user(world: &World, caller: &Caller, queue_number: i64) -> Caller {
    let sql = "SELECT key_id, secret FROM signing_key ORDER BY key_id DESC LIMIT 1";
    let db = sea_orm::Database::connect(&world.database_url).await.unwrap();
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap().unwrap();
    let (key_id, secret): (i64, String) = (row.try_get("", "key_id").unwrap(), row.try_get("", "secret").unwrap());
    let key = boxoffice::token::SigningKey { id: key_id.to_string(), secret: hex::decode(secret).unwrap().into() };
    let ring = boxoffice::token::KeyRing::default();
    ring.replace(vec![key], None);
    let concert_code = caller.concert_code.clone();
    let bearer = boxoffice::token::Bearer { user_id: caller.uuid(), concert_code, concert_id: 1, queue_number };
    Caller { token: ring.sign(&bearer).unwrap(), queue_number, ..caller.clone() }
}

async fn a_token_is_invalid_if_its_number_belongs_to_another_user(world: World) {
    world.concert("IU", 50).await;
    let (victim, other) = (world.waiting("IU").await, world.waiting("IU").await);
    let forged = with_number_of_another_user(&world, &other, victim.queue_number).await;
    for _ in 0..2 {
        assert_failure(forged.position().await, Code::Unauthenticated, "TOKEN_INVALID");
        assert_failure(forged.watch().await.map(drop), Code::Unauthenticated, "TOKEN_INVALID");
        assert_failure(forged.leave().await, Code::Unauthenticated, "TOKEN_INVALID");
        assert_ne!(victim.state().await, QueueState::Left);
        world.promote().await;
    }
    assert_eq!(victim.state().await, QueueState::Active);
}

async fn the_request_id_of_a_repeated_hold_is_stored(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let (first, again) = (request_id(), request_id());
    let held = caller.hold_as(DATE, &[1, 2], &first).await.unwrap();
    assert_eq!(caller.hold_as(DATE, &[2], &again).await.unwrap(), held);
    assert_failure(caller.hold_as(DATE, &[3], &again).await, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
    assert_failure(caller.hold_as(DATE, &[1, 2], &again).await, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
    assert_eq!(caller.hold_as(DATE, &[1, 2], &first).await.unwrap(), held);
    caller.release(&held.reservation_id).await.unwrap();
    // The answer must stay the same after the seats were released.
    assert_eq!(caller.hold_as(DATE, &[2], &again).await.unwrap(), held);
    // The same id may be used for a different RPC.
    world.charge(caller.uuid(), 5, &again).await.unwrap();
}

async fn the_request_id_of_a_repeated_payment_or_refund_is_stored(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let held = caller.hold(DATE, &[1]).await.unwrap();
    let paid = caller.pay_as(&held.reservation_id, &request_id()).await.unwrap();
    let again = request_id();
    assert_eq!(caller.pay_as(&held.reservation_id, &again).await.unwrap(), paid);
    let next = Caller { token: String::new(), ..caller.clone() }.issue().await.unwrap();
    let next = Caller { token: next.token, queue_number: next.queue_number, ..caller.clone() };
    world.promote().await;
    let other = next.hold(DATE, &[2]).await.unwrap();
    assert_failure(next.pay_as(&other.reservation_id, &again).await, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
    let second = next.pay_as(&other.reservation_id, &request_id()).await.unwrap();

    caller.refund_as(&paid.payment_id, &request_id()).await.unwrap();
    let again = request_id();
    let refunded = caller.refund_as(&paid.payment_id, &again).await.unwrap();
    assert_eq!(refunded.state(), proto::PaymentState::Refunded);
    assert_failure(caller.refund_as(&second.payment_id, &again).await, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
    assert_eq!(caller.refund_as(&paid.payment_id, &again).await.unwrap(), refunded);
    world.check_invariants().await;
}

async fn seat_held_names_the_callers_own_hold(world: World) {
    world.concert("IU", 50).await;
    let (caller, other) = (world.admitted("IU").await, world.admitted("IU").await);
    let mine = caller.hold(DATE, &[1]).await.unwrap();
    let details = assert_failure(caller.hold(DATE, &[1, 2]).await, Code::FailedPrecondition, "SEAT_HELD");
    let info = details.error_info().unwrap();
    assert_eq!(info.metadata["reservation_id"], mine.reservation_id);
    assert_eq!(info.metadata["seat_numbers"], "1");
    assert!(details.retry_info().is_some());
    let details = assert_failure(other.hold(DATE, &[1, 2]).await, Code::FailedPrecondition, "SEAT_HELD");
    assert!(!details.error_info().unwrap().metadata.contains_key("reservation_id"));
}

async fn end_of(mut stream: tonic::Streaming<proto::WatchSeatsResponse>) -> Status {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(10), stream.message()).await.expect("a message in time");
        if let Err(status) = message {
            return status;
        }
    }
}

async fn a_seat_stream_ends_with_the_state_of_its_token(world: World) {
    world.concert("IU", 50).await;
    let (payer, leaver) = (world.admitted("IU").await, world.admitted("IU").await);
    let (of_payer, of_leaver) = (payer.watch_seats(DATE).await.unwrap(), leaver.watch_seats(DATE).await.unwrap());
    payer.hold(DATE, &[1]).await.unwrap();
    payer.pay().await.unwrap();
    leaver.leave().await.unwrap();
    assert_failure(Err::<(), _>(end_of(of_payer).await), Code::FailedPrecondition, "TOKEN_COMPLETED");
    assert_failure(Err::<(), _>(end_of(of_leaver).await), Code::FailedPrecondition, "TOKEN_LEFT");
}

async fn next_position(stream: &mut tonic::Streaming<proto::WatchPositionResponse>) -> proto::QueuePosition {
    let message = tokio::time::timeout(Duration::from_secs(10), stream.message()).await.expect("a message in time");
    message.unwrap().expect("a message").position.expect("a position")
}

async fn a_position_stream_shows_an_end_on_another_replica(mut world: World) {
    // SQLite allows one server per file, so on SQLite all calls go to the same server.
    let replica = if world.engine == Engine::Postgres { world.add_replica().await } else { 0 };
    world.concert("IU", 50).await;
    let (payer, leaver) = (world.admitted("IU").await, world.admitted("IU").await);
    let elsewhere = |caller: &Caller| caller.via(world.channel(replica));
    let mut of_payer = elsewhere(&payer).watch().await.unwrap();
    let mut of_leaver = elsewhere(&leaver).watch().await.unwrap();
    assert_eq!(next_position(&mut of_payer).await.state(), QueueState::Active);
    assert_eq!(next_position(&mut of_leaver).await.state(), QueueState::Active);
    payer.hold(DATE, &[1]).await.unwrap();
    payer.pay().await.unwrap();
    leaver.leave().await.unwrap();
    assert_eq!(next_position(&mut of_payer).await.state(), QueueState::Completed);
    assert_eq!(next_position(&mut of_leaver).await.state(), QueueState::Left);
    assert!(of_payer.message().await.unwrap().is_none());
}

async fn an_admitted_user_sees_sold_out_and_seats_again(world: World) {
    world.concert("IU", 2).await;
    let (first, second) = (world.admitted("IU").await, world.admitted("IU").await);
    let watcher = world.admitted("IU").await;
    let mut stream = watcher.watch().await.unwrap();
    let mut next = async || {
        let position = next_position(&mut stream).await;
        (position.state(), position.unsold_seat_count)
    };
    assert_eq!(next().await, (QueueState::Active, 4));
    first.hold(DATE, &[1, 2]).await.unwrap();
    second.hold("2027-02-02", &[1, 2]).await.unwrap();
    let payment = first.pay().await.unwrap();
    second.pay().await.unwrap();
    assert_eq!(next().await, (QueueState::Active, 0));
    first.refund(&payment.payment_id).await.unwrap();
    assert_eq!(next().await, (QueueState::Active, 2));
}

/// The user has three released holds and one expired hold before the hold that is paid.
async fn a_user_with_old_reservations_can_hold_and_pay(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    for seat in 0..3 {
        let held = caller.hold(DATE, &[seat + 1]).await.unwrap();
        caller.release(&held.reservation_id).await.unwrap();
    }
    assert_failure(caller.pay().await, Code::FailedPrecondition, "NO_HELD_SEAT");
    caller.hold(DATE, &[7]).await.unwrap();
    world.advance(Duration::from_secs(300));
    assert_failure(caller.pay().await, Code::FailedPrecondition, "HOLD_EXPIRED");
    world.expire().await;
    // The answer must stay the same after the pass has set the hold to EXPIRED.
    assert_failure(caller.pay().await, Code::FailedPrecondition, "HOLD_EXPIRED");
    caller.hold(DATE, &[8]).await.unwrap();
    assert_eq!(caller.pay().await.unwrap().seat_numbers, [8]);
    world.check_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_of_sale_stats_gets_current_counts_without_a_burst() {
    let world = World::new(Engine::Sqlite).await;
    world.concert("IU", 50).await;
    let interval = Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 });
    let request = proto::WatchSaleStatsRequest { concert_code: "IU".into(), interval };
    // With a window of 16 bytes the server cannot send messages that the caller does not read.
    let address = format!("http://{}", world.server(0).admin_address);
    let endpoint = Channel::from_shared(address).unwrap().initial_stream_window_size(Some(16));
    let mut admin = AdminServiceClient::new(endpoint.connect().await.unwrap());
    let mut stream = admin.watch_sale_stats(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let started = std::time::Instant::now();
    let mut count = 0;
    while started.elapsed() < Duration::from_millis(900) {
        stream.message().await.unwrap().unwrap();
        count += 1;
    }
    // Four or five intervals fit into 900 ms, and a few messages were in flight. The server must not send all 30
    // messages that the caller did not read in 6 seconds.
    assert!((3..=12).contains(&count), "{count} messages");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_commits_are_durable_even_if_the_database_turns_that_off() {
    let world = World::new(Engine::Postgres).await;
    let db = sea_orm::Database::connect(&world.database_url).await.unwrap();
    let show = async |sql: &str| {
        let statement = Statement::from_string(DatabaseBackend::Postgres, sql);
        db.query_one_raw(statement).await.unwrap().unwrap().try_get_by_index::<String>(0).unwrap()
    };
    let name = show("SELECT current_database()::TEXT").await;
    db.execute_unprepared(&format!("ALTER DATABASE \"{name}\" SET synchronous_commit = off")).await.unwrap();
    let mut world = world;
    let replica = world.add_replica().await;
    let user = Uuid::now_v7().to_string();
    let mut wallets = proto::wallet_service_client::WalletServiceClient::new(world.channel(replica));
    wallets.open_wallet(proto::OpenWalletRequest { user_id: user }).await.unwrap();
    // Each session of the server sets `synchronous_commit` itself, so the setting of the database has no effect.
    let db = boxoffice::db::Database::new(&world.settings.database_url, world.clock.clone()).await.unwrap();
    let write = db.begin().await.unwrap();
    let row = write.conn().query_one_raw(Statement::from_string(DatabaseBackend::Postgres, "SHOW synchronous_commit"));
    let level: String = row.await.unwrap().unwrap().try_get_by_index(0).unwrap();
    assert_eq!(level, "on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_is_correct_right_after_199_departures() {
    let world = World::new(Engine::Sqlite).await;
    world.concert("IU", 50).await;
    let callers = futures::future::join_all((0..200).map(|_| world.waiting("IU"))).await;
    let leaving = callers[..199].iter().map(Caller::leave);
    for left in futures::future::join_all(leaving).await {
        left.unwrap();
    }
    // The next call must already count the departures.
    assert_eq!(callers[199].position().await.unwrap().position, Some(1));
    eventually("all have left", async || world.stats("IU").await.left_count == 199).await;
}
