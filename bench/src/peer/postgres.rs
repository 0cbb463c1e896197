//! Measures two references for the comparison: payments by a function inside PostgreSQL on the same schema, and commits
//! of single inserts.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use boxoffice_migration::{Migrator, MigratorTrait};
use hdrhistogram::Histogram;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseBackend, Statement};
use serde::Serialize;
use testkit::{
    Failure, Postgres,
    process::{self, ScratchDir},
};

use crate::load;

const CLIENTS: usize = 16;
const INSERTS: i64 = 300;
/// Maximum time for all payments.
const LIMIT: Duration = Duration::from_secs(120);

/// Fills the schema with `{count}` users. Each user is admitted, holds a seat and can pay for the seat. `peer_order`
/// has the users in random order.
const FILL: &str = "
INSERT INTO venue VALUES ('peer', 'Hall');
INSERT INTO section VALUES ('peer', 1, 'Floor', {count});
INSERT INTO concert (concert_code, name, open_time, paused, max_active_count, seats_per_user_limit)
    VALUES ('PEER', 'Peer', 0, false, 0, 4);
INSERT INTO performance (concert_id, date, start_time, sale_end_time, venue_id, seat_count)
    VALUES (1, '2100-01-01', {far}, {far}, 'peer', {count});
INSERT INTO wallet SELECT gen_random_uuid(), 0 FROM generate_series(1, {count});
CREATE TABLE peer_order AS SELECT row_number() OVER (ORDER BY random()) AS n, user_id FROM wallet;
ALTER TABLE peer_order ADD PRIMARY KEY (n);
CREATE SEQUENCE peer_next;
INSERT INTO ledger_entry SELECT user_id, 1, 'CHARGE', 1000, 1000, NULL, gen_random_uuid(), 0 FROM wallet;
CREATE TABLE peer_hold AS SELECT row_number() OVER () AS n, gen_random_uuid() AS id, user_id FROM wallet;
INSERT INTO queue_token (concert_id, queue_number, user_id, turn, state, issue_time, admit_time, expire_time)
    SELECT 1, n, user_id, 1, 'ACTIVE', 0, 0, {far} FROM peer_hold;
INSERT INTO reservation (reservation_id, user_id, concert_id, queue_number, performance_id, seat_numbers, seat_count,
                         total_price, state, hold_time, first_expire_time, expire_time, request_id)
    SELECT id, user_id, 1, n, 1, '[' || n || ']', 1, 100, 'HELD', 0, {far}, {far}, gen_random_uuid() FROM peer_hold;
INSERT INTO reserved_seat SELECT 1, n, id, 'HELD', {far} FROM peer_hold;";

/// Pays for the hold of a user. Makes the same writes as `Pay`, and checks the token, the hold and the balance.
const PAY: &str = "
CREATE FUNCTION pay(payer UUID) RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
    t queue_token;
    v reservation;
    e ledger_entry;
    at BIGINT := (extract(epoch FROM clock_timestamp()) * 1000000)::BIGINT;
BEGIN
    SELECT * INTO t FROM queue_token WHERE user_id = payer AND concert_id = 1 AND turn = 1 FOR NO KEY UPDATE;
    IF t.state <> 'ACTIVE' OR t.expire_time <= at THEN RAISE EXCEPTION 'not admitted'; END IF;
    SELECT * INTO v FROM reservation
        WHERE user_id = payer AND live AND concert_id = 1 AND queue_number = t.queue_number FOR NO KEY UPDATE;
    IF v.state <> 'HELD' OR v.expire_time <= at THEN RAISE EXCEPTION 'not held'; END IF;
    SELECT * INTO e FROM ledger_entry WHERE user_id = payer ORDER BY entry_number DESC LIMIT 1;
    IF e.balance_after < v.total_price THEN RAISE EXCEPTION 'insufficient balance'; END IF;
    UPDATE queue_token SET state = 'COMPLETED' WHERE concert_id = 1 AND queue_number = t.queue_number;
    INSERT INTO ledger_entry VALUES (payer, e.entry_number + 1, 'PAYMENT', -v.total_price,
        e.balance_after - v.total_price, v.reservation_id, gen_random_uuid(), at);
    UPDATE reservation SET state = 'PAID', pay_time = at, version = version + 1
        WHERE reservation_id = v.reservation_id;
    UPDATE reserved_seat SET state = 'SOLD'
        WHERE performance_id = 1 AND seat_number = (v.seat_numbers::JSONB ->> 0)::INTEGER
          AND reservation_id = v.reservation_id;
    UPDATE performance SET sold_seat_count = sold_seat_count + v.seat_count,
        completed_token_count = completed_token_count + 1, revenue = revenue + v.total_price
        WHERE performance_id = 1;
    INSERT INTO payment_second VALUES (1, at / 1000000 % 64, at / 1000000, 1)
        ON CONFLICT (performance_id, slot) DO UPDATE
        SET second = excluded.second, payment_count = payment_second.payment_count + 1;
END $$";

/// Pays for the next user in `peer_order`.
const SCRIPT: &str = "SELECT pay((SELECT user_id FROM peer_order WHERE n = (SELECT nextval('peer_next'))));";

/// The end of each admission and each hold: the year 2100, in microseconds since the Unix epoch.
const FAR: &str = "4102444800000000";

/// The results of the payments of pgbench.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct PeerPayments {
    /// The number of payments per second of 16 clients together.
    pub per_second: f64,
    /// The average latency of a payment, in milliseconds.
    pub average_ms: f64,
}

/// Lets pgbench call the function `pay`, in a fresh database on `postgres`. The number of calls is `count`, rounded
/// down to a multiple of 16; each call is for a different user. Returns `None` if pgbench is not installed next to the
/// other programs of PostgreSQL.
pub async fn payments(postgres: &Postgres, count: usize) -> Result<Option<PeerPayments>, Failure> {
    let Some(pgbench) = postgres.program("pgbench") else { return Ok(None) };
    let url = postgres.fresh_database().await?;
    let conn = Database::connect(single(&url)).await?;
    Migrator::up(&conn, None).await?;
    conn.execute_unprepared(&FILL.replace("{count}", &count.to_string()).replace("{far}", FAR)).await?;
    conn.execute_unprepared(PAY).await?;
    conn.execute_unprepared("VACUUM ANALYZE").await?;

    let dir = ScratchDir::new()?;
    let script = dir.path().join("payment.sql");
    fs::write(&script, SCRIPT)?;
    let report = run_pgbench(&pgbench, &script, &url, count / CLIENTS).await?;
    check_payments(&conn, count / CLIENTS * CLIENTS).await?;
    conn.close().await?;
    let figure = |start: &str| {
        let rest = report.lines().find_map(|line| line.strip_prefix(start))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let found = figure("tps = ").zip(figure("latency average = "));
    let (per_second, average_ms) = found.ok_or("the report of pgbench cannot be read")?;
    Ok(Some(PeerPayments { per_second, average_ms }))
}

/// Fails unless the database has exactly `expected` payments.
async fn check_payments(conn: &impl ConnectionTrait, expected: usize) -> Result<(), Failure> {
    let sql = "SELECT completed_token_count FROM performance";
    let row = conn.query_one_raw(Statement::from_string(DatabaseBackend::Postgres, sql)).await?;
    let paid: i64 = row.ok_or("the performance has no row")?.try_get_by_index(0)?;
    if paid == expected as i64 { Ok(()) } else { Err(format!("pgbench made {paid} of {expected} payments").into()) }
}

async fn run_pgbench(pgbench: &Path, script: &Path, url: &str, each: usize) -> Result<String, Failure> {
    let mut command = Command::new(pgbench);
    command.args(["-n", "-M", "prepared", "-j", "2", "-c"]).arg(CLIENTS.to_string());
    let output = process::output(command.arg("-t").arg(each.to_string()).arg("-f").arg(script).arg(url), LIMIT).await?;
    if !output.status.success() {
        return Err(format!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the median time in milliseconds in which a single client commits one insert. `url` names an empty database.
pub async fn commit_p50_ms(url: &str) -> Result<f64, Failure> {
    let conn = Database::connect(single(url)).await?;
    let is_sqlite = url.starts_with("sqlite:");
    conn.execute_unprepared("CREATE TABLE peer_commit (id bigint PRIMARY KEY, at bigint NOT NULL)").await?;
    let (backend, sql) = match is_sqlite {
        true => (DatabaseBackend::Sqlite, "INSERT INTO peer_commit VALUES (?1, 7)"),
        false => (DatabaseBackend::Postgres, "INSERT INTO peer_commit VALUES ($1, 7)"),
    };
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 120_000_000, 3)?;
    for id in 0..INSERTS {
        let statement = Statement::from_sql_and_values(backend, sql, [id.into()]);
        let started = Instant::now();
        conn.execute_raw(statement).await?;
        latencies.saturating_record(started.elapsed().as_micros() as u64);
    }
    conn.close().await?;
    Ok(load::percentiles(&latencies).p50_ms)
}

/// Returns options for one connection. On SQLite, they have the journal mode and the durability of the server.
fn single(url: &str) -> ConnectOptions {
    use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false).map_sqlx_sqlite_opts(|options| {
        options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full)
    });
    options
}
