//! An experiment with thousands of admitted users that watch their positions. At the same time, other users leave, join
//! and list performances.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use boxoffice::{
    clock::Clock,
    rpc::proto::{QueueState, WatchPositionResponse},
};
use futures::{StreamExt, stream};
use rand::Rng;
use testkit::{Caller, PRICE, catalogue, invariants, wallet};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Channel};
use uuid::Uuid;

use crate::harness::{
    book::Book,
    eventually,
    lab::{Lab, Tally},
    site::{CONCERT, DATE, Site},
};

const FLAGS: &[&str] = &["--promote-interval", "100ms", "--admission-ttl", "2h", "--hold-ttl", "1h"];
const CONNECTIONS: usize = 16;
/// Maximum number of in-flight calls while the users join and open their streams.
const PREPARING: usize = 128;
/// Number of seats that each buyer buys.
const BUY: usize = 100;
/// Number of concurrent callers that join. The same number of callers list performances and read positions. At most
/// this number of buyers buy at the same time.
const CALLERS: usize = 8;
/// Time within which all leavers call LeaveQueue.
const DEPARTURE_SPAN: Duration = Duration::from_secs(1);

/// A concert sells out, and then 5,000 users (100 in a short run) leave within one second. The streams of the remaining
/// users must stay open and report that the concert is sold out. No call may fail.
pub async fn admitted_watchers_stay_while_thousands_leave(lab: Lab) {
    let site = Site::open(&lab, 1, FLAGS).await;
    let (watcher_count, leaver_count) = lab.pick((400, 100), (20_000, 5_000));
    let buyer_count = watcher_count / (BUY - 1) + 1;
    site.concert((buyer_count * BUY) as i32, |concert| concert.seats_per_user_limit = BUY as i32).await;
    let doors: Vec<Channel> = (0..CONNECTIONS).map(|_| site.replicas[0].direct()).collect();
    let (book, news) = (Arc::new(Book::default()), Arc::new(News::default()));

    // The buyers and the watchers are admitted. Then the concert is paused, so later users wait.
    let buyers = join(&doors, buyer_count, BUY as i64 * PRICE, &book).await;
    let watchers = join(&doors, watcher_count, 0, &book).await;
    until_all_admitted(&site).await;
    catalogue::set_paused(&site.replicas[0].admin(), CONCERT, true).await.expect("a pause");
    let waiting = join(&doors, leaver_count / 2, 0, &book).await;
    let (leaving, staying) = watchers.split_at(leaver_count - leaver_count / 2);
    let leavers: Vec<Caller> = leaving.iter().chain(&waiting).cloned().collect();
    let mut streams = watch(&leavers, true, &news).await;
    let staying_streams = watch(staying, false, &news).await;
    eventually("all watchers know that they are admitted", async || news.active() == watcher_count).await;

    lab.next_round(1, 1);
    let others = Others::start(&doors, staying, &book);
    let sold_out = sell_out(&buyers, &book).await;
    let latencies = all_leave(&lab, leavers, &book).await;
    eventually("all watchers know that the concert is sold out", async || news.sold_out() >= staying.len()).await;
    let told = sold_out.elapsed();
    let calls = others.stop().await;
    while let Some(ended) = streams.join_next().await {
        ended.expect("a listener");
    }
    let ended = news.ended.load(Ordering::Relaxed);
    drop(staying_streams);
    let p99 = latencies[latencies.len() * 99 / 100];

    lab.note(format!(
        "{} streams, {ended} ended; {leaver_count} left, p99 {p99:.1?}, slowest {:.1?}; \
         sold out known after {told:.1?}; {calls} calls of others, refused: {:?}",
        watcher_count + waiting.len(),
        latencies[latencies.len() - 1],
        book.failures(),
    ));
    lab.note_tally(Tally { acknowledged: calls + leaver_count as u64, ..Tally::default() });
    let left = catalogue::sale_stats(&site.replicas[0].admin(), CONCERT).await.expect("counts").left_count;
    invariants::check(&site.url, &Clock::system()).await;
    assert_eq!(ended, 0, "a stream of a remaining user ended, or a stream of a leaver ended without LEFT");
    assert_eq!(left, leaver_count as i64);
    book.assert_failures(|_| false);
    assert!(p99 <= lab.pick(Duration::from_secs(5), Duration::from_secs(1)), "p99 of LeaveQueue is {p99:?}");
}

/// Adds `count` new users with `balance` to the queue.
async fn join(doors: &[Channel], count: usize, balance: i64, book: &Book) -> Vec<Caller> {
    let joining = stream::iter(0..count).map(|number| async move {
        let door = doors[number % doors.len()].clone();
        let user_id = book.look(wallet::open_new(&door, balance)).await.expect("a wallet");
        book.look(Caller::join(door, CONCERT, user_id)).await.expect("a token")
    });
    joining.buffered(PREPARING).collect().await
}

async fn until_all_admitted(site: &Site) {
    let admin = site.replicas[0].admin();
    eventually("all users are admitted", async || {
        catalogue::sale_stats(&admin, CONCERT).await.expect("counts").waiting_count == 0
    })
    .await;
}

/// Counts of the streams by the messages that they received.
#[derive(Default)]
struct News {
    /// The number of streams that reported an admission.
    active: AtomicUsize,
    /// The number of streams of remaining users that reported that the concert is sold out.
    sold_out: AtomicUsize,
    /// The number of streams that ended although their user had not left.
    ended: AtomicUsize,
}

impl News {
    fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    fn sold_out(&self) -> usize {
        self.sold_out.load(Ordering::Relaxed)
    }
}

/// Opens a stream for each user. A task per stream reads the messages until the stream ends.
async fn watch(callers: &[Caller], is_leaver: bool, news: &Arc<News>) -> JoinSet<()> {
    let opening = stream::iter(callers).map(|caller| async move { caller.watch().await.expect("a stream") });
    let streams: Vec<_> = opening.buffered(PREPARING).collect().await;
    let mut listeners = JoinSet::new();
    for stream in streams {
        listeners.spawn(listen(stream, is_leaver, news.clone()));
    }
    listeners
}

async fn listen(mut stream: Streaming<WatchPositionResponse>, is_leaver: bool, news: Arc<News>) {
    let (mut state, mut is_sold_out) = (QueueState::Unspecified, false);
    while let Ok(Some(message)) = stream.message().await {
        let position = message.position.expect("a position");
        if position.state() == QueueState::Active && state != QueueState::Active {
            news.active.fetch_add(1, Ordering::Relaxed);
        }
        if position.unsold_seat_count == 0 && !is_sold_out && !is_leaver {
            is_sold_out = true;
            news.sold_out.fetch_add(1, Ordering::Relaxed);
        }
        state = position.state();
    }
    if !(is_leaver && state == QueueState::Left) {
        news.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Buys all seats. Returns the time after the last sale.
async fn sell_out(buyers: &[Caller], book: &Book) -> Instant {
    let buying = stream::iter(buyers.iter().enumerate()).map(|(number, buyer)| async move {
        let first = (number * BUY) as i32 + 1;
        let seats: Vec<i32> = (first..first + BUY as i32).collect();
        book.look(buyer.hold(DATE, &seats)).await.expect("a hold");
        book.look(buyer.pay()).await.expect("a payment");
    });
    buying.buffer_unordered(CALLERS).collect::<Vec<()>>().await;
    Instant::now()
}

/// Lets each user leave at a random time within one second. Returns the latencies of LeaveQueue in ascending order.
async fn all_leave(lab: &Lab, leavers: Vec<Caller>, book: &Arc<Book>) -> Vec<Duration> {
    let (mut random, mut leaving) = (lab.random(), JoinSet::new());
    for leaver in leavers {
        let (pause, book) = (random.random_range(Duration::ZERO..DEPARTURE_SPAN), book.clone());
        leaving.spawn(async move {
            tokio::time::sleep(pause).await;
            let asked = Instant::now();
            // The book counts the failures.
            let _ = book.look(leaver.leave()).await;
            asked.elapsed()
        });
    }
    let mut latencies = leaving.join_all().await;
    latencies.sort_unstable();
    latencies
}

/// The users that join, and the users that list performances and read positions, during the sale and the departures.
struct Others {
    stopping: CancellationToken,
    callers: JoinSet<u64>,
}

impl Others {
    fn start(doors: &[Channel], admitted: &[Caller], book: &Arc<Book>) -> Self {
        let (stopping, mut callers) = (CancellationToken::new(), JoinSet::new());
        for number in 0..CALLERS {
            let (door, book, stopping) = (doors[number].clone(), book.clone(), stopping.clone());
            let caller = admitted[number].clone();
            callers.spawn({
                let (book, stopping) = (book.clone(), stopping.clone());
                async move { again(&stopping, || join_once(&door, &book)).await }
            });
            callers.spawn(async move { again(&stopping, || list_once(&caller, &book)).await });
        }
        Self { stopping, callers }
    }

    /// Stops the users. Returns the number of their calls.
    async fn stop(self) -> u64 {
        self.stopping.cancel();
        self.callers.join_all().await.into_iter().sum()
    }
}

/// Runs `calls` repeatedly until `stopping` is cancelled. Each run returns its number of RPCs. Returns the sum of these
/// numbers.
async fn again<F: Future<Output = u64>>(stopping: &CancellationToken, calls: impl Fn() -> F) -> u64 {
    let mut count = 0;
    while !stopping.is_cancelled() {
        count += calls().await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    count
}

async fn join_once(door: &Channel, book: &Book) -> u64 {
    let user_id = Uuid::from_u128(rand::random());
    let _ = book.look(wallet::open(door, user_id)).await;
    let _ = book.look(Caller::join(door.clone(), CONCERT, user_id)).await;
    2
}

async fn list_once(caller: &Caller, book: &Book) -> u64 {
    let _ = book.look(caller.performances()).await;
    let _ = book.look(caller.position()).await;
    2
}
