//! Tests the migration of a database of the previous version with its data.

use boxoffice::{
    clock::Clock,
    rpc::proto::{self, QueueState},
};
use boxoffice_migration::{Migrator, MigratorTrait};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, Statement, TransactionTrait, Value};
use testkit::{FreshDatabase, invariants};
use tonic::Code;
use uuid::Uuid;

use crate::{
    harness::{Caller, DATE, Engine, PRICE, START, World, assert_failure, on_both_engines},
    running::binary,
};

on_both_engines!(a_database_of_the_previous_version_is_migrated_with_its_data);

/// The number of migrations that the previous version had.
const BEFORE: u32 = 6;
const MINUTE: i64 = 60_000_000;

async fn run(db: &DatabaseConnection, sql: &str, values: impl IntoIterator<Item = Value>) {
    let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, values);
    db.execute_raw(statement).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
}

fn user(number: i64) -> Uuid {
    Uuid::from_u128(0x1000 + number as u128)
}

/// Returns the id of a reservation: a UUID of version 7.
fn reservation(number: i64) -> Uuid {
    Uuid::from_u128(0x7000_8000_0000_0000_2000 + number as u128)
}

/// Writes a sale in progress: a token in each state, a reservation in each state, a payment and a refunded payment.
async fn sale_of_the_version_before(db: &DatabaseConnection) {
    for sql in [
        "INSERT INTO venue (venue_id, name) VALUES ('hall', 'Hall')",
        "INSERT INTO section (venue_id, section_number, name, seat_count) VALUES ('hall', 1, 'Floor', 50)",
        "INSERT INTO concert (concert_code, name, open_time, paused, max_active_count, seats_per_user_limit)
         VALUES ('IU', 'IU live', 0, false, 0, 4)",
        "INSERT INTO queue_counter (concert_id, issued_number, admitted_number, admitted_count, departed_count)
         VALUES (1, 9, 7, 6, 2)",
    ] {
        run(db, sql, []).await;
    }
    let performance = "INSERT INTO performance (concert_id, date, start_time, venue_id, seat_count, sold_seat_count)
                       VALUES (1, $1, $2, 'hall', 50, 2)";
    run(db, performance, [DATE.into(), (START + 9_999 * MINUTE).into()]).await;
    run(db, "INSERT INTO section_price (performance_id, section_number, price) VALUES (1, 1, $1)", [PRICE.into()])
        .await;
    // Users 1 and 2 have paid, and user 3 holds seats. The admission of user 4 has expired. User 5 left after an
    // admission, and user 6 left before an admission. User 7 has released its seats. Users 8 and 9 wait.
    let states = ["COMPLETED", "COMPLETED", "ACTIVE", "EXPIRED", "LEFT", "LEFT", "ACTIVE", "WAITING", "WAITING"];
    let departures = [None, None, None, None, Some(1_i64), Some(2), None, None, None];
    for ((state, departure), number) in states.into_iter().zip(departures).zip(1_i64..) {
        run(db, "INSERT INTO wallet (user_id, open_time) VALUES ($1, 0)", [user(number).into()]).await;
        let charge = "INSERT INTO ledger_entry (user_id, entry_number, kind, amount, balance_after, create_time)
                      VALUES ($1, 1, 'CHARGE', $2, $2, 0)";
        run(db, charge, [user(number).into(), (10 * PRICE).into()]).await;
        let was_admitted = number != 6 && number < 8;
        let ended = !["WAITING", "ACTIVE"].contains(&state);
        let token = "INSERT INTO queue_token (concert_id, queue_number, user_id, state, ended, issue_time, admit_time,
                                              expire_time, departure_number)
                     VALUES (1, $1, $2, $3, $4, $5, $6, $7, $8)";
        let (admit, expire) = (was_admitted.then_some(START - MINUTE), was_admitted.then_some(START + 9 * MINUTE));
        let values: [Value; 8] = [
            number.into(),
            user(number).into(),
            state.into(),
            ended.into(),
            (START - 2 * MINUTE).into(),
            admit.into(),
            expire.into(),
            departure.into(),
        ];
        run(db, token, values).await;
    }
    reservations_of_the_version_before(db).await;
}

async fn reservations_of_the_version_before(db: &DatabaseConnection) {
    let held = [
        (1_i64, "PAID", "[1,2]"),
        (2, "REFUNDED", "[3]"),
        (3, "HELD", "[4,5,6]"),
        (4, "EXPIRED", "[7]"),
        (7, "RELEASED", "[8]"),
    ];
    for (number, state, seats) in held {
        let count = seats.split(',').count() as i64;
        let sql =
            "INSERT INTO reservation (reservation_id, user_id, concert_id, queue_number, performance_id, seat_numbers,
                                            total_price, state, hold_time, first_expire_time, expire_time)
                   VALUES ($1, $2, 1, $3, 1, $4, $5, $6, $7, $8, $8)";
        let (hold_time, expire_time) = (START - MINUTE, START + 4 * MINUTE);
        let values: [Value; 8] = [
            reservation(number).into(),
            user(number).into(),
            number.into(),
            seats.into(),
            (count * PRICE).into(),
            state.into(),
            hold_time.into(),
            expire_time.into(),
        ];
        run(db, sql, values).await;
        let row = match state {
            "PAID" => "SOLD",
            "HELD" => "HELD",
            _ => continue,
        };
        for seat in seats.trim_matches(['[', ']']).split(',').map(|seat| seat.parse::<i64>().unwrap()) {
            let sql = "INSERT INTO reserved_seat (performance_id, seat_number, reservation_id, state, expire_time)
                       VALUES (1, $1, $2, $3, $4)";
            run(db, sql, [seat.into(), reservation(number).into(), row.into(), expire_time.into()]).await;
        }
    }
    payments_of_the_version_before(db).await;
}

/// Returns the id of a payment. The previous version chose this id independently of the id of the reservation.
fn payment(number: i64) -> Uuid {
    Uuid::from_u128(0x3000 + number as u128)
}

/// Returns the id of the request that made a payment.
fn pay_request(number: i64) -> Uuid {
    Uuid::from_u128(0x4000 + number as u128)
}

/// Returns the id of the request that refunded a payment.
fn refund_request(number: i64) -> Uuid {
    Uuid::from_u128(0x5000 + number as u128)
}

async fn payments_of_the_version_before(db: &DatabaseConnection) {
    for (number, state, count) in [(1_i64, "PAID", 2), (2, "REFUNDED", 1)] {
        let (payment_id, price) = (payment(number), count * PRICE);
        let refund_time = (state == "REFUNDED").then_some(START);
        let sql =
            "INSERT INTO payment (payment_id, reservation_id, user_id, concert_id, price, state, pay_time, refund_time,
                                  request_id, refund_request_id)
                   VALUES ($1, $2, $3, 1, $4, $5, $6, $7, $8, $9)";
        let values: [Value; 9] = [
            payment_id.into(),
            reservation(number).into(),
            user(number).into(),
            price.into(),
            state.into(),
            (START - MINUTE).into(),
            refund_time.into(),
            pay_request(number).into(),
            refund_time.map(|_| refund_request(number)).into(),
        ];
        run(db, sql, values).await;
        let entry =
            "INSERT INTO ledger_entry (user_id, entry_number, kind, amount, balance_after, payment_id, create_time)
                     VALUES ($1, $2, $3, $4, $5, $6, 0)";
        let paid: [Value; 6] = [
            user(number).into(),
            2_i64.into(),
            "PAYMENT".into(),
            (-price).into(),
            (10 * PRICE - price).into(),
            payment_id.into(),
        ];
        run(db, entry, paid).await;
        if state == "REFUNDED" {
            let back: [Value; 6] = [
                user(number).into(),
                3_i64.into(),
                "REFUND".into(),
                price.into(),
                (10 * PRICE).into(),
                payment_id.into(),
            ];
            run(db, entry, back).await;
        }
    }
}

/// Checks that payments of the previous version keep their ids and the ids of their requests.
async fn old_payments_are_still_known(channel: &tonic::transport::Channel, other: &Caller) {
    let payer = Caller::join(channel.clone(), "IU", user(1)).await.unwrap();
    let request = proto::GetPaymentRequest { user_id: payer.user_id.clone(), payment_id: payment(1).to_string() };
    let found = payer.payments().get_payment(request).await.unwrap().into_inner().payment.unwrap();
    assert_eq!((found.payment_id, found.reservation_id), (payment(1).to_string(), reservation(1).to_string()));
    let request = proto::ListPaymentsRequest { user_id: payer.user_id.clone(), ..Default::default() };
    let listed = payer.payments().list_payments(request).await.unwrap().into_inner().payments;
    assert_eq!(listed.iter().map(|p| p.payment_id.clone()).collect::<Vec<_>>(), [payment(1).to_string()]);
    // Another user cannot pay with the id of a request that made a payment.
    let conflict = other.pay_as("", &pay_request(1).to_string()).await;
    assert_failure(conflict, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
    // A retry of the request that paid returns the first answer. It does not pay again.
    let again = payer.pay_as(&reservation(1).to_string(), &pay_request(1).to_string()).await.unwrap();
    assert_eq!((again.payment_id, again.state), (payment(1).to_string(), proto::PaymentState::Paid.into()));
    let refunded = payer.refund(&payment(1).to_string()).await.unwrap();
    assert_eq!(refunded.state(), proto::PaymentState::Refunded);
    // The id of a request that refunded a payment cannot refund another payment.
    let conflict = payer.refund_as(&payment(1).to_string(), &refund_request(2).to_string()).await;
    assert_failure(conflict, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
}

async fn a_database_of_the_previous_version_is_migrated_with_its_data(world: World) {
    // The harness has already migrated the database of this world, so the test uses a different database.
    let database = FreshDatabase::new(world.engine).await;
    let url = database.url.clone();
    let db = Database::connect(&url).await.unwrap();
    Migrator::up(&db, Some(BEFORE)).await.unwrap();
    sale_of_the_version_before(&db).await;
    db.close().await.unwrap();
    let mut settings = world.settings.clone();
    settings.database_url = database.server_url.clone();
    let clock = Clock::manual(START);
    let server = crate::harness::start(&settings, &clock, false).await;
    server.ready().await.unwrap();
    // This check is strict: every stored count must equal the count of the rows.
    invariants::check_without_feed(&url, &clock).await;

    let channel = crate::harness::connect(server.address).await;
    let holder = Caller::join(channel.clone(), "IU", user(3)).await.unwrap();
    assert_eq!(holder.queue_number, 3);
    let again = holder.hold(DATE, &[4, 5, 6]).await.unwrap();
    assert_eq!(again.reservation_id, reservation(3).to_string());
    let listed = holder.performances().await.unwrap();
    assert_eq!((listed[0].available_seat_count, listed[0].sale_end_time), (45, listed[0].start_time));
    holder.pay().await.unwrap();
    let waiting = Caller::join(channel.clone(), "IU", user(8)).await.unwrap();
    assert_eq!(waiting.position().await.unwrap().position, Some(1));
    server.promote().await.unwrap();
    assert_eq!(waiting.state().await, QueueState::Active);
    old_payments_are_still_known(&channel, &waiting).await;
    clock.advance(std::time::Duration::from_secs(3_600));
    server.expire().await.unwrap();
    invariants::check_without_feed(&url, &clock).await;
    server.stop().await;
}

/// Other statements of the server end after 10 s on PostgreSQL. A migration waits for its locks as long as necessary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_may_take_longer_than_other_statements() {
    let database = FreshDatabase::new(Engine::Postgres).await;
    let db = Database::connect(&database.url).await.unwrap();
    Migrator::up(&db, Some(BEFORE)).await.unwrap();
    let lock = db.begin().await.unwrap();
    lock.execute_unprepared("LOCK TABLE seaql_migrations IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut command = binary(&database.server_url);
    let migration = tokio::task::spawn_blocking(move || command.arg("migrate").output().unwrap());
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    assert!(!migration.is_finished());
    lock.rollback().await.unwrap();
    let output = migration.await.unwrap();
    assert!(output.status.success(), "{output:?}");
}
