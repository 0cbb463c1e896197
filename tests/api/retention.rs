//! Tests that old rows are deleted after the retention time, and that records of money are kept.

use std::time::Duration;

use boxoffice::{
    db::entity::{answered_request, ledger_entry, queue_token, reservation, reservation_extension, reserved_seat},
    rpc::proto::{QueueState, ReservationState},
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, Database, DatabaseConnection, EntityTrait, PaginatorTrait, QueryFilter, Statement,
};
use tonic::Code;
use uuid::Uuid;

use crate::harness::{DATE, Engine, World, assert_failure, on_both_engines};

on_both_engines!(
    old_rows_are_deleted_and_money_is_kept,
    rows_younger_than_the_retention_stay,
    several_replicas_may_tidy_at_the_same_time,
    a_hold_that_expires_late_is_deleted_later,
    the_expiry_pass_continues_where_the_last_server_stopped,
);

const DAY: Duration = Duration::from_secs(86_400);

async fn connect(world: &World) -> DatabaseConnection {
    Database::connect(&world.database_url).await.unwrap()
}

/// Returns the numbers of tokens, reservations, extensions and stored requests, in this order.
async fn counts(world: &World) -> [u64; 4] {
    let db = connect(world).await;
    [
        queue_token::Entity::find().count(&db).await.unwrap(),
        reservation::Entity::find().count(&db).await.unwrap(),
        reservation_extension::Entity::find().count(&db).await.unwrap(),
        answered_request::Entity::find().count(&db).await.unwrap(),
    ]
}

/// Creates one reservation for each of five users. The first reservation is paid, the second is refunded, the third is
/// released, and the fifth expires. The user of the fourth reservation leaves the queue. Returns the users one hour
/// later.
async fn past(world: &World) -> Vec<crate::harness::Caller> {
    world.concert("IU", 50).await;
    let mut callers = Vec::new();
    for seat in 1..=5 {
        let caller = world.admitted("IU").await;
        let held = caller.hold(DATE, &[seat]).await.unwrap();
        let again = Uuid::now_v7().to_string();
        caller.hold_as(DATE, &[seat], &again).await.unwrap();
        caller.extend(&held.reservation_id, "").await.unwrap();
        match seat {
            1 => drop(caller.pay().await.unwrap()),
            2 => {
                let payment = caller.pay().await.unwrap();
                caller.refund(&payment.payment_id).await.unwrap();
            }
            3 => drop(caller.release(&held.reservation_id).await.unwrap()),
            4 => caller.leave().await.unwrap(),
            _ => {}
        }
        callers.push(caller);
    }
    world.advance(Duration::from_secs(3_600));
    world.expire().await;
    callers
}

async fn old_rows_are_deleted_and_money_is_kept(world: World) {
    let callers = past(&world).await;
    let waiting = world.waiting("IU").await;
    assert_eq!(counts(&world).await, [6, 5, 5, 5]);
    let stats = world.stats("IU").await;
    world.advance(90 * DAY);
    world.tidy().await;
    // The waiting token stays. The paid and the refunded reservation stay with their extensions.
    assert_eq!(counts(&world).await, [1, 2, 2, 0]);
    let db = connect(&world).await;
    let payments = reservation::Entity::find().filter(reservation::Column::PayTime.is_not_null());
    assert_eq!(payments.count(&db).await.unwrap(), 2);
    assert_eq!(ledger_entry::Entity::find().count(&db).await.unwrap(), 6 + 3);
    assert_eq!(reserved_seat::Entity::find().count(&db).await.unwrap(), 1);
    assert_eq!(waiting.state().await, QueueState::Waiting);
    // The deleted tokens are unknown, but the payments can still be read.
    assert_failure(callers[2].position().await, Code::Unauthenticated, "TOKEN_INVALID");
    let request =
        boxoffice::rpc::proto::ListPaymentsRequest { user_id: callers[0].user_id.clone(), ..Default::default() };
    let listed = callers[0].payments().list_payments(request).await.unwrap().into_inner().payments;
    let paid = callers[0].reservation(&listed[0].reservation_id).await.unwrap();
    assert_eq!(paid.state(), ReservationState::Paid);
    // The counts of the sale still include the deleted rows.
    assert_eq!(world.stats("IU").await.issued_count, stats.issued_count);
    assert_eq!(world.stats("IU").await.revenue, stats.revenue);
    world.check_invariants_after_tidying().await;
}

async fn rows_younger_than_the_retention_stay(world: World) {
    past(&world).await;
    let before = counts(&world).await;
    world.advance(89 * DAY);
    world.tidy().await;
    assert_eq!(counts(&world).await, before);
}

async fn several_replicas_may_tidy_at_the_same_time(mut world: World) {
    if world.engine == Engine::Postgres {
        world.add_replica().await;
        world.add_replica().await;
    }
    past(&world).await;
    world.advance(91 * DAY);
    let replicas = world.replica_count();
    let passes = (0..6).map(|pass| world.server(pass % replicas).tidy());
    for tidied in futures::future::join_all(passes).await {
        tidied.unwrap();
    }
    assert_eq!(counts(&world).await, [0, 2, 2, 0]);
    world.check_invariants_after_tidying().await;
}

async fn the_expiry_pass_continues_where_the_last_server_stopped(mut world: World) {
    past(&world).await;
    let db = connect(&world).await;
    let reached = "SELECT reached_time FROM pass_cursor WHERE name = 'holds'";
    let reached = Statement::from_string(db.get_database_backend(), reached);
    let reached: i64 = db.query_one_raw(reached).await.unwrap().unwrap().try_get("", "reached_time").unwrap();
    assert!(reached > crate::harness::START, "the pass did not record its progress");
    let caller = world.admitted("IU").await;
    caller.hold(DATE, &[9]).await.unwrap();
    world.advance(Duration::from_secs(3_600));
    world.restart().await;
    world.expire().await;
    assert_eq!(reserved_seat::Entity::find().count(&db).await.unwrap(), 1);
    world.check_invariants().await;
}

/// The deletion runs before the expiry pass has found the ended hold.
async fn a_hold_that_expires_late_is_deleted_later(world: World) {
    world.concert("IU", 50).await;
    world.admitted("IU").await.hold(DATE, &[1]).await.unwrap();
    world.advance(91 * DAY);
    world.tidy().await;
    let db = connect(&world).await;
    let count = async || reservation::Entity::find().count(&db).await.unwrap();
    assert_eq!(count().await, 1);
    world.expire().await;
    world.tidy().await;
    assert_eq!(count().await, 0);
    world.check_invariants_after_tidying().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_returns_free_space_to_the_file_system() {
    let world = World::new(Engine::Sqlite).await;
    world.concert("IU", 50).await;
    let db = connect(&world).await;
    let user = world.user(0).await;
    // Adds 60,000 ended tokens of an old sale.
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
               INSERT INTO queue_token (concert_id, queue_number, user_id, turn, state, issue_time, departure_number)
               SELECT 1, i, $1, i, 'LEFT', i, i FROM n";
    db.execute_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, [user.into()])).await.unwrap();
    db.execute_unprepared("UPDATE queue_counter SET issued_number = 60000, departed_count = 60000").await.unwrap();
    db.execute_unprepared("PRAGMA wal_checkpoint(TRUNCATE)").await.unwrap();
    let pages = async || {
        let count = Statement::from_string(db.get_database_backend(), "PRAGMA page_count");
        db.query_one_raw(count).await.unwrap().unwrap().try_get_by_index::<i64>(0).unwrap()
    };
    let before = pages().await;
    world.tidy().await;
    assert_eq!(queue_token::Entity::find().count(&db).await.unwrap(), 0);
    assert!(pages().await < before / 2, "{} of {before} pages", pages().await);
}
