//! An experiment with a rolling restart: one server after the other stops and starts again.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use boxoffice::rpc::proto::QueueState;
use testkit::{Caller, process::Signal, wallet};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use uuid::Uuid;

use crate::{
    crash::FLAGS,
    harness::{
        book::{Book, Fact, Wish},
        check::check,
        eventually,
        lab::Lab,
        site::{CONCERT, Site},
    },
};

/// The drain timeout of the servers, which `harness/site.rs` sets.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Time for which a stopping server still accepts calls: the default of `--lame-duck`.
const LAME_DUCK: Duration = Duration::from_millis(500);
const CALLERS: usize = 12;
const WATCHERS: usize = 30;
const SILENT_SOCKETS: usize = 50;

/// All servers are restarted. Callers that follow health and retry UNAVAILABLE once must see no failed call. Users that
/// watch their position must keep their queue numbers; their streams may end only with UNAVAILABLE. No client may delay
/// a shutdown beyond the lame-duck time and the drain timeout.
pub async fn a_rolling_restart_fails_no_call(lab: Lab) {
    let mut site = Site::open(&lab, 3, FLAGS).await;
    site.concert(10, |concert| concert.max_active_count = 1).await;
    let _first = site.admitted(1).await;
    let fleet = Arc::new(Fleet::follow(site.doors()));
    let (book, stop) = (Arc::new(Book::default()), CancellationToken::new());
    let mut clients: JoinSet<Result<u64, Status>> = JoinSet::new();
    for _ in 0..CALLERS {
        clients.spawn(charges(fleet.clone(), book.clone(), stop.clone()));
    }
    for _ in 0..WATCHERS {
        let waiting = site.joins(0).await;
        clients.spawn(watches(fleet.clone(), waiting, stop.clone()));
    }
    let mut slowest = Duration::ZERO;
    while lab.next_round(1, 5).is_some() {
        for replica in 0..3 {
            book.serves_again(50, Duration::from_secs(60)).await;
            let silent = silent_sockets(site.replicas[replica].process().address).await;
            slowest = slowest.max(restart(&mut site, replica).await);
            drop(silent);
            eventually("the health stream reports that the server serves again", async || fleet.serves(replica)).await;
        }
    }
    stop.cancel();
    let mut reopened = 0;
    while let Some(client) = clients.join_next().await {
        reopened += client.expect("a client").expect("a call failed despite its retry");
    }
    lab.note(format!("{reopened} retries and reopened streams; a shutdown took at most {slowest:.1?}"));
    check(&lab, &site.url, &[&book]).await;
    assert!(
        slowest < LAME_DUCK + DRAIN_LIMIT + lab.pick(Duration::from_secs(20), Duration::from_millis(500)),
        "a shutdown took {slowest:?}"
    );
}

/// Stops a server with SIGTERM and starts it again. Returns the duration of the shutdown.
async fn restart(site: &mut Site, replica: usize) -> Duration {
    let replica = &mut site.replicas[replica];
    let told = Instant::now();
    replica.process().signal(Signal::SIGTERM);
    let status = replica.process().ended(Duration::from_secs(60)).await.expect("the server does not stop");
    let took = told.elapsed();
    assert!(status.success(), "{status}");
    replica.start_again().await;
    replica.process().ready().await.expect("ready");
    took
}

/// Opens connections and sends nothing on them.
async fn silent_sockets(address: SocketAddr) -> Vec<TcpStream> {
    let sockets = (0..SILENT_SOCKETS).map(|_| TcpStream::connect(address));
    futures::future::try_join_all(sockets).await.expect("sockets")
}

/// Charges a wallet until `stop` is cancelled. Returns the number of retries of all callers since the last call of
/// [`Fleet::take_retries`].
async fn charges(fleet: Arc<Fleet>, book: Arc<Book>, stop: CancellationToken) -> Result<u64, Status> {
    let user_id = fleet.call(|door| async move { wallet::open_new(&door, 0).await }).await?;
    while !stop.is_cancelled() {
        let request_id = Uuid::now_v7();
        fleet
            .call(|door| {
                let wish = Wish::Charge { user_id, amount: 1 };
                let book = book.clone();
                async move {
                    let call =
                        async { wallet::charge(&door, user_id, 1, &request_id.to_string()).await.map(Fact::from) };
                    book.ask(request_id, wish, call).await
                }
            })
            .await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(fleet.take_retries())
}

/// Watches a position until `stop` is cancelled. Opens the stream again if it ends with UNAVAILABLE. Returns the number
/// of reopened streams.
async fn watches(fleet: Arc<Fleet>, waiting: Caller, stop: CancellationToken) -> Result<u64, Status> {
    let mut reopened = 0;
    loop {
        let waiting = waiting.clone();
        let mut stream = fleet
            .call(|door| {
                let waiting = waiting.via(door);
                async move { waiting.watch().await }
            })
            .await?;
        loop {
            let message = tokio::select! {
                () = stop.cancelled() => return Ok(reopened),
                message = stream.message() => message,
            };
            match message {
                Ok(Some(message)) => {
                    let state = message.position.map(|position| position.state());
                    assert_eq!(state, Some(QueueState::Waiting), "the user lost its queue number in {CONCERT}");
                }
                Err(status) if status.code() == Code::Unavailable => break,
                Err(status) => return Err(status),
                Ok(None) => return Err(Status::data_loss("the stream ended without a status")),
            }
        }
        reopened += 1;
    }
}

/// The servers, and whether health reports that each server is serving.
struct Fleet {
    doors: Vec<(Channel, Arc<AtomicBool>)>,
    turn: AtomicU64,
    retries: AtomicU64,
    _checks: JoinSet<()>,
}

impl Fleet {
    fn follow(doors: Vec<Channel>) -> Self {
        let mut checks = JoinSet::new();
        let doors = doors.into_iter().map(|door| {
            let serves = Arc::new(AtomicBool::new(true));
            checks.spawn(follow_health(door.clone(), serves.clone()));
            (door, serves)
        });
        Self { doors: doors.collect(), turn: AtomicU64::new(0), retries: AtomicU64::new(0), _checks: checks }
    }

    fn serves(&self, replica: usize) -> bool {
        self.doors[replica].1.load(Ordering::Acquire)
    }

    /// Makes a call on a serving server. If the server answers UNAVAILABLE, retries the call once on another server.
    async fn call<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        match call(self.next()).await {
            Err(status) if status.code() == Code::Unavailable => {
                self.retries.fetch_add(1, Ordering::Relaxed);
                call(self.next()).await
            }
            answer => answer,
        }
    }

    /// Returns the next serving server in turn, or the next server if none is serving.
    fn next(&self) -> Channel {
        let first = self.turn.fetch_add(1, Ordering::Relaxed) as usize;
        let in_turn = (0..self.doors.len()).map(|i| &self.doors[(first + i) % self.doors.len()]);
        let serving = in_turn.clone().find(|(_, serves)| serves.load(Ordering::Acquire));
        serving.or(in_turn.clone().next()).expect("a server").0.clone()
    }

    fn take_retries(&self) -> u64 {
        self.retries.swap(0, Ordering::Relaxed)
    }
}

/// Follows the health of a server with a stream, which reports a stop immediately. Opens the stream again when it ends.
async fn follow_health(door: Channel, serves: Arc<AtomicBool>) {
    loop {
        if let Ok(stream) = HealthClient::new(door.clone()).watch(HealthCheckRequest::default()).await {
            let mut stream = stream.into_inner();
            while let Ok(Some(message)) = stream.message().await {
                serves.store(message.status() == ServingStatus::Serving, Ordering::Release);
            }
        }
        serves.store(false, Ordering::Release);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
