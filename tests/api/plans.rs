//! Checks the query plan of every statement on both engines. A plan must find rows by key. It must not scan or sort a
//! table that grows with history.
//!
//! A scenario runs every statement of every store. The statements come from the trace of the database driver, so they
//! include the statements that SeaORM builds. The test fails if the sources contain a statement that the scenario does
//! not run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock},
    time::Duration,
};

use boxoffice::{db::Database, forward, rpc::proto};
use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseTransaction, Statement};
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::harness::{Caller, DATE, Engine, NEXT_DATE, World};

/// Tables that do not grow with the number of sales.
const SMALL_TABLES: [&str; 5] = ["signing_key", "pass_cursor", "seaql_migrations", "event_head", "forward_cursor"];
/// The allowed sorts of live rows, each with the reason why there are few rows.
const LIVE_SORTS: [(&str, &str); 4] = [
    ("SELECT DISTINCT p.concert_id + 0 AS concert_id FROM performance p", "dates on sale"),
    ("FROM performance p WHERE p.sale_end_time > $1 GROUP BY p.concert_id + 0", "dates on sale"),
    (
        "SELECT DISTINCT concert_id + 0 AS concert_id FROM queue_token WHERE state = 'ACTIVE'",
        "admissions that fell due since the last pass",
    ),
    ("AND state = 'HELD' GROUP BY performance_id", "holds of the last minutes"),
];

static STATEMENTS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A layer of the trace that records each statement of the database driver.
struct Recorder;

impl<S: tracing::Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        // The driver puts a short statement into `summary`, and leaves `db.statement` empty. For a long statement,
        // `summary` has only the first words, and `db.statement` has the whole statement.
        let statement = if text.statement.trim().is_empty() { text.summary } else { text.statement };
        let mut statements = STATEMENTS.lock().unwrap();
        // SQLite runs the writes of a batch together, as one text.
        for sql in statement.split(";\n").map(one_line) {
            statements.extend(joined(&sql).map(with_own_parameters));
            statements.insert(with_own_parameters(&sql));
        }
    }
}

/// Returns the writes of a batch that PostgreSQL runs as one statement, except the write that needs another part of
/// this statement. Returns none for any other statement.
fn joined(sql: &str) -> impl Iterator<Item = &str> {
    let writes = sql.split_once("write_0 AS (").and_then(|(_, rest)| rest.split_once(" RETURNING 1) SELECT "));
    let writes = writes.into_iter().flat_map(|(writes, _)| writes.split(" RETURNING 1), write_"));
    let writes = writes.filter(|write| !write.ends_with("FROM head"));
    writes.map(|write| write.split_once(" AS (").filter(|(n, _)| n.parse::<u32>().is_ok()).map_or(write, |(_, w)| w))
}

/// Numbers the parameters of a statement from 1. A statement that is not the first of its text has higher numbers.
fn with_own_parameters(sql: &str) -> String {
    let numbers: Vec<usize> = (1..=99).filter(|n| has_parameter(sql, *n)).collect();
    let offset = numbers.first().map_or(0, |first| first - 1);
    numbers.iter().fold(sql.to_owned(), |sql, n| {
        let pieces: Vec<&str> = sql.split(&format!("${n}")).collect();
        let mut own = pieces[0].to_owned();
        for piece in &pieces[1..] {
            let is_longer = piece.starts_with(|c: char| c.is_ascii_digit());
            own.push_str(&if is_longer { format!("${n}") } else { format!("${}", n - offset) });
            own.push_str(piece);
        }
        own
    })
}

fn has_parameter(sql: &str, number: usize) -> bool {
    let parameter = format!("${number}");
    sql.split(&parameter).skip(1).any(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[derive(Default)]
struct Text {
    statement: String,
    summary: String,
}

impl tracing::field::Visit for Text {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "db.statement" => self.statement = format!("{value:?}"),
            "summary" => self.summary = format!("{value:?}"),
            _ => {}
        }
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        match field.name() {
            "db.statement" => value.clone_into(&mut self.statement),
            "summary" => value.clone_into(&mut self.summary),
            _ => {}
        }
    }
}

fn record_statements() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        let statements = Targets::new().with_target("sqlx::query", tracing::Level::TRACE);
        tracing_subscriber::registry().with(Recorder.with_filter(statements)).init();
    });
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs every statement: each operation with its retries and failures, and each background pass.
async fn scenario(world: &World) {
    world.concert("IU", 50).await;
    let id = || uuid::Uuid::now_v7().to_string();
    let (charge, hold, again) = (id(), id(), id());
    let payer = world.admitted("IU").await;
    for _ in 0..2 {
        world.charge(payer.uuid(), 5, &charge).await.unwrap();
        payer.hold_as(DATE, &[1, 2], &hold).await.unwrap();
        payer.hold_as(DATE, &[1], &again).await.unwrap();
    }
    let held = payer.reservation(&list_reservations(&payer).await).await.unwrap();
    let (extend, pay, refund) = (id(), id(), id());
    for _ in 0..2 {
        payer.extend(&held.reservation_id, &extend).await.unwrap();
    }
    payer.performances().await.unwrap();
    payer.seats(DATE).await.unwrap();
    let payment = payer.pay_as("", &pay).await.unwrap();
    payer.pay_as("", &id()).await.unwrap();
    payer.pay_as("", &pay).await.unwrap();
    list_payments(&payer).await;
    for _ in 0..2 {
        payer.refund_as(&payment.payment_id, &refund).await.unwrap();
        payer.refund_as(&payment.payment_id, &id()).await.unwrap();
    }
    let (leaver, waiting) = (world.admitted("IU").await, world.waiting("IU").await);
    let _watch = leaver.watch().await.unwrap();
    leaver.pay().await.unwrap_err();
    let released = leaver.hold(NEXT_DATE, &[1]).await.unwrap();
    leaver.release(&released.reservation_id).await.unwrap();
    leaver.hold(NEXT_DATE, &[2]).await.unwrap();
    for _ in 0..2 {
        leaver.hold_together(NEXT_DATE, 1).await.unwrap();
    }
    leaver.leave().await.unwrap();
    waiting.leave().await.unwrap();
    world.stats("IU").await;
    several_dates_in_one_batch(world).await;
    admission_with_claim_ttl(world).await;
    admission_with_a_draw(world).await;
    world.advance(Duration::from_secs(700));
    world.promote().await;
    world.expire().await;
    payer.issue().await.unwrap();
    list_concerts(world).await;
    read_declared(world).await;
    read_events(world).await;
    let db = Database::new(&world.settings.database_url, world.clock.clone()).await.unwrap();
    boxoffice::token::store::add_key(&db, &[7; 32]).await.unwrap();
    forward_events(&db).await;
    // The next steps cover a user that leaves after a refresh of the snapshots, and a concert without dates on sale.
    // They also cover rows that are older than the retention.
    let (stays, goes) = (world.waiting("IU").await, world.waiting("IU").await);
    stays.position().await.unwrap();
    goes.leave().await.unwrap();
    // A server that starts now reads the departures with numbers after the last admitted number.
    let another = crate::harness::start(&world.settings, &world.clock, false).await;
    another.ready().await.unwrap();
    another.stop().await;
    world.advance(Duration::from_secs(100 * 86_400));
    world.tidy().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
}

/// Makes payments for both dates wait in the lane, so that a batch locks several performances. Twenty users pay,
/// because the lane distributes users to several workers.
async fn several_dates_in_one_batch(world: &World) {
    let mut payers = Vec::new();
    for (date, seat) in (1..=10).flat_map(|seat| [(DATE, seat), (NEXT_DATE, seat)]) {
        let payer = world.admitted("IU").await;
        payer.hold(date, &[seat]).await.unwrap();
        payers.push(payer);
    }
    let lock = crate::harness::lock_database(world).await;
    let calls: Vec<_> = payers.into_iter().map(|payer| tokio::spawn(async move { payer.pay().await })).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    lock.rollback().await.unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

/// Admits a user to a concert with a `claim_ttl`, and makes the first use of the admission.
async fn admission_with_claim_ttl(world: &World) {
    let ttl = prost_types::Duration { seconds: 30, nanos: 0 };
    world.concert_with("BTS", 1, |concert| concert.claim_ttl = Some(ttl)).await;
    world.admitted("BTS").await;
}

/// Holds a draw after moving it, and counts the sale while only a part of the participants is admitted.
async fn admission_with_a_draw(world: &World) {
    let open_time = Some(proto::timestamp(world.clock.now() + 60_000_000));
    let set = |concert: &mut proto::CreateConcertRequest| {
        concert.set_admission_order(proto::AdmissionOrder::Draw);
        (concert.open_time, concert.max_active_count) = (open_time, 1);
    };
    world.concert_with("NELL", 4, set).await;
    for _ in 0..3 {
        world.waiting("NELL").await;
    }
    let open_time = Some(proto::timestamp(world.clock.now()));
    let change = proto::UpdateSaleRequest { concert_code: "NELL".into(), open_time, ..Default::default() };
    world.update_sale(change).await;
    world.promote().await;
    world.stats("NELL").await;
}

async fn list_reservations(caller: &Caller) -> String {
    let request =
        proto::ListReservationsRequest { user_id: caller.user_id.clone(), page_size: 1, ..Default::default() };
    let listed = caller.reservations().list_reservations(request).await.unwrap().into_inner();
    listed.reservations[0].reservation_id.clone()
}

async fn list_payments(caller: &Caller) {
    let request = proto::ListPaymentsRequest { user_id: caller.user_id.clone(), ..Default::default() };
    caller.payments().list_payments(request).await.unwrap();
    let request = proto::ListWalletEntriesRequest { user_id: caller.user_id.clone(), ..Default::default() };
    let mut wallets = proto::wallet_service_client::WalletServiceClient::new(caller.channel.clone());
    wallets.list_wallet_entries(request).await.unwrap();
}

async fn list_concerts(world: &World) {
    let mut concerts = proto::concert_service_client::ConcertServiceClient::new(world.channel(0));
    let first =
        concerts.list_concerts(proto::ListConcertsRequest { page_size: 1, ..Default::default() }).await.unwrap();
    let page_token = first.into_inner().next_page_token;
    concerts.list_concerts(proto::ListConcertsRequest { page_size: 1, page_token }).await.unwrap();
    concerts.get_concert(proto::GetConcertRequest { concert_code: "IU".into() }).await.unwrap();
}

async fn read_declared(world: &World) {
    world.admin().get_venue(proto::GetVenueRequest { venue_id: "iu".into() }).await.unwrap();
    world.admin().get_sale(proto::GetSaleRequest { concert_code: "IU".into() }).await.unwrap();
}

/// Takes and keeps the lease of a sink of events, as `boxoffice forward` does.
async fn forward_events(db: &Database) {
    let owner = uuid::Uuid::now_v7();
    forward::store::add(db, "sink", 0).await.unwrap();
    forward::store::cursor(db, "sink").await.unwrap().unwrap();
    forward::store::take(db, "sink", owner, db.now() + 1).await.unwrap().unwrap();
    assert!(forward::store::keep(db, "sink", owner, 1, db.now() + 1).await.unwrap());
    assert!(forward::store::behind(db, "sink").await.unwrap().unwrap().event_count > 0);
}

/// Reads a page of events and a stream from a new server. Its catalogue has no concerts in memory yet, so the server
/// also queries the concerts of the events.
async fn read_events(world: &World) {
    let another = crate::harness::start(&world.settings, &world.clock, false).await;
    another.ready().await.unwrap();
    let channel = crate::harness::connect(another.admin_address).await;
    let mut events = proto::event_service_client::EventServiceClient::new(channel);
    events.list_events(proto::ListEventsRequest::default()).await.unwrap();
    let mut stream = events.watch_events(proto::WatchEventsRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    another.stop().await;
}

/// Returns the statements in the sources with their files. Each statement is cut before its first placeholder, such as
/// `{r}`, because the text of a placeholder differs between the engines.
fn statements_in_sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    let mut dirs: Vec<PathBuf> = vec![root];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            if !["store.rs", "answered.rs"].iter().any(|name| path.ends_with(name)) {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for literal in text.split('"').skip(1).step_by(2) {
                let is_statement =
                    ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH "].iter().any(|w| literal.starts_with(w));
                if is_statement {
                    let common = one_line(literal.split('{').next().unwrap_or_default());
                    found.insert(common, path.display().to_string());
                }
            }
        }
    }
    found
}

async fn check(engine: Engine) {
    record_statements();
    // With the HTTP listener, the server also samples the sales.
    let world = World::with(engine, &["--http-listen", "127.0.0.1:0"]).await;
    scenario(&world).await;
    let recorded: Vec<String> = STATEMENTS.lock().unwrap().iter().filter(|sql| is_of(engine, sql)).cloned().collect();
    for (statement, file) in statements_in_sources() {
        // SQLite has one writer and takes no row locks.
        let is_lock = engine == Engine::Sqlite && statement.starts_with("SELECT 1 FROM");
        let was_run = is_lock || recorded.iter().any(|sql| sql.replace("OR FAIL ", "").contains(&statement));
        assert!(was_run, "{engine:?}: the scenario does not run this statement of {file}:\n{statement}");
    }
    let db = Database::new(&world.settings.database_url, world.clock.clone()).await.unwrap();
    let write = db.begin().await.unwrap();
    for sql in &recorded {
        let found = faults(write.conn(), sql).await;
        assert!(found.is_empty(), "{engine:?}: {found:#?}\n{sql}");
    }
    if engine == Engine::Postgres {
        check_promotion(write.conn(), &recorded).await;
    }
    let count = recorded.len();
    println!("{engine:?}: {count} statements, none of which scans or sorts a table that grows with history");
    assert!(count >= 60, "{engine:?}: only {count} statements were seen");
    // This statement is a known scan. It proves that the check detects a scan.
    let old = "SELECT concert_id, queue_number FROM queue_token WHERE state = 'ACTIVE' AND expire_time <= $1 \
               ORDER BY concert_id, queue_number LIMIT $2";
    assert!(!faults(write.conn(), old).await.is_empty(), "{engine:?}: the check does not detect a scan");
}

/// Checks that a promotion finds its rows by key even if PostgreSQL has no statistics about the concert yet.
async fn check_promotion(conn: &DatabaseTransaction, recorded: &[String]) {
    let admit = recorded.iter().find(|sql| sql.starts_with("WITH next AS MATERIALIZED (")).expect("a promotion");
    let rows = "INSERT INTO queue_token (concert_id, queue_number, user_id, turn, state, issue_time)
                SELECT 1000000, n, gen_random_uuid(), 1, 'WAITING', 0 FROM generate_series(1, 20000) AS n";
    for sql in ["ANALYZE queue_token", rows, "SET LOCAL plan_cache_mode = force_custom_plan"] {
        conn.execute_unprepared(sql).await.unwrap();
    }
    // This statement does not compare `concert_id` with the selected rows. It proves that the check detects this plan.
    let old = admit.replace("queue_token.concert_id = next.concert_id", "queue_token.concert_id = $1");
    assert_ne!(&old, admit);
    for (sql, compares_all) in [(admit, false), (&old, true)] {
        conn.execute_unprepared(&format!("PREPARE admit AS {sql}")).await.unwrap();
        let explain = "EXPLAIN (FORMAT JSON) EXECUTE admit(1000000, 0, 1000, 1, 2, NULL)";
        let explain = Statement::from_string(DatabaseBackend::Postgres, explain);
        let row = conn.query_one_raw(explain).await.unwrap().unwrap();
        conn.execute_unprepared("DEALLOCATE admit").await.unwrap();
        let plan: serde_json::Value = row.try_get_by_index(0).unwrap();
        assert_eq!(plan.to_string().contains("Join Filter"), compares_all, "{sql}\n{plan:#}");
    }
}

static MIGRATIONS: OnceLock<String> = OnceLock::new();

/// Returns the text of all migrations in one line: first in the form for PostgreSQL, then in the form for SQLite.
fn migrations() -> String {
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("migration/src")).unwrap();
    let texts: Vec<String> = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let text = one_line(&texts.join(" "));
    let length = "json_array_length(seat_numbers";
    let forms = [format!("{length}::JSON)"), format!("{length})")];
    forms.map(|form| text.replace("{json_array_length}", &form)).join(" ")
}

/// Tells whether a statement must be checked on this engine. Many statements are for both engines.
fn is_of(engine: Engine, sql: &str) -> bool {
    // A migration may read every row, because it runs once.
    let is_schema_change = MIGRATIONS.get_or_init(migrations).contains(sql);
    // The test harness uses this statement to block other writers.
    let is_of_test = sql == "UPDATE wallet SET open_time = open_time";
    let is_data = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH "].iter().any(|word| sql.starts_with(word));
    let is_schema = [
        "seaql_migrations",
        "information_schema",
        "sqlite_master",
        "sqlite_version",
        "pg_",
        "CURRENT_SCHEMA",
        "clock_timestamp",
    ];
    let is_schema = is_schema.iter().any(|word| sql.contains(word));
    let is_postgres = sql.contains("::") || sql.contains("FOR NO KEY UPDATE") || sql.contains("SKIP LOCKED");
    let built_for_postgres = sql.contains("\".\"") && sql.contains("$1");
    let is_sqlite = sql.contains("jsonb_each") || sql.contains('?');
    is_data
        && !is_schema
        && !is_schema_change
        && !is_of_test
        && match engine {
            Engine::Sqlite => !(is_postgres || built_for_postgres),
            Engine::Postgres => !is_sqlite,
        }
}

/// Returns the scans and sorts in the plan of a statement that are not allowed.
async fn faults(conn: &DatabaseTransaction, sql: &str) -> Vec<String> {
    match conn.get_database_backend() {
        DatabaseBackend::Sqlite => sqlite_faults(conn, sql).await,
        _ => postgres_faults(conn, sql).await,
    }
}

fn may_sort(sql: &str) -> bool {
    // A statement with a set of rows belongs to a batch, which is small.
    let is_batch = sql.contains("jsonb_each") || sql.contains("jsonb_array_elements");
    is_batch || LIVE_SORTS.iter().any(|(fragment, _)| sql.contains(fragment))
}

async fn sqlite_faults(conn: &DatabaseTransaction, sql: &str) -> Vec<String> {
    let explain = Statement::from_string(DatabaseBackend::Sqlite, format!("EXPLAIN QUERY PLAN {sql}"));
    let rows = conn.query_all_raw(explain).await.unwrap_or_else(|error| panic!("{error}\n{sql}"));
    let details: Vec<String> = rows.iter().map(|row| row.try_get("", "detail").unwrap()).collect();
    let is_fault = |detail: &&String| {
        let mut words = detail.split(' ');
        let (verb, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let in_order = detail.contains("USING INDEX") || detail.contains("USING COVERING INDEX");
        let is_page = in_order && sql.contains("LIMIT") && !details.iter().any(|detail| detail.contains("TEMP B-TREE"));
        let is_any = sql.contains("LIMIT 1") || sql.contains("LIMIT ?");
        // If a statement inserts a parent row, the plan contains a search for child rows. SQLite runs this search only
        // while a reference is broken.
        let is_reference = sql.starts_with("INSERT") && !sql.contains(name);
        let is_table = is_base_table(sql, name) && !is_reference;
        match verb {
            "SCAN" => is_table && !is_page && (!is_any || sql.contains("ORDER BY")),
            "USE" => detail.contains("TEMP B-TREE") && !may_sort(sql),
            _ => false,
        }
    };
    details.iter().filter(is_fault).cloned().collect()
}

/// Tells whether a name in a plan is a table that grows with history, or an alias of such a table.
fn is_base_table(sql: &str, name: &str) -> bool {
    let is_derived = ["r", "jsonb_each", "due", "next", "old", "head", "s", "f", "found", "CONSTANT"].contains(&name)
        && !aliases(sql, name);
    !is_derived && !SMALL_TABLES.contains(&name)
}

/// Tells whether `name` is an alias of a table in this statement.
fn aliases(sql: &str, name: &str) -> bool {
    let tables = ["performance", "reserved_seat", "queue_token", "reservation", "concert"];
    tables.iter().any(|table| sql.contains(&format!("{table} {name} ")))
}

async fn postgres_faults(conn: &DatabaseTransaction, sql: &str) -> Vec<String> {
    let parameters = (1..=20).take_while(|n| sql.contains(&format!("${n}"))).count();
    let run = async |sql: &str| conn.execute_unprepared(sql).await.unwrap_or_else(|error| panic!("{error}\n{sql}"));
    run("SET LOCAL plan_cache_mode = force_generic_plan").await;
    run(&format!("PREPARE checked AS {sql}")).await;
    let nulls = vec!["NULL"; parameters].join(", ");
    let call = if parameters == 0 { String::new() } else { format!("({nulls})") };
    let explain = format!("EXPLAIN (FORMAT JSON) EXECUTE checked{call}");
    let explain = Statement::from_string(DatabaseBackend::Postgres, explain);
    let row = conn.query_one_raw(explain).await.unwrap_or_else(|error| panic!("{error}\n{sql}")).unwrap();
    run("DEALLOCATE checked").await;
    let plan: serde_json::Value = row.try_get_by_index(0).unwrap();
    let mut faults = Vec::new();
    visit(&plan[0]["Plan"], false, sql, &mut faults);
    faults
}

fn visit(node: &serde_json::Value, below_limit: bool, sql: &str, faults: &mut Vec<String>) {
    let kind = node["Node Type"].as_str().unwrap_or_default();
    let table = node["Relation Name"].as_str().unwrap_or_default();
    let has_key = node.get("Index Cond").is_some();
    let scans = match kind {
        "Seq Scan" => !below_limit || sql.contains("ORDER BY"),
        "Index Scan" | "Index Only Scan" => !has_key && !below_limit,
        _ => false,
    };
    if scans && !SMALL_TABLES.contains(&table) {
        faults.push(format!("{kind} of {table}"));
    }
    if ["Sort", "Incremental Sort"].contains(&kind) && !may_sort(sql) {
        faults.push(format!("{kind} by {}", node["Sort Key"]));
    }
    let below_limit = kind == "Limit" || (below_limit && !["Sort", "Aggregate", "HashAggregate"].contains(&kind));
    for child in node["Plans"].as_array().into_iter().flatten() {
        visit(child, below_limit, sql, faults);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the tests below run this check in a separate process"]
async fn check_sqlite() {
    check(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the tests below run this check in a separate process"]
async fn check_postgres() {
    check(Engine::Postgres).await;
}

/// Runs a check in a separate process, so that it does not record the statements of other tests.
fn alone(check: &str) {
    let test = std::env::current_exe().expect("this test");
    let args = [check, "--exact", "--ignored", "--nocapture"];
    let output = std::process::Command::new(test).args(args).output().expect("a process");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
    print!("{printed}");
}

#[test]
fn every_statement_finds_its_rows_by_key_on_sqlite() {
    alone("plans::check_sqlite");
}

#[test]
fn every_statement_finds_its_rows_by_key_on_postgres() {
    alone("plans::check_postgres");
}
