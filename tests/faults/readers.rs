//! An experiment with callers that ask for large lists and do not read them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use boxoffice::rpc::proto;
use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, Request};
use prost::Message;
use testkit::{Caller, usage, wallet};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    abuse::p99,
    crash::FLAGS,
    harness::{
        book::Book,
        check::check,
        lab::Lab,
        site::{CONCERT, DATE, Site},
    },
};

const SEATS: i32 = 50_000;
/// Number of unread lists on each connection.
const LISTS: usize = 100;
/// Receive window of each list, in bytes. The server can send only this part of a list.
const WINDOW: u32 = 1_024;
/// Maximum growth of the memory of the server, in bytes.
const MEMORY_LIMIT: u64 = 512 << 20;

/// Callers ask for lists of 50,000 seats on many connections, and read nothing. The server must stay below a memory
/// limit. In a long run, the 99th percentile of the latency of another caller may at most double, but up to 20 ms are
/// always allowed. The server must close the connections within 60 seconds, and serve such a list again.
pub async fn callers_that_read_nothing_neither_fill_the_memory_nor_slow_others(lab: Lab) {
    let mut site = Site::open(&lab, 1, FLAGS).await;
    site.concert(SEATS, |_| ()).await;
    let reader = site.admitted(1).await.remove(0);
    let (address, door) = (site.replicas[0].process().address, site.replicas[0].direct());
    let (book, user_id) = (Book::default(), wallet::open_new(&door, 0).await.expect("a wallet"));
    let span = lab.pick(Duration::from_secs(2), Duration::from_secs(20));
    let before = p99(&book, &door, user_id, span).await;
    let (pid, memory) = (site.replicas[0].process().pid(), site.replicas[0].process().resident_bytes());
    let (mut worst, mut growth, mut unread) = (Duration::ZERO, 0, Vec::new());
    while lab.next_round(1, 3).is_some() {
        for _ in 0..lab.pick(4, 20) {
            unread.push(Unread::ask(address, &reader).await);
        }
        let sampling = async {
            for _ in 0..span.as_millis() / 20 {
                growth = growth.max(usage::resident_bytes(pid).expect("a server").saturating_sub(memory));
                assert!(growth < MEMORY_LIMIT, "memory grew by {} MiB", growth >> 20);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let (during, ()) = tokio::join!(p99(&book, &door, user_id, span), sampling);
        worst = worst.max(during);
    }
    let (asked, held) = (LISTS * unread.len(), unread.iter().map(Unread::held_count).sum::<usize>());
    lab.note(format!(
        "p99 {before:.1?}, beside {held} unread lists and {} refused ones {worst:.1?}; memory grew by {} MiB",
        asked - held,
        growth >> 20
    ));
    assert!(held > 0, "the server answered with no list");
    // A connection without a list may stay open: all its lists were refused.
    let holding = unread.into_iter().filter(|unread| unread.held_count() > 0).map(|unread| unread.connection);
    let closed = tokio::time::timeout(Duration::from_secs(90), futures::future::join_all(holding)).await;
    assert!(closed.is_ok(), "a connection that reads nothing stays open");
    let listed = reader.seats(DATE).await.expect("a list").len();
    assert!(listed > 10_000, "a list has only {listed} seats");
    book.assert_failures(|_| false);
    check(&lab, &site.url, &[&book]).await;
    let limit = (2 * before).max(Duration::from_millis(20));
    assert!(!lab.is_long || worst <= limit, "p99 rose from {before:?} to {worst:?}");
}

/// A connection with unread lists. It ends when the server closes it.
struct Unread {
    connection: AbortOnDropHandle<()>,
    /// The number of calls that the server answered with a list.
    held_count: Arc<AtomicUsize>,
}

impl Unread {
    fn held_count(&self) -> usize {
        self.held_count.load(Ordering::Relaxed)
    }

    async fn ask(address: SocketAddr, caller: &Caller) -> Self {
        let socket = TcpStream::connect(address).await.expect("a connection");
        let (mut send, connection) =
            h2::client::Builder::new().initial_window_size(WINDOW).handshake(socket).await.expect("a handshake");
        let connection = tokio::spawn(async move { drop(connection.await) });
        let request = proto::ListSeatsRequest {
            concert_code: CONCERT.to_owned(),
            user_id: caller.user_id.to_string(),
            date: DATE.to_owned(),
            ..Default::default()
        };
        let (message, held_count) = (frame(&request), Arc::new(AtomicUsize::new(0)));
        for _ in 0..LISTS {
            send = send.ready().await.expect("a connection");
            let head = Request::builder()
                .method(Method::POST)
                .uri("http://localhost/boxoffice.v1.ConcertService/ListSeats")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("authorization", format!("Bearer {}", caller.token))
                .body(())
                .expect("a request");
            let (answer, mut stream) = send.send_request(head, false).expect("a stream");
            stream.send_data(message.clone(), true).expect("a request");
            // The answer stays open, and its body is never read.
            let held_count = held_count.clone();
            tokio::spawn(async move {
                let answer = answer.await;
                // A refused call has its status in the headers.
                if answer.as_ref().is_ok_and(|answer| !answer.headers().contains_key("grpc-status")) {
                    held_count.fetch_add(1, Ordering::Relaxed);
                    std::future::pending::<()>().await;
                }
            });
        }
        Self { connection: AbortOnDropHandle::new(connection), held_count }
    }
}

/// Returns a message as gRPC sends it, without compression.
fn frame(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).expect("a message");
    frame.freeze()
}
