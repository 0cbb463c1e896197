//! Experiments with servers that are killed (SIGKILL) or paused (SIGSTOP) during a promotion.

use std::time::{Duration, Instant};

use boxoffice::{clock::Clock, db::entity::queue_token};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, EntityTrait, QueryFilter, Statement};
use testkit::{invariants, process::Signal};

use crate::harness::{
    lab::{Lab, Tally},
    proxy::Weather,
    site::{Replica, Site},
};

const PERIOD: Duration = Duration::from_secs(2);
/// Admissions are shorter than a promotion interval, so that every promotion admits users.
const FLAGS: &[&str] = &["--promote-interval", "2s", "--admission-ttl", "1s", "--expire-interval", "1s"];
/// Admissions last for many promotion intervals, so that each promotion must count the users that earlier promotions
/// admitted.
const CROWDED_FLAGS: &[&str] = &["--promote-interval", "100ms", "--admission-ttl", "1s", "--expire-interval", "1s"];
const CAPACITY: usize = 10;
/// The delay of messages to the database. It makes a promotion long enough to be interrupted.
const SLOWNESS: Duration = Duration::from_millis(10);
/// Maximum difference between the clocks of servers, in microseconds: half of a slow round trip, and a margin.
const CLOCK_ERROR: i64 = 50_000;

/// The promoting server is killed or paused. In a long run, the next promotion must follow within two intervals. No
/// promotion may exceed the capacity.
pub async fn promotion_continues_when_the_promoting_server_stops(lab: Lab) {
    let mut site = a_slow_queue(&lab, FLAGS).await;
    let db = Database::connect(&site.url).await.expect("database");
    let mut slowest = Duration::ZERO;
    while let Some(round) = lab.next_round(2, 20) {
        let promoting = promoting_server(&site, &db).await;
        let replica = &mut site.replicas[promoting];
        let (struck, before) = (Instant::now(), last_admission(&db).await);
        let is_killed = round % 2 == 1;
        strike(replica, is_killed);
        while last_admission(&db).await == before {
            assert!(struck.elapsed() < Duration::from_secs(30), "no more users are admitted");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        slowest = slowest.max(struck.elapsed());
        recover(&mut site.replicas[promoting], is_killed).await;
    }
    let admitted = never_over_capacity(&db).await;
    db.close().await.expect("close");
    lab.note_tally(Tally { acknowledged: admitted, ..Tally::default() });
    lab.note(format!("next promotion after {slowest:.1?} at most"));
    invariants::check(&site.url, &Clock::system()).await;
    assert!(slowest < lab.pick(5 * PERIOD, 2 * PERIOD), "the next promotion came after {slowest:?}");
}

/// Servers are repeatedly killed or paused during a promotion. No promotion may exceed the capacity.
pub async fn promotion_never_exceeds_the_capacity_while_servers_are_killed(lab: Lab) {
    let mut site = a_slow_queue(&lab, CROWDED_FLAGS).await;
    let db = Database::connect(&site.url).await.expect("database");
    while let Some(round) = lab.next_round(4, 20) {
        let promoting = promoting_server(&site, &db).await;
        let (replica, is_killed) = (&mut site.replicas[promoting], round % 2 == 1);
        strike(replica, is_killed);
        tokio::time::sleep(Duration::from_millis(500)).await;
        recover(&mut site.replicas[promoting], is_killed).await;
    }
    let admitted = never_over_capacity(&db).await;
    db.close().await.expect("close");
    assert!(admitted > CAPACITY as u64, "only {admitted} tokens were admitted");
    lab.note_tally(Tally { acknowledged: admitted, ..Tally::default() });
    lab.note(format!("{admitted} admitted, at most {CAPACITY} at the same time"));
    invariants::check(&site.url, &Clock::system()).await;
}

/// Starts three servers with a slow database, and fills the queue of a concert with a small capacity.
async fn a_slow_queue(lab: &Lab, flags: &[&str]) -> Site {
    let site = Site::open(lab, 3, flags).await;
    site.concert(1_000, |concert| concert.max_active_count = CAPACITY as i32).await;
    let waiting = lab.pick(200, 2_000);
    for _ in 0..waiting / 100 {
        futures::future::join_all((0..100).map(|_| site.joins(0))).await;
    }
    for replica in &site.replicas {
        replica.line.as_ref().expect("a line").set(Weather::Slow(SLOWNESS));
    }
    site
}

fn strike(replica: &mut Replica, is_killed: bool) {
    match is_killed {
        true => replica.process().kill(),
        false => replica.process().signal(Signal::SIGSTOP),
    }
}

async fn recover(replica: &mut Replica, is_killed: bool) {
    if is_killed {
        replica.start_again().await;
        replica.process().ready().await.expect("ready");
    } else {
        replica.process().signal(Signal::SIGCONT);
    }
}

/// Waits for a transaction that has a lock on the table `queue_counter`, and returns the index of its server. Promotion
/// passes and expiry passes run such transactions.
pub async fn promoting_server(site: &Site, db: &DatabaseConnection) -> usize {
    let holders = "SELECT a.client_port FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid \
                   WHERE a.datname = current_database() AND a.backend_xid IS NOT NULL \
                   AND l.relation = 'queue_counter'::regclass";
    let started = Instant::now();
    loop {
        let rows =
            db.query_all_raw(Statement::from_string(db.get_database_backend(), holders)).await.expect("activity");
        for row in rows {
            let port = row.try_get_by_index::<i32>(0).expect("a port") as u16;
            let speaks = |line: &crate::harness::proxy::Proxy| line.speaks_from(port);
            if let Some(found) = site.replicas.iter().position(|replica| replica.line.as_ref().is_some_and(speaks)) {
                return found;
            }
        }
        assert!(started.elapsed() < Duration::from_secs(30), "no server promotes");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn last_admission(db: &DatabaseConnection) -> Option<i64> {
    let statement = Statement::from_string(db.get_database_backend(), "SELECT max(admit_time) FROM queue_token");
    let row = db.query_one_raw(statement).await.expect("admissions").expect("a row");
    row.try_get_by_index(0).expect("an instant")
}

/// Checks that at most [`CAPACITY`] tokens were active at the time of each admission. Returns the number of admissions.
async fn never_over_capacity(db: &DatabaseConnection) -> u64 {
    use sea_orm::ColumnTrait;
    let admitted = queue_token::Entity::find().filter(queue_token::Column::AdmitTime.is_not_null());
    let tokens = admitted.all(db).await.expect("tokens");
    for token in &tokens {
        let at = token.admit_time.expect("an admission");
        let is_active = |other: &&queue_token::Model| {
            other.admit_time.is_some_and(|admit_time| admit_time <= at)
                && other.expire_time.is_some_and(|expire_time| at < expire_time - CLOCK_ERROR)
        };
        let active = tokens.iter().filter(is_active).count();
        assert!(active <= CAPACITY, "{active} tokens were active at {at}");
    }
    tokens.len() as u64
}
