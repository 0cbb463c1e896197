//! Measures the database without boxoffice: a payment of five statements per request, and the commit of a single
//! insert.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseBackend, Statement};
use serde::Serialize;
use testkit::{
    Failure, Postgres,
    process::{self, ScratchDir},
};

use crate::load;

const ROWS: u32 = 100_000;
const CLIENTS: &str = "16";
const INSERTS: i64 = 300;

const SCHEMA: &str = "
CREATE TABLE naive_wallet (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE naive_seat (id int PRIMARY KEY, state text NOT NULL);
CREATE TABLE naive_token (id int PRIMARY KEY, state text NOT NULL);
CREATE TABLE naive_entry (id bigserial PRIMARY KEY, wallet_id int NOT NULL, amount bigint NOT NULL,
    at timestamptz NOT NULL);
CREATE TABLE naive_payment (id bigserial PRIMARY KEY, wallet_id int NOT NULL, seat_id int NOT NULL,
    price bigint NOT NULL, at timestamptz NOT NULL);";

/// One round trip per statement, like a service that runs one transaction per request.
const PAYMENT: &str = "\\set id random(1, 100000)
\\set seat random(1, 100000)
BEGIN;
UPDATE naive_wallet SET balance = balance - 100 WHERE id = :id;
UPDATE naive_seat SET state = 'SOLD' WHERE id = :seat;
UPDATE naive_token SET state = 'COMPLETED' WHERE id = :id;
INSERT INTO naive_entry (wallet_id, amount, at) VALUES (:id, -100, now());
INSERT INTO naive_payment (wallet_id, seat_id, price, at) VALUES (:id, :seat, 100, now());
COMMIT;
";

/// The results of the payments of pgbench.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct NaivePayments {
    /// The number of transactions per second of 16 clients.
    pub per_second: f64,
    /// The average latency, in milliseconds.
    pub average_ms: f64,
}

/// Runs the naive payment for `time` in a separate database. Returns `None` if pgbench is not installed.
pub async fn payments(postgres: &Postgres, time: Duration) -> Result<Option<NaivePayments>, Failure> {
    let Some(pgbench) = postgres.program("pgbench") else { return Ok(None) };
    let url = postgres.fresh_database().await?;
    let conn = Database::connect(single(&url)).await?;
    conn.execute_unprepared(SCHEMA).await?;
    for (table, value) in [("wallet", "1000000000"), ("seat", "'FREE'"), ("token", "'ACTIVE'")] {
        let fill = format!("INSERT INTO naive_{table} SELECT id, {value} FROM generate_series(1, {ROWS}) id");
        conn.execute_unprepared(&fill).await?;
    }
    conn.execute_unprepared("VACUUM ANALYZE").await?;
    conn.close().await?;

    let dir = ScratchDir::new()?;
    let script = dir.path().join("payment.sql");
    fs::write(&script, PAYMENT)?;
    let report = run_pgbench(&pgbench, &script, &url, time).await?;
    let figure = |start: &str| {
        let rest = report.lines().find_map(|line| line.strip_prefix(start))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let found = figure("tps = ").zip(figure("latency average = "));
    let (per_second, average_ms) = found.ok_or("the report of pgbench cannot be read")?;
    Ok(Some(NaivePayments { per_second, average_ms }))
}

async fn run_pgbench(pgbench: &Path, script: &Path, url: &str, time: Duration) -> Result<String, Failure> {
    let mut command = Command::new(pgbench);
    command.args(["-n", "-M", "prepared", "-c", CLIENTS, "-j", "2", "-T"]).arg(time.as_secs().max(1).to_string());
    let output = process::output(command.arg("-f").arg(script).arg(url), time + Duration::from_secs(30)).await?;
    if !output.status.success() {
        return Err(format!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the median time in milliseconds in which a single client commits one insert. `url` names an empty database.
pub async fn commit_p50_ms(url: &str) -> Result<f64, Failure> {
    let conn = Database::connect(single(url)).await?;
    let is_sqlite = url.starts_with("sqlite:");
    conn.execute_unprepared("CREATE TABLE naive_commit (id bigint PRIMARY KEY, at bigint NOT NULL)").await?;
    let (backend, sql) = match is_sqlite {
        true => (DatabaseBackend::Sqlite, "INSERT INTO naive_commit VALUES (?1, 7)"),
        false => (DatabaseBackend::Postgres, "INSERT INTO naive_commit VALUES ($1, 7)"),
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
