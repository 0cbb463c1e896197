//! Tests that no call is lost while replicas are replaced one after the other, and while a server replaces old
//! connections. Callers retry a failed call once.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use boxoffice::{
    app::server::Server,
    rpc::proto::{self, wallet_service_client::WalletServiceClient},
};
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use uuid::Uuid;

use crate::harness::{
    Engine, World, connect, eventually,
    raw::{Raw, frame, request},
    start,
};

const CALLERS: usize = 8;

/// The delay before a call is retried on the same channel: the first backoff in `docs/clients.md`. The client reacts to
/// a GOAWAY a moment after it fails the call. Without a delay, the retry may use the same connection and fail too.
const BACKOFF: Duration = Duration::from_millis(200);

/// A channel to a replica, and whether health reports that the replica is serving.
#[derive(Clone)]
struct Replica {
    channel: Channel,
    serves: Arc<AtomicBool>,
}

impl Replica {
    /// Connects to a server, follows its health, and waits until it is serving.
    async fn follow(server: &Server) -> Self {
        let channel = connect(server.address).await;
        let replica = Self { channel: channel.clone(), serves: Arc::default() };
        let serves = replica.serves.clone();
        tokio::spawn(async move {
            let watch = HealthClient::new(channel).watch(HealthCheckRequest::default()).await;
            let mut watch = watch.expect("health").into_inner();
            while let Ok(Some(health)) = watch.message().await {
                serves.store(health.status() == ServingStatus::Serving, Ordering::SeqCst);
            }
            serves.store(false, Ordering::SeqCst);
        });
        eventually("the replica serves", async || replica.serves.load(Ordering::SeqCst)).await;
        replica
    }
}

type Replicas = Arc<Mutex<Vec<Replica>>>;

/// Returns one of the serving replicas, in turn. Leaves out the replica `failed`.
fn choose(replicas: &Replicas, turn: usize, failed: Option<&Replica>) -> Replica {
    let replicas = replicas.lock().unwrap();
    let may_serve = |replica: &&Replica| {
        let has_failed = failed.is_some_and(|failed| Arc::ptr_eq(&failed.serves, &replica.serves));
        replica.serves.load(Ordering::SeqCst) && !has_failed
    };
    let serving: Vec<&Replica> = replicas.iter().filter(may_serve).collect();
    serving[turn % serving.len()].clone()
}

fn is_unavailable(status: &Status) -> bool {
    status.code() == Code::Unavailable
}

/// Returns whether a call failed with UNAVAILABLE or because its connection was closed. A status without details comes
/// from the client's transport.
fn is_unavailable_or_cut_off(status: &Status) -> bool {
    is_unavailable(status) || status.details().is_empty()
}

/// Charges a wallet. If `may_retry` accepts the failure, retries the call once on another serving replica.
async fn charge(replicas: &Replicas, turn: usize, user_id: Uuid, may_retry: fn(&Status) -> bool) -> Result<(), Status> {
    let request_id = Uuid::now_v7().to_string();
    let request = proto::ChargeWalletRequest { user_id: user_id.to_string(), amount: 1, request_id };
    let replica = choose(replicas, turn, None);
    match WalletServiceClient::new(replica.channel.clone()).charge_wallet(request.clone()).await {
        Err(status) if may_retry(&status) => {
            let other = choose(replicas, turn, Some(&replica));
            WalletServiceClient::new(other.channel).charge_wallet(request).await.map(drop)
        }
        answer => answer.map(drop),
    }
}

async fn roll(lame_duck: Duration, may_retry: fn(&Status) -> bool) {
    let world = World::new(Engine::Postgres).await;
    let user_id = world.user(0).await;
    let mut settings = world.settings.clone();
    settings.limits.lame_duck = lame_duck;
    let (replicas, mut servers) = (Replicas::default(), Vec::new());
    for _ in 0..3 {
        let server = start(&settings, &world.clock, false).await;
        server.ready().await.unwrap();
        let replica = Replica::follow(&server).await;
        replicas.lock().unwrap().push(replica);
        servers.push(server);
    }
    let (done, charged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let (replicas, done, charged) = (replicas.clone(), done.clone(), charged.clone());
        callers.spawn(async move {
            let mut turn = caller;
            while !done.load(Ordering::SeqCst) {
                charge(&replicas, turn, user_id, may_retry).await.expect("no call is lost");
                charged.fetch_add(1, Ordering::SeqCst);
                turn += 1;
            }
        });
    }
    for old in servers {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let new = start(&settings, &world.clock, false).await;
        new.ready().await.unwrap();
        let replica = Replica::follow(&new).await;
        replicas.lock().unwrap().push(replica);
        old.stop().await;
    }
    done.store(true, Ordering::SeqCst);
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    let charged = charged.load(Ordering::SeqCst);
    assert!(charged > 100, "{charged}");
    assert_eq!(world.balance(user_id).await, charged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_while_replicas_are_replaced() {
    roll(Duration::from_millis(300), is_unavailable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_when_replicas_stop_immediately() {
    roll(Duration::ZERO, is_unavailable_or_cut_off).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_connections_are_replaced_without_a_lost_call_or_stream() {
    let world = World::with(Engine::Sqlite, &["--max-connection-age", "1s"]).await;
    world.concert("IU", 50).await;
    let caller = world.waiting("IU").await;
    let mut stream = caller.watch().await.unwrap();
    stream.message().await.unwrap().unwrap();
    // A client that does not react to GOAWAY must find its old connection closed.
    let old = Raw::connect(world.server(0).address).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3) {
        if let Err(status) = caller.position().await {
            assert!(is_unavailable_or_cut_off(&status), "{status:?}");
            tokio::time::sleep(BACKOFF).await;
            caller.position().await.expect("no call is lost");
        }
    }
    let check = request("/grpc.health.v1.Health/Check").body(()).unwrap();
    assert!(old.call(check, frame(b"")).await.is_err());
    world.promote().await;
    let admitted = async {
        while let Some(message) = stream.message().await.unwrap() {
            if message.position.unwrap().state() == proto::QueueState::Active {
                return true;
            }
        }
        false
    };
    assert!(admitted.await);
}
