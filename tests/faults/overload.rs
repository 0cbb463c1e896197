//! An experiment with overload. New callers arrive at a fixed rate and do not wait for earlier callers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use testkit::wallet;
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::{
    crash::FLAGS,
    harness::{
        book::{Book, Fact, Wish, name},
        check::check,
        lab::Lab,
        preload::Preload,
        proxy::Weather,
        site::{Replica, Site},
    },
};

/// The delay of messages to PostgreSQL. With this delay, the server is the bottleneck, and not the callers of this
/// test.
const SLOWNESS: Duration = Duration::from_millis(200);
/// The source of a C library that delays each sync of a file by 400 ms. SQLite has no connection that a proxy could
/// delay. The library is loaded before the library of the system.
const SLOW_DISK: &str = "
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
static int sync_late(const char *name, int fd) {
    usleep(400000);
    return ((int (*)(int))dlsym(RTLD_NEXT, name))(fd);
}
int fsync(int fd) { return sync_late(\"fsync\", fd); }
int fdatasync(int fd) { return sync_late(\"fdatasync\", fd); }
";
/// Number of callers that measure the capacity. They can fill the batches of two workers twice.
const BUSY: usize = 2_048;
const USERS: usize = 512;
/// Number of connections that the callers share, like the gateways of a deployment.
const CONNECTIONS: usize = 16;
/// Time after which a caller gives up.
const PATIENCE: Duration = Duration::from_secs(6);
/// Maximum number of attempts of a caller.
const TRIES: u32 = 3;
/// Maximum number of callers at the same time. Further callers make no call.
const MAX_CALLERS: u64 = 20_000;

/// The load is first 1, then 2, 5 and 10 times the capacity, or 1 and 5 times in a short run. Each refused call must
/// have a retry delay. After the load falls, calls must succeed again without refusals. In a long run, the number of
/// successful calls per second must stay at 90 % of its maximum or above.
pub async fn overload_is_refused_and_goodput_stays(lab: Lab) {
    let mut site = Site::open(&lab, 1, FLAGS).await;
    let _slow_disk = slow_down(&mut site.replicas[0]).await;
    let doors: Vec<Channel> = (0..CONNECTIONS).map(|_| site.replicas[0].direct()).collect();
    let users =
        futures::future::try_join_all((0..USERS).map(|_| wallet::open_new(&doors[0], 0))).await.expect("wallets");
    let load =
        Arc::new(Load { doors, users, book: Book::default(), hints: AtomicU64::new(0), under_way: AtomicU64::new(0) });
    let span = lab.pick(Duration::from_secs(4), Duration::from_secs(20));
    if lab.is_long {
        // In a small database, the entries of many wallets share a page, so a batch writes fewer pages.
        load.capacity(span).await;
    }
    let capacity = load.capacity(span).await;
    let (mut peak, mut overloaded, mut figures) = (0.0_f64, f64::INFINITY, vec![format!("capacity {capacity:.0}/s")]);
    let factors = lab.pick(vec![1.0, 5.0], vec![1.0, 2.0, 5.0, 10.0]);
    let rounds = factors.len() as u64;
    for factor in factors {
        lab.next_round(rounds, rounds);
        let goodput = load.open_loop(capacity * factor, span).await;
        peak = peak.max(goodput);
        if factor > 1.0 {
            overloaded = overloaded.min(goodput);
        }
        figures.push(format!("{factor} x: {goodput:.0}/s"));
    }
    // The load is now half of the capacity, until no call fails for one second.
    let calm = Instant::now();
    let normal = loop {
        let (before, since) = (load.refusals(), calm.elapsed());
        let (goodput, wanted) = (load.open_loop(capacity / 2.0, Duration::from_secs(1)).await, capacity / 2.0);
        if load.refusals() == before && goodput > 0.8 * wanted {
            break since;
        }
        assert!(since < Duration::from_secs(60), "the overload stays: {figures:?}");
    };
    figures.push(format!("normal after {normal:.1?}"));
    load.wait_for_callers().await;
    lab.note(figures.join(", "));
    if let Some(line) = &site.replicas[0].line {
        line.set(Weather::Fair);
    }
    check(&lab, &site.url, &[&load.book]).await;
    let is_overloaded = |name: &str| name == "ResourceExhausted OVERLOADED";
    load.book.assert_failures(|name| is_overloaded(name) || name.starts_with("DeadlineExceeded"));
    let refused: u64 =
        load.book.failures().iter().filter(|(name, _)| is_overloaded(name)).map(|(_, count)| count).sum();
    assert_eq!(load.hints.load(Ordering::Relaxed), refused, "refusals without a retry delay");
    assert!(refused > 0, "no call was refused");
    if lab.is_long {
        assert!(normal <= Duration::from_secs(10), "the overload stayed: {figures:?}");
        assert!(overloaded >= 0.9 * peak, "goodput fell to {overloaded:.0}/s of {peak:.0}/s: {figures:?}");
    }
}

/// Makes the database of a server slow. On SQLite, returns the library that delays each sync. The caller must keep the
/// library until the end.
async fn slow_down(replica: &mut Replica) -> Option<Preload> {
    if let Some(line) = &replica.line {
        line.set(Weather::Slow(SLOWNESS));
        return None;
    }
    let library = Preload::compile(SLOW_DISK);
    replica.process().kill();
    replica.wrap(Some(&library.script()));
    replica.start_again().await;
    replica.process().ready().await.expect("ready");
    Some(library)
}

/// Callers that charge wallets.
struct Load {
    doors: Vec<Channel>,
    users: Vec<Uuid>,
    book: Book,
    /// The number of OVERLOADED answers with a retry delay.
    hints: AtomicU64,
    /// The number of callers that have not finished.
    under_way: AtomicU64,
}

impl Load {
    /// Returns the number of successful calls per second of [`BUSY`] callers. Each caller waits for an answer before
    /// its next call.
    async fn capacity(self: &Arc<Self>, span: Duration) -> f64 {
        let (until, before, started) = (Instant::now() + span, self.book.acknowledged(), Instant::now());
        let mut callers = JoinSet::new();
        for number in 0..BUSY {
            let load = self.clone();
            callers.spawn(async move {
                while Instant::now() < until {
                    let _ = load.call(number).await;
                }
            });
        }
        callers.join_all().await;
        (self.book.acknowledged() - before) as f64 / started.elapsed().as_secs_f64()
    }

    /// Starts `rate` callers per second, without waiting for earlier callers. Returns the number of successful calls
    /// per second after a warm-up of `span` / 10.
    async fn open_loop(self: &Arc<Self>, rate: f64, span: Duration) -> f64 {
        let (started, mut before) = (Instant::now(), None);
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut come = 0;
        while started.elapsed() < span {
            ticks.tick().await;
            if started.elapsed() >= span / 10 {
                before.get_or_insert_with(|| (self.book.acknowledged(), Instant::now()));
            }
            let due = (started.elapsed().as_secs_f64() * rate) as usize;
            for number in come..due {
                if self.under_way.fetch_add(1, Ordering::Relaxed) < MAX_CALLERS {
                    let load = self.clone();
                    tokio::spawn(async move {
                        load.patiently(number).await;
                        load.under_way.fetch_sub(1, Ordering::Relaxed);
                    });
                } else {
                    self.under_way.fetch_sub(1, Ordering::Relaxed);
                }
            }
            come = come.max(due);
        }
        let (before, since) = before.unwrap_or((0, started));
        (self.book.acknowledged() - before) as f64 / since.elapsed().as_secs_f64()
    }

    /// Makes a call, and makes it again after the retry delay in the answer. Stops after [`TRIES`] attempts, or if the
    /// next attempt would not start within [`PATIENCE`] of the first attempt.
    async fn patiently(&self, number: usize) {
        let started = Instant::now();
        for _ in 0..TRIES {
            let Err(status) = self.call(number).await else { return };
            let wait = status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or(PATIENCE);
            if started.elapsed() + wait >= PATIENCE {
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn call(&self, number: usize) -> Result<Fact, Status> {
        let (request_id, user_id) = (Uuid::now_v7(), self.users[number % USERS]);
        let answer = self.book.ask(request_id, Wish::Charge { user_id, amount: 1 }, async {
            let request_id = request_id.to_string();
            let answer = tokio::time::timeout(
                PATIENCE,
                wallet::charge(&self.doors[number % CONNECTIONS], user_id, 1, &request_id),
            )
            .await;
            answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the caller gave up"))).map(Fact::from)
        });
        let answer = answer.await;
        if let Err(status) = &answer
            && name(status).ends_with("OVERLOADED")
            && status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some())
        {
            self.hints.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    fn refusals(&self) -> u64 {
        self.book.failures().values().sum()
    }

    async fn wait_for_callers(&self) {
        while self.under_way.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
