//! An experiment with clients that abuse the protocol. At the same time, another client makes normal calls.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use boxoffice::rpc::proto;
use bytes::Bytes;
use http::{Method, Request};
use testkit::{net::connect_lazily, wallet};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::{
    crash::FLAGS,
    harness::{
        book::{Book, Fact, Wish},
        check::check,
        lab::Lab,
        site::Site,
    },
};

const STREAMS: usize = 10_000;
const SOCKETS: usize = 300;
/// Maximum number of resets per second. This load would slow a server that does not limit resets.
const RESETS: usize = 5_000;
/// Size of a huge message, in bytes.
const HUGE: usize = 16 << 20;
/// Maximum growth of the memory of the server, in bytes.
const MEMORY_LIMIT: u64 = 256 << 20;

/// A function that starts misbehaving clients and counts their actions. The clients stop when the result is dropped.
type Abuse = fn(SocketAddr, Done) -> JoinSet<()>;
type Done = Arc<AtomicUsize>;

/// Sends rapid resets, 10,000 open streams, one byte per second, silent connections and messages of 16 MiB. The server
/// must stay below a memory limit. In a long run, the 99th percentile of the latency of another caller may at most
/// double, but up to 10 ms are always allowed.
pub async fn abuse_of_the_protocol_does_not_slow_other_callers(lab: Lab) {
    let mut site = Site::open(&lab, 1, FLAGS).await;
    let address = site.replicas[0].process().address;
    let door = site.replicas[0].direct();
    let (book, user_id) = (Book::default(), wallet::open_new(&door, 0).await.expect("a wallet"));
    let span = lab.pick(Duration::from_secs(2), Duration::from_secs(15));
    let before = p99(&book, &door, user_id, span).await;
    let memory = site.replicas[0].process().resident_bytes();
    let (mut worst, mut growth, mut figures) = (Duration::ZERO, 0, Vec::new());
    // The abuses, each with the minimum number of actions.
    let abuses: [(&str, Abuse, usize); 5] = [
        ("resets", rapid_resets, 1_000),
        ("open streams", open_streams, STREAMS),
        ("one byte per second", byte_by_byte, SOCKETS),
        ("silence", silence, SOCKETS),
        ("16 MiB", huge_messages, 1),
    ];
    for (what, abuse, least) in abuses {
        lab.next_round(5, 5);
        let done = Done::default();
        let mut abusers = abuse(address, done.clone());
        let during = p99(&book, &door, user_id, span).await;
        growth = growth.max(site.replicas[0].process().resident_bytes().saturating_sub(memory));
        while let Some(ended) = abusers.try_join_next() {
            ended.expect("an abuser");
        }
        drop(abusers);
        let done = done.load(Ordering::Relaxed);
        assert!(done >= least, "{what}: only {done} of {least} actions");
        worst = worst.max(during);
        figures.push(format!("{done} {what} {during:.1?}"));
    }
    let span = Duration::from_millis(100);
    p99(&book, &door, user_id, span).await;
    lab.note(format!("p99 {before:.1?}, under {}; memory grew by {} MiB", figures.join(", "), growth >> 20));
    book.assert_failures(|_| false);
    check(&lab, &site.url, &[&book]).await;
    assert!(growth < MEMORY_LIMIT, "memory grew by {} MiB", growth >> 20);
    // A difference of a few milliseconds is normal on a shared machine.
    let limit = (2 * before).max(Duration::from_millis(10));
    assert!(!lab.is_long || worst <= limit, "p99 rose from {before:?} to {worst:?}");
}

/// Charges a wallet with consecutive calls for `span`. Returns the 99th percentile of their latency.
pub async fn p99(book: &Book, door: &tonic::transport::Channel, user_id: Uuid, span: Duration) -> Duration {
    let (started, mut latencies) = (Instant::now(), Vec::new());
    while started.elapsed() < span {
        let asked = Instant::now();
        let (request_id, wish) = (Uuid::now_v7(), Wish::Charge { user_id, amount: 1 });
        let call = async { wallet::charge(door, user_id, 1, &request_id.to_string()).await.map(Fact::from) };
        book.ask(request_id, wish, call).await.expect("a charge");
        latencies.push(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    latencies.sort_unstable();
    latencies[latencies.len() * 99 / 100]
}

fn forever<F: Future<Output = ()> + Send + 'static>(count: usize, abuse: impl Fn() -> F) -> JoinSet<()> {
    (0..count).map(|_| abuse()).collect()
}

/// Opens streams and resets them immediately. Reconnects when the server closes the connection.
fn rapid_resets(address: SocketAddr, done: Done) -> JoinSet<()> {
    forever(1, move || {
        let done = done.clone();
        async move {
            loop {
                let Some(mut peer) = Peer::connect(address).await else { continue };
                while peer.reset_some(&done).await {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    })
}

/// Opens streams whose requests never end.
fn open_streams(address: SocketAddr, done: Done) -> JoinSet<()> {
    forever(1, move || {
        let done = done.clone();
        async move {
            let mut peer = Peer::connect(address).await.expect("a connection");
            let mut streams = Vec::new();
            while streams.len() < STREAMS {
                streams.push(peer.open().await.expect("a stream"));
                done.fetch_add(1, Ordering::Relaxed);
            }
            std::future::pending::<()>().await;
        }
    })
}

/// Sends one byte of the handshake per second. Reconnects when the server closes the connection.
fn byte_by_byte(address: SocketAddr, done: Done) -> JoinSet<()> {
    forever(SOCKETS, move || {
        let done = done.clone();
        async move {
            loop {
                let mut socket = TcpStream::connect(address).await.expect("a connection");
                for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
                    if socket.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    })
}

/// Connects and sends nothing.
fn silence(address: SocketAddr, done: Done) -> JoinSet<()> {
    forever(SOCKETS, move || {
        let done = done.clone();
        async move {
            let _socket = TcpStream::connect(address).await.expect("a connection");
            done.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<()>().await;
        }
    })
}

/// Sends messages that are larger than the maximum size, one after the other.
fn huge_messages(address: SocketAddr, done: Done) -> JoinSet<()> {
    forever(2, move || {
        let done = done.clone();
        async move {
            let channel = connect_lazily(address);
            let mut wallets = proto::wallet_service_client::WalletServiceClient::new(channel);
            loop {
                let request = proto::OpenWalletRequest { user_id: "x".repeat(HUGE) };
                let refused = wallets.open_wallet(request).await.expect_err("a message of 16 MiB was accepted");
                // The server either names the violation, or closes the connection before the message ends.
                let details = refused.get_error_details();
                if let Some(violation) = details.bad_request().and_then(|refused| refused.field_violations.first()) {
                    assert_eq!(violation.field, "request", "{refused:?}");
                }
                done.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    })
}

/// A client of HTTP/2 without gRPC.
struct Peer {
    send: h2::client::SendRequest<Bytes>,
    _connection: tokio_util::task::AbortOnDropHandle<()>,
}

impl Peer {
    async fn connect(address: SocketAddr) -> Option<Self> {
        let socket = TcpStream::connect(address).await.ok()?;
        let (send, connection) = h2::client::handshake(socket).await.ok()?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        Some(Self { send, _connection: tokio_util::task::AbortOnDropHandle::new(connection) })
    }

    /// Opens 50 streams and resets each of them immediately. Returns false when the server has closed the connection.
    async fn reset_some(&mut self, done: &Done) -> bool {
        for _ in 0..RESETS / 100 {
            let Some(mut stream) = self.open().await else { return false };
            stream.send_reset(h2::Reason::CANCEL);
            done.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// Starts a call and does not finish it. Returns `None` when the server has closed the connection.
    async fn open(&mut self) -> Option<h2::SendStream<Bytes>> {
        let mut send = self.send.clone().ready().await.ok()?;
        let request = Request::builder()
            .method(Method::POST)
            .uri("http://localhost/boxoffice.v1.WalletService/GetBalance")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .ok()?;
        let (answer, stream) = send.send_request(request, false).ok()?;
        // The answer is not read, so the stream stays open.
        tokio::spawn(answer);
        Some(stream)
    }
}
