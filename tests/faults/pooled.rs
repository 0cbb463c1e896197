//! An experiment with servers that use PostgreSQL through PgBouncer in transaction mode.

use std::{
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rand::Rng;
use testkit::{FreshDatabase, PgBouncer, Postgres, postgres, process::Guarded};

use crate::{
    crash::{FLAGS, is_of_the_sale},
    harness::{
        book::Book,
        check::check,
        crowd::{Crowd, SEATS},
        lab::Lab,
        site::Site,
    },
};

const VISITORS: usize = 12;
/// Maximum time until a server recovers. A server that takes longer is broken.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// Maximum duration of the API tests.
const SUITE_LIMIT: Duration = Duration::from_secs(300);

/// PgBouncer is killed and started again during a sale. The servers must recover without a restart, and no acknowledged
/// request may be lost. A long run also runs the API tests through PgBouncer.
pub async fn a_sale_through_pgbouncer_loses_nothing(lab: Lab) {
    let postgres = Postgres::start(postgres::FAST).await.expect("PostgreSQL");
    let mut bouncer = PgBouncer::start(&postgres).await.expect("PgBouncer");
    let database = FreshDatabase::on(&postgres).await.expect("a database");
    let mut site = Site::at(&bouncer.url(&database.url).expect("a URL"), 2, FLAGS).await;
    site.concert(SEATS, |_| ()).await;
    let (book, mut random, mut slowest) = (Arc::new(Book::default()), lab.random(), Duration::ZERO);
    let crowd = Crowd::gather(&lab, &site.doors(), VISITORS, &book);
    while lab.next_round(2, 10).is_some() {
        book.serves_again(100, RECOVERY_LIMIT).await;
        bouncer.kill().expect("a kill");
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1_000))).await;
        bouncer.start_again().await.expect("a start");
        slowest = slowest.max(book.serves_again(20, RECOVERY_LIMIT).await);
    }
    crowd.leave().await;
    let mut note = format!("20 calls served at most {slowest:.1?} after the start of PgBouncer");
    book.assert_failures(|name| name == "Unavailable STORAGE_UNAVAILABLE" || is_of_the_sale(name));
    check(&lab, &database.url, &[&book]).await;
    for replica in &mut site.replicas {
        assert!(replica.process().ended(Duration::ZERO).await.is_none(), "a server ended");
    }
    if lab.is_long {
        note += &format!("; the API tests passed in {:.0?}", api_suite().await);
    }
    lab.note(note);
}

/// Runs the API tests with PostgreSQL behind PgBouncer, and returns their duration. Panics if a test fails.
async fn api_suite() -> Duration {
    let started = Instant::now();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--locked", "--test", "api", "--", "--skip", "sqlite::"]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).env("BOXOFFICE_TEST_PGBOUNCER", "1").stdin(Stdio::null());
    let mut suite = Guarded::spawn(&mut cargo).expect("cargo");
    let status = suite.ended(SUITE_LIMIT).await.expect("a status");
    assert!(status.is_some_and(|status| status.success()), "the API tests failed: {status:?}");
    started.elapsed()
}
