//! Experiments with a slow, silent or disconnected database, and with callers that give up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use boxoffice::rpc::proto::{self, wallet_service_client::WalletServiceClient};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sea_orm::{ConnectionTrait, Database, Statement};
use testkit::{Caller, wallet};
use tokio::task::JoinSet;
use tonic::{Code, Request, Status, transport::Channel};
use uuid::Uuid;

use crate::{
    crash::{FLAGS, is_of_the_sale},
    harness::{
        book::Book,
        check::check,
        crowd::{Crowd, SEATS},
        lab::Lab,
        proxy::{Proxy, Weather},
        site::{Replica, Site},
    },
};

/// Maximum time until a server recovers. A server that takes longer is broken.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
const VISITORS: usize = 12;
/// The code and the reason of calls that fail because the database is unavailable.
const UNAVAILABLE: &str = "Unavailable STORAGE_UNAVAILABLE";

/// 200 callers give up each call after 1 to 20 ms. During these calls, the proxy delays messages to the database by
/// 300 ms. No transaction may stay open. After these callers are gone, the sale must recover.
pub async fn callers_that_give_up_leave_no_transaction_open(lab: Lab) {
    let site = Site::open(&lab, 1, FLAGS).await;
    site.concert(SEATS, |_| ()).await;
    let book = Arc::new(Book::default());
    let crowd = Crowd::gather(&lab, &site.doors(), VISITORS, &book);
    book.serves_again(100, RECOVERY_LIMIT).await;
    let before = book.rate(lab.pick(Duration::from_secs(1), Duration::from_secs(5))).await;
    let (mut slowest, mut calls) = (Duration::ZERO, 0);
    while lab.next_round(1, 3).is_some() {
        line(&site.replicas[0]).set(Weather::Slow(Duration::from_millis(300)));
        calls +=
            storm(&lab, &site.replicas[0].channel(), lab.pick(Duration::from_secs(2), Duration::from_secs(10))).await;
        line(&site.replicas[0]).set(Weather::Fair);
        let calm = Instant::now();
        while open_transactions(&site.url, Duration::from_secs(1)).await > 0 {
            assert!(calm.elapsed() < Duration::from_secs(10), "a transaction was left open");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        book.serves_again(20, RECOVERY_LIMIT).await;
        // Goodput is checked only in a long run, which has time for this measurement.
        let mut back = calm.elapsed();
        while lab.is_long && book.rate(Duration::from_secs(1)).await < 0.8 * before {
            back = calm.elapsed();
            assert!(back < RECOVERY_LIMIT, "goodput did not recover");
        }
        slowest = slowest.max(back);
    }
    crowd.leave().await;
    lab.note(format!("{calls} calls given up; goodput of {before:.0}/s recovered within {slowest:.1?}"));
    check(&lab, &site.url, &[&book]).await;
    assert!(slowest < lab.pick(RECOVERY_LIMIT, Duration::from_secs(10)), "goodput recovered after {slowest:?}");
}

/// Lets 200 callers charge wallets for `span`. A caller gives up each call after 1 to 20 ms. Returns the number of
/// calls.
async fn storm(lab: &Lab, channel: &Channel, span: Duration) -> u64 {
    let (until, count) = (Instant::now() + span, Arc::new(AtomicU64::new(0)));
    let mut callers = JoinSet::new();
    for number in 0..200 {
        let (channel, count) = (channel.clone(), count.clone());
        let mut random = StdRng::seed_from_u64(lab.seed ^ number);
        callers.spawn(async move {
            while Instant::now() < until {
                let patience = Duration::from_millis(random.random_range(1..=20));
                let mut request = Request::new(proto::ChargeWalletRequest {
                    user_id: Uuid::now_v7().to_string(),
                    amount: 1,
                    request_id: String::new(),
                });
                request.set_timeout(patience);
                let mut wallets = WalletServiceClient::new(channel.clone());
                let _ = tokio::time::timeout(patience, wallets.charge_wallet(request)).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    callers.join_all().await;
    count.load(Ordering::Relaxed)
}

/// Counts the transactions that the servers opened more than `age` ago and that are idle now.
async fn open_transactions(url: &str, age: Duration) -> i64 {
    let db = Database::connect(url).await.expect("database");
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'boxoffice' \
         AND state LIKE 'idle in transaction%' AND xact_start < clock_timestamp() - interval '{} ms'",
        age.as_millis()
    );
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await.expect("activity");
    let count = row.expect("a row").try_get_by_index(0).expect("a count");
    db.close().await.expect("close");
    count
}

/// One of three servers loses the connection to its database. This server must fail calls quickly with
/// STORAGE_UNAVAILABLE, and must recover without a restart. The other servers must not be affected. Only a long run
/// checks the times and the call rate of the other servers.
pub async fn a_server_that_is_cut_off_answers_unavailable_and_recovers(lab: Lab) {
    let site = Site::open(&lab, 3, FLAGS).await;
    site.concert(SEATS, |_| ()).await;
    let (book, cut_off) = (Arc::new(Book::default()), Arc::new(Book::default()));
    let doors = site.doors();
    let crowd = Crowd::gather(&lab, &doors[1..], VISITORS, &book);
    let unlucky = Crowd::gather(&lab, &doors[..1], VISITORS / 2, &cut_off);
    book.serves_again(100, RECOVERY_LIMIT).await;
    cut_off.serves_again(20, RECOVERY_LIMIT).await;
    let (mut share, mut back) = (f64::INFINITY, Duration::ZERO);
    while lab.next_round(1, 3).is_some() {
        let before = book.rate(lab.pick(Duration::from_secs(1), Duration::from_secs(10))).await;
        let refused = unavailable_count(&cut_off);
        line(&site.replicas[0]).set(Weather::Cut);
        let during = book.rate(lab.pick(Duration::from_secs(3), Duration::from_secs(30))).await;
        assert!(unavailable_count(&cut_off) > refused, "no call was refused as STORAGE_UNAVAILABLE");
        line(&site.replicas[0]).set(Weather::Fair);
        back = back.max(cut_off.serves_again(1, RECOVERY_LIMIT).await);
        share = share.min(during / before);
    }
    crowd.leave().await;
    unlucky.leave().await;
    let no = cut_off.slowest_failure();
    lab.note(format!(
        "the others kept {:.0} % of their rate, refused within {no:.1?}, recovered after {back:.1?}",
        100.0 * share
    ));
    book.assert_failures(is_of_the_sale);
    cut_off.assert_failures(|name| name == UNAVAILABLE || is_of_the_sale(name));
    check(&lab, &site.url, &[&book, &cut_off]).await;
    if lab.is_long {
        assert!(share >= 0.95, "the other servers kept {share} of their rate");
        assert!(no < Duration::from_secs(5), "a refusal took {no:?}");
        assert!(back < Duration::from_secs(5), "the server recovered after {back:?}");
    }
}

fn unavailable_count(book: &Book) -> u64 {
    book.failures().get(UNAVAILABLE).copied().unwrap_or_default()
}

/// Number of callers that give up after 500 ms. This number is far higher than the number of connections to the
/// database.
const IMPATIENT: u64 = 300;
/// Maximum growth of the memory of a server while its database is silent, in bytes.
const MEMORY_LIMIT: u64 = 128 << 20;

/// The database does not answer for 20 seconds, or for 3 seconds in a short run. Waiting users must still get their
/// positions, and memory must stay bounded. Then the sale must recover.
pub async fn waiting_users_are_answered_while_the_database_is_silent(lab: Lab) {
    let mut site = Site::open(&lab, 1, FLAGS).await;
    site.concert(SEATS, |_| ()).await;
    let book = Arc::new(Book::default());
    let crowd = Crowd::gather(&lab, &site.doors(), VISITORS, &book);
    book.serves_again(100, RECOVERY_LIMIT).await;
    site.concert_as("LATER", 10, |concert| concert.open_time = Some(proto::timestamp(i64::from(u32::MAX) * 1_000_000)))
        .await;
    let user_id = wallet::open_new(&site.replicas[0].channel(), 0).await.expect("a wallet");
    let waiting = Caller::join(site.replicas[0].channel(), "LATER", user_id).await.expect("a token");
    // The server reads the queues every 250 ms. After this pause, it answers the position from memory.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mut slowest, mut growth, mut back, mut unserved) = (Duration::ZERO, 0, Duration::ZERO, 0);
    while lab.next_round(1, 3).is_some() {
        let before = site.replicas[0].process().resident_bytes();
        line(&site.replicas[0]).set(Weather::Stalled);
        let until = Instant::now() + lab.pick(Duration::from_secs(3), Duration::from_secs(20));
        let hammering = tokio::spawn(hammer(site.replicas[0].channel(), until));
        while Instant::now() < until {
            let asked = Instant::now();
            let position = book.look(waiting.position()).await.expect("a position while the database is silent");
            assert_eq!(position.position, Some(1));
            slowest = slowest.max(asked.elapsed());
            growth = growth.max(site.replicas[0].process().resident_bytes().saturating_sub(before));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        unserved += hammering.await.expect("hammering");
        line(&site.replicas[0]).set(Weather::Fair);
        back = back.max(book.serves_again(20, RECOVERY_LIMIT).await);
    }
    crowd.leave().await;
    let mib = growth >> 20;
    lab.note(format!(
        "a poll took at most {slowest:.1?}, {unserved} calls were not served, memory grew by {mib} MiB, \
         recovered after {back:.1?}"
    ));
    check(&lab, &site.url, &[&book]).await;
    assert!(growth < MEMORY_LIMIT, "memory grew by {mib} MiB");
    assert!(slowest < lab.pick(RECOVERY_LIMIT, Duration::from_secs(1)), "a poll took {slowest:?}");
    assert!(back < lab.pick(RECOVERY_LIMIT, Duration::from_secs(10)), "the server recovered after {back:?}");
}

/// Lets 300 callers charge wallets until `until`. A caller gives up each call after 500 ms. Returns the number of
/// calls. The database must be silent during these calls: the function panics if a call fails with USER_NOT_FOUND,
/// because this answer needs the database.
async fn hammer(channel: Channel, until: Instant) -> usize {
    let calls = (0..IMPATIENT).map(|_| async {
        let mut unserved = 0;
        while Instant::now() < until {
            let charge =
                tokio::time::timeout(Duration::from_millis(500), wallet::charge(&channel, Uuid::nil(), 1, "")).await;
            let is_unknown_user = |status: &Status| status.code() == Code::NotFound;
            assert!(
                !charge.is_ok_and(|answer| answer.is_err_and(|status| is_unknown_user(&status))),
                "a silent database has answered"
            );
            unserved += 1;
        }
        unserved
    });
    futures::future::join_all(calls).await.into_iter().sum()
}

fn line(replica: &Replica) -> &Proxy {
    replica.line.as_ref().expect("a proxy to the database")
}
