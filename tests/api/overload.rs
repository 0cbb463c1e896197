//! Tests the limits on calls, streams and connections, callers that give up, requests that cannot be decoded, and
//! shutdown with open connections.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use boxoffice::rpc::proto::{self, QueueState};
use bytes::Bytes;
use prost::Message;
use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinSet};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::harness::{
    Caller, DATE, Engine, World, assert_failure, connect, eventually, lock_database, on_both_engines,
    raw::{Raw, frame, request},
};

on_both_engines!(
    a_call_whose_deadline_passes_while_it_waits_never_starts,
    a_stream_ends_at_its_callers_deadline,
    a_request_that_cannot_be_read_is_an_invalid_argument,
    thousands_of_concurrent_calls_on_one_connection_are_served,
);

const GET_POSITION: &str = "/boxoffice.v1.QueueService/GetPosition";
const WATCH_POSITION: &str = "/boxoffice.v1.QueueService/WatchPosition";
const CHARGE: &str = "/boxoffice.v1.WalletService/ChargeWallet";
const CHECK_HEALTH: &str = "/grpc.health.v1.Health/Check";
const LIST_CONCERTS: &str = "/boxoffice.v1.ConcertService/ListConcerts";

fn charge(user_id: impl ToString, amount: i64) -> Bytes {
    let request = proto::ChargeWalletRequest { user_id: user_id.to_string(), amount, request_id: String::new() };
    frame(&request.encode_to_vec())
}

/// Returns the request of GetPosition. WatchPosition has the same fields.
fn position(caller: &Caller) -> Bytes {
    let (concert_code, user_id) = (caller.concert_code.clone(), caller.user_id.clone());
    frame(&proto::GetPositionRequest { concert_code, user_id }.encode_to_vec())
}

fn bearer(caller: &Caller) -> String {
    format!("Bearer {}", caller.token)
}

/// Waits for 200 ms, so that spawned tasks can send their requests.
async fn wait_until_sent() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_beyond_the_limit_are_refused_and_health_checks_are_not() {
    let world = World::with(Engine::Sqlite, &["--max-calls", "8"]).await;
    world.concert("IU", 50).await;
    let (user_id, caller) = (world.user(0).await, world.waiting("IU").await);
    let lock = lock_database(&world).await;
    let mut calls = JoinSet::new();
    for _ in 0..4 {
        let mut wallets = world.wallets();
        let request = proto::ChargeWalletRequest { user_id: user_id.to_string(), amount: 1, request_id: String::new() };
        calls.spawn(async move { wallets.charge_wallet(request).await });
    }
    wait_until_sent().await;
    let details = assert_failure(world.charge(user_id, 1, "").await, Code::ResourceExhausted, "OVERLOADED");
    let delay = details.retry_info().unwrap().retry_delay.unwrap();
    assert!((Duration::from_millis(200)..Duration::from_secs(8)).contains(&delay), "{delay:?}");
    // One method may use at most half of the in-flight calls, so other methods are served. Streams and health checks do
    // not count towards the limit on calls.
    assert_eq!(caller.state().await, QueueState::Waiting);
    caller.watch().await.unwrap().message().await.unwrap().unwrap();
    let health = HealthClient::new(world.channel(0)).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status(), ServingStatus::Serving);
    lock.rollback().await.unwrap();
    while let Some(charged) = calls.join_next().await {
        charged.unwrap().unwrap();
    }
    assert_eq!(caller.state().await, QueueState::Waiting);
    assert_eq!(world.balance(user_id).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_have_a_separate_limit() {
    let world = World::with(Engine::Sqlite, &["--max-streams", "2", "--max-calls", "2"]).await;
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let (mut seats, mut first) = (caller.watch_seats(DATE).await.unwrap(), caller.watch().await.unwrap());
    assert!(seats.message().await.unwrap().is_some() && first.message().await.unwrap().is_some());
    let details = assert_failure(caller.watch().await, Code::ResourceExhausted, "OVERLOADED");
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    assert_failure(caller.watch_seats(DATE).await, Code::ResourceExhausted, "OVERLOADED");
    assert_eq!(caller.state().await, QueueState::Active);
    drop(seats);
    eventually("a stream can be opened", async || caller.watch().await.is_ok()).await;
}

async fn a_call_whose_deadline_passes_while_it_waits_never_starts(world: World) {
    let user_id = world.user(0).await;
    let connection = Raw::connect(world.server(0).address).await;
    let lock = lock_database(&world).await;
    let mut wallets = world.wallets();
    let first = tokio::spawn(async move {
        let request = proto::ChargeWalletRequest { user_id: user_id.to_string(), amount: 1, request_id: String::new() };
        wallets.charge_wallet(request).await
    });
    wait_until_sent().await;
    let started = Instant::now();
    let late = request(CHARGE).header("grpc-timeout", "300m").body(()).unwrap();
    let late = connection.call(late, charge(user_id, 1_000)).await.unwrap();
    assert_failure(Err::<(), _>(late.status), Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    assert!((300..1_500).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    lock.rollback().await.unwrap();
    first.await.unwrap().unwrap();
    for timeout in ["0S", "1n", "1u"] {
        let over = request(CHARGE).header("grpc-timeout", timeout).body(()).unwrap();
        let over = connection.call(over, charge(user_id, 1_000)).await.unwrap();
        assert_failure(Err::<(), _>(over.status), Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    }
    world.charge(user_id, 10, "").await.unwrap();
    assert_eq!(world.balance(user_id).await, 11);
}

async fn a_stream_ends_at_its_callers_deadline(world: World) {
    world.concert("IU", 50).await;
    let caller = world.waiting("IU").await;
    let connection = Raw::connect(world.server(0).address).await;
    let started = Instant::now();
    let watch = request(WATCH_POSITION).header("authorization", bearer(&caller)).header("grpc-timeout", "300m");
    let answer = connection.call(watch.body(()).unwrap(), position(&caller)).await.unwrap();
    assert!(!answer.messages.is_empty());
    assert_failure(Err::<(), _>(answer.status), Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    assert!((300..2_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
}

#[track_caller]
fn assert_invalid(status: Status, field: &str) {
    let details = assert_failure(Err::<(), _>(status), Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, field);
}

async fn a_request_that_cannot_be_read_is_an_invalid_argument(world: World) {
    let server = world.server(0);
    let (public, admin) = (Raw::connect(server.address).await, Raw::connect(server.admin_address).await);
    let call = async |path: &str, body: &[u8]| {
        let body = Bytes::copy_from_slice(body);
        public.call(request(path).body(()).unwrap(), body).await.unwrap().status
    };
    let large = |bytes: usize| frame(&proto::GetConcertRequest { concert_code: "A".repeat(bytes) }.encode_to_vec());
    // The bodies: a broken message, half a message, no message, half a frame header, a compressed message, unknown
    // flags, and a length without its bytes.
    for body in [
        &b"\0\0\0\0\x01\xff"[..],
        b"\0\0\0\0\x05\x08",
        b"",
        b"\0\0",
        b"\x01\0\0\0\0",
        b"\x07\0\0\0\0",
        b"\0\xff\xff\xff\xff",
    ] {
        assert_invalid(call(LIST_CONCERTS, body).await, "request");
    }
    let get_concert = "/boxoffice.v1.ConcertService/GetConcert";
    assert_invalid(call(get_concert, &large(65_000)).await, "concert_code");
    for bytes in [65_536, 16 << 20] {
        assert_invalid(call(get_concert, &large(bytes)).await, "request");
    }
    let statistics = request("/boxoffice.v1.AdminService/GetSaleStats").body(()).unwrap();
    assert_invalid(admin.call(statistics, large(1 << 20)).await.unwrap().status, "request");
    for timeout in ["", "1", "soon", "-1S", "123456789S"] {
        let request = request(LIST_CONCERTS).header("grpc-timeout", timeout).body(()).unwrap();
        assert_invalid(public.call(request, frame(b"")).await.unwrap().status, "grpc-timeout");
    }
    // The public listener does not serve AdminService.
    for path in ["/boxoffice.v1.ConcertService/Nope", "/boxoffice.v1.AdminService/UpdateSale", "/", "/%ff/x"] {
        assert_failure(Err::<(), _>(call(path, &frame(b"")).await), Code::Unimplemented, "UNIMPLEMENTED");
    }
    for encoding in ["gzip", "zstd", "snappy"] {
        let request = request(LIST_CONCERTS).header("grpc-encoding", encoding).body(()).unwrap();
        let answer = public.call(request, frame(b"")).await.unwrap();
        assert_failure(Err::<(), _>(answer.status), Code::Unimplemented, "UNIMPLEMENTED");
    }
}

async fn thousands_of_concurrent_calls_on_one_connection_are_served(world: World) {
    world.concert("IU", 50).await;
    let caller = world.waiting("IU").await;
    let calls = (0..2_600).map(|_| caller.position());
    for position in futures::future::join_all(calls).await {
        assert_eq!(position.unwrap().state(), QueueState::Waiting);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_half_sent_calls_do_not_block_other_calls() {
    let world = World::with(Engine::Sqlite, &["--max-calls", "8"]).await;
    world.concert("IU", 50).await;
    let caller = world.waiting("IU").await;
    let connection = Raw::connect(world.server(0).address).await;
    let mut open = Vec::new();
    for _ in 0..10_000 {
        let half = request(GET_POSITION).header("authorization", bearer(&caller)).body(()).unwrap();
        open.push(connection.open(half).await.unwrap());
    }
    wait_until_sent().await;
    let started = Instant::now();
    for _ in 0..50 {
        assert_eq!(caller.state().await, QueueState::Waiting);
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // A call whose request is completed later must be served.
    let (response, mut sender) = open.pop().unwrap();
    sender.send_data(position(&caller), true).unwrap();
    assert!(Status::from_header_map(response.await.unwrap().headers()).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_health_checks_do_not_block_other_checks_and_time_out() {
    let world = World::with(Engine::Sqlite, &["--call-timeout", "3s"]).await;
    let connection = Raw::connect(world.server(0).address).await;
    let mut open = Vec::new();
    for _ in 0..200 {
        open.push(connection.open(request(CHECK_HEALTH).body(()).unwrap()).await.unwrap());
    }
    let other = HealthClient::new(connect(world.server(0).address).await);
    other.clone().check(HealthCheckRequest::default()).await.unwrap();
    let mut given_up = 0;
    for (answer, _sender) in open {
        let status = Status::from_header_map(answer.await.unwrap().headers()).unwrap();
        match status.code() {
            Code::DeadlineExceeded => given_up += 1,
            _ => drop(assert_failure(Err::<(), _>(status), Code::ResourceExhausted, "OVERLOADED")),
        }
    }
    assert_eq!(given_up, 128);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_resets_affects_no_other_connection() {
    let world = World::new(Engine::Sqlite).await;
    world.concert("IU", 50).await;
    let caller = world.waiting("IU").await;
    let connection = Raw::connect(world.server(0).address).await;
    let flood = tokio::spawn({
        let (caller, connection) = (caller.clone(), connection.clone());
        async move {
            for sent in 0..30_000 {
                let call = request(GET_POSITION).header("authorization", bearer(&caller)).body(()).unwrap();
                match connection.open(call).await {
                    Ok((_, mut sender)) => sender.send_reset(h2::Reason::CANCEL),
                    Err(_) => return sent,
                }
            }
            30_000
        }
    });
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(caller.state().await, QueueState::Waiting);
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(flood.await.unwrap() > 0);
    assert_eq!(caller.state().await, QueueState::Waiting);
}

/// Returns whether the server closes a silent connection within 2 seconds.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let read = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut [0; 1])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_are_closed_immediately() {
    // The harness already uses one of the two connections.
    let world = World::with(Engine::Sqlite, &["--max-connections", "2"]).await;
    let address: SocketAddr = world.server(0).address;
    let second = connect(address).await;
    assert!(is_closed(&mut TcpStream::connect(address).await.unwrap()).await);
    let mut health = HealthClient::new(second);
    health.check(HealthCheckRequest::default()).await.unwrap();
    drop(health);
    eventually("a connection is free", async || !is_closed(&mut TcpStream::connect(address).await.unwrap()).await)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_and_health_watchers_do_not_delay_a_shutdown() {
    let mut world = World::with(Engine::Sqlite, &["--drain-timeout", "20s"]).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(world.server(0).address).await.unwrap());
    }
    let connection = Raw::connect(world.server(0).address).await;
    let _half_open = connection.open(request(LIST_CONCERTS).body(()).unwrap()).await.unwrap();
    let mut health = HealthClient::new(world.channel(0));
    let watch = health.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watch = watch.into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    wait_until_sent().await;
    let started = Instant::now();
    world.stop_first().await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_failure(watch.message().await, Code::Unavailable, "SHUTTING_DOWN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_serves_calls_during_the_lame_duck_time() {
    let mut world = World::with(Engine::Sqlite, &["--lame-duck", "1s"]).await;
    world.concert("IU", 50).await;
    let caller = world.waiting("IU").await;
    let mut health = HealthClient::new(world.channel(0));
    let watch = health.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watch = watch.into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let served = tokio::spawn(async move {
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        let told = Instant::now();
        let mut count = 0;
        while told.elapsed() < Duration::from_millis(700) {
            assert_eq!(caller.state().await, QueueState::Waiting);
            count += 1;
        }
        count
    });
    let started = Instant::now();
    world.stop_first().await;
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert!(served.await.unwrap() > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_whose_callers_give_up_do_not_delay_later_calls() {
    let world = World::new(Engine::Sqlite).await;
    let user_id = world.user(0).await;
    let connection = Raw::connect(world.server(0).address).await;
    let lock = lock_database(&world).await;
    for round in 0..500 {
        let timeout = format!("{}m", 1 + round % 20);
        let call = request(CHARGE).header("grpc-timeout", timeout).body(()).unwrap();
        let (_, mut sender) = connection.open(call).await.unwrap();
        // The sending fails if the deadline of the call has passed and the server has already answered.
        let _ = sender.send_data(charge(user_id, 1), true);
        tokio::time::sleep(Duration::from_millis(1)).await;
        sender.send_reset(h2::Reason::CANCEL);
    }
    lock.rollback().await.unwrap();
    let started = Instant::now();
    world.charge(user_id, 1_000_000, "").await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    // Only calls that had started before their callers gave up took effect.
    assert!(world.balance(user_id).await < 1_000_100, "{}", world.balance(user_id).await);
    world.check_invariants().await;
}
