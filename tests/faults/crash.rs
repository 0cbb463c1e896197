//! Experiments with servers that are killed, and databases that crash, during a sale.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::Rng;
use testkit::{Postgres, postgres};

use crate::harness::{
    book::Book,
    check::check,
    crowd::{Crowd, SEATS},
    lab::Lab,
    site::Site,
};

/// Promotion runs often, so that visitors do not wait for it.
pub const FLAGS: &[&str] = &["--promote-interval", "100ms"];
const VISITORS: usize = 12;
/// Maximum time until a server recovers. A server that takes longer is broken.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// Kills a server with `kill -9` at random times. All acknowledged requests must be stored. The next process must serve
/// a call within 5 seconds, or within 60 seconds in a short run.
pub async fn a_killed_server_serves_again_and_has_lost_nothing(lab: Lab) {
    let mut site = Site::open(&lab, 1, FLAGS).await;
    site.concert(SEATS, |_| ()).await;
    let (book, mut random, mut slowest) = (Arc::new(Book::default()), lab.random(), Duration::ZERO);
    let crowd = Crowd::gather(&lab, &site.doors(), VISITORS, &book);
    while lab.next_round(4, 50).is_some() {
        book.serves_again(20, RECOVERY_LIMIT).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..700))).await;
        let replica = &mut site.replicas[0];
        replica.process().kill();
        let started = Instant::now();
        replica.start_again().await;
        book.serves_again(1, RECOVERY_LIMIT).await;
        slowest = slowest.max(started.elapsed());
    }
    crowd.leave().await;
    lab.note(format!("served again after at most {slowest:.1?}"));
    check(&lab, &site.url, &[&book]).await;
    assert!(slowest < lab.pick(RECOVERY_LIMIT, Duration::from_secs(5)), "the server needed {slowest:?} to serve again");
}

/// PostgreSQL crashes and starts again. The servers keep running. Calls that the crash prevents must fail with
/// STORAGE_UNAVAILABLE.
pub async fn servers_recover_from_a_database_crash_without_a_restart(lab: Lab) {
    let postgres = Postgres::start(postgres::FAST).await.expect("PostgreSQL");
    let mut site = Site::on(&postgres, 3, FLAGS).await;
    site.concert(SEATS, |_| ()).await;
    let (book, mut random, mut slowest) = (Arc::new(Book::default()), lab.random(), Duration::ZERO);
    let crowd = Crowd::gather(&lab, &site.doors(), VISITORS, &book);
    while lab.next_round(2, 10).is_some() {
        book.serves_again(50, RECOVERY_LIMIT).await;
        postgres.crash().await.expect("a crash");
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2_000))).await;
        postgres.start_again().await.expect("a start");
        slowest = slowest.max(book.serves_again(20, RECOVERY_LIMIT).await);
    }
    crowd.leave().await;
    lab.note(format!("20 calls served at most {slowest:.1?} after the start of PostgreSQL"));
    book.assert_failures(|name| name == "Unavailable STORAGE_UNAVAILABLE" || is_of_the_sale(name));
    check(&lab, &site.url, &[&book]).await;
    for replica in &mut site.replicas {
        assert!(replica.process().ended(Duration::ZERO).await.is_none(), "a server ended");
    }
}

/// Returns whether a failure with this code and reason can also occur without a fault, for example because a seat is
/// sold.
pub fn is_of_the_sale(name: &str) -> bool {
    name.starts_with("FailedPrecondition")
}
