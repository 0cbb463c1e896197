//! An experiment with the rows of many past sales.

use std::time::{Duration, Instant};

use boxoffice::{clock::Clock, rpc::proto::QueueState};
use testkit::{Caller, catalogue, history::History, invariants, usage, wallet};
use tonic::transport::Channel;
use uuid::Uuid;

use crate::harness::{
    book::Book,
    lab::{Lab, Tally},
    site::{CONCERT, Site},
};

/// The promotion interval of the server; `FLAGS` sets it.
const INTERVAL: Duration = Duration::from_millis(500);
/// Promotion runs four times as often as by default, and expiry runs ten times as often.
const FLAGS: &[&str] = &["--promote-interval", "500ms", "--expire-interval", "1s"];
/// Number of callers that charge wallets at the same time.
const CALLERS: usize = 8;
/// Number of past concerts with many tokens.
const CONCERTS: u32 = 20;
/// Age of the past sales: 30 days. The retention is 90 days, so the server deletes none of their rows.
const AGE: Duration = Duration::from_secs(30 * 86_400);
/// Maximum memory of a server after a start, in bytes.
const MEMORY_LIMIT: u64 = 120_000_000;
/// Number of concerts that a long run creates after the past concerts.
const NEW: u64 = 10;

/// The database contains the rows of many past sales. The server must still start, admit users of a new concert and
/// charge wallets quickly. An idle server must use little CPU time.
pub async fn history_slows_neither_starts_nor_passes_nor_writes(lab: Lab) {
    let mut site = Site::open(&lab, 1, FLAGS).await;
    site.concert(1_000, |_| ()).await;
    catalogue::set_paused(&site.replicas[0].admin(), CONCERT, true).await.expect("a pause");
    let span = lab.pick(Duration::from_secs(3), Duration::from_secs(20));
    let mut charges = Charges::new(&site).await;
    let fresh = charges.p99(&site, span).await;

    site.replicas[0].process().kill();
    write_history(&lab, &site.url).await;
    let started = Instant::now();
    site.replicas[0].start_again().await;
    site.replicas[0].process().ready().await.expect("ready");
    let start = started.elapsed();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let memory = site.replicas[0].process().resident_bytes();
    let idle = idle_cpu(&mut site, lab.pick(Duration::from_secs(3), Duration::from_secs(10))).await;
    let aged = charges.p99(&site, span).await;
    let mut admission = Duration::ZERO;
    while let Some(round) = lab.next_round(2, NEW) {
        admission = admission.max(admit_to_a_new_concert(&site, &format!("NEW{round}")).await);
    }
    // All users ahead of this user have left.
    let behind = site.joins(0).await;
    crate::harness::eventually("the departures ahead are known", async || {
        behind.position().await.expect("a position").position == Some(1)
    })
    .await;

    lab.note(format!(
        "ready after {start:.1?}, {} MB, idle at {idle:.3} cores; p99 of ChargeWallet {fresh:.1?}, with history \
         {aged:.1?}; admitted to a new concert after {admission:.1?} at most",
        memory / 1_000_000
    ));
    lab.note_tally(Tally { acknowledged: charges.acknowledged, ..Tally::default() });
    charges.check(&site).await;
    invariants::check_without_feed(&site.url, &Clock::system()).await;
    assert!(start <= lab.pick(Duration::from_secs(20), Duration::from_secs(5)), "ready after {start:?}");
    assert!(memory <= MEMORY_LIMIT, "{} MB after a start", memory / 1_000_000);
    assert!(idle <= lab.pick(0.5, 0.05), "an idle server uses {idle:.3} cores");
    // A short run shares the machine with other tests, and its server is a debug build.
    let (slack, limit) = lab.pick((4, Duration::from_secs(4)), (1, Duration::from_secs(1)));
    assert!(
        aged <= slack * (2 * fresh + Duration::from_millis(5 * u64::from(slack))),
        "the p99 of ChargeWallet is {fresh:?} without history and {aged:?} with history"
    );
    assert!(admission <= limit + INTERVAL, "admitted after {admission:?}");
}

/// Writes 20 past concerts with many tokens and reservations, and thousands of past concerts with one waiting user
/// each. Also writes many tokens for the concert on sale. The users of these tokens have left the queue.
async fn write_history(lab: &Lab, url: &str) {
    let (rows, finished) = lab.pick((40_000, 4_000), (1_000_000, 10_000));
    let history = History::open(url, Clock::system().now()).await.expect("database");
    history.users(rows).await.expect("users");
    history.ended(CONCERTS, rows / CONCERTS, rows, AGE).await.expect("history");
    history.finished(finished, rows, AGE).await.expect("finished concerts");
    history.departed(CONCERT, rows).await.expect("departures");
    history.settle().await.expect("a settled database");
}

/// Returns the CPU use of the idle server during `span`, in cores.
async fn idle_cpu(site: &mut Site, span: Duration) -> f64 {
    let pid = site.replicas[0].process().pid();
    let (started, before) = (Instant::now(), usage::cpu_seconds(pid).expect("a process"));
    tokio::time::sleep(span).await;
    (usage::cpu_seconds(pid).expect("a process") - before) / started.elapsed().as_secs_f64()
}

/// Puts a concert on sale. Returns the time from IssueToken until the user is admitted.
async fn admit_to_a_new_concert(site: &Site, concert_code: &str) -> Duration {
    site.concert_as(concert_code, 50, |_| ()).await;
    let door = site.replicas[0].direct();
    let user_id = wallet::open_new(&door, 0).await.expect("a wallet");
    let started = Instant::now();
    let caller = Caller::join(door, concert_code, user_id).await.expect("a token");
    while caller.state().await != QueueState::Active {
        assert!(started.elapsed() < Duration::from_secs(60), "the user of a new concert is not admitted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    started.elapsed()
}

/// Callers with one wallet each. Each call charges the wallet of its caller with 1 won.
struct Charges {
    users: Vec<Uuid>,
    charged: Vec<i64>,
    acknowledged: u64,
}

impl Charges {
    async fn new(site: &Site) -> Self {
        let door = site.replicas[0].direct();
        let users = futures::future::join_all((0..CALLERS).map(|_| wallet::open_new(&door, 0))).await;
        let users = users.into_iter().collect::<Result<Vec<Uuid>, _>>().expect("wallets");
        Self { charged: vec![0; users.len()], users, acknowledged: 0 }
    }

    /// Charges all wallets concurrently for `span`. Returns the 99th percentile of the latency.
    async fn p99(&mut self, site: &Site, span: Duration) -> Duration {
        let (door, book) = (site.replicas[0].direct(), Book::default());
        let calls = self.users.iter().map(|user_id| charge(&door, &book, *user_id, span));
        let done = futures::future::join_all(calls).await;
        book.assert_failures(|_| false);
        for (charged, latencies) in self.charged.iter_mut().zip(&done) {
            *charged += latencies.len() as i64;
        }
        let mut latencies: Vec<Duration> = done.into_iter().flatten().collect();
        self.acknowledged += latencies.len() as u64;
        latencies.sort_unstable();
        latencies[latencies.len() * 99 / 100]
    }

    /// Panics if the balance of a wallet differs from the acknowledged charges.
    async fn check(&self, site: &Site) {
        let door = site.replicas[0].direct();
        for (user_id, charged) in self.users.iter().zip(&self.charged) {
            assert_eq!(wallet::balance(&door, user_id).await.expect("a balance"), *charged);
        }
    }
}

/// Charges a wallet repeatedly for `span`. Returns the latencies.
async fn charge(door: &Channel, book: &Book, user_id: Uuid, span: Duration) -> Vec<Duration> {
    let (started, mut latencies) = (Instant::now(), Vec::new());
    while started.elapsed() < span {
        let asked = Instant::now();
        let request_id = Uuid::from_u128(rand::random()).to_string();
        if book.look(wallet::charge(door, user_id, 1, &request_id)).await.is_ok() {
            latencies.push(asked.elapsed());
        }
    }
    latencies
}
