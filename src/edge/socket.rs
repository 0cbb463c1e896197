//! Accepts connections and limits their number. Closes connections on which the client does not start HTTP/2, and
//! connections that another part of the edge wants to close.

use std::{
    io,
    ops::Deref,
    pin::Pin,
    sync::{Arc, atomic::AtomicU64},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use http::Extensions;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::Sleep,
};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpIncoming, TlsConnectInfo};

use super::limit::{Limit, Permit, Share};

/// Length of the preface that every HTTP/2 client sends first, in bytes.
const PREFACE_BYTES: usize = 24;
/// Maximum time for a client to send the preface. hyper itself has no timeout for the preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which TCP sends a keepalive probe on an idle connection.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// Size of the unsent lists of a connection from which further lists are refused, in KiB.
const MAX_UNSENT_KIB: usize = 16 << 10;
/// Delay before the next accept after an error, for example when no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts at most `max` simultaneous connections; further connections are closed immediately. `limit` names this limit
/// in the metrics.
pub fn incoming(listener: TcpListener, limit: &'static str, max: usize) -> impl Stream<Item = io::Result<Connection>> {
    let sockets = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(TCP_KEEPALIVE));
    let limit = Limit::new(limit, max);
    stream::unfold((sockets, limit), |(mut sockets, limit)| async move {
        loop {
            match sockets.next().await? {
                Ok(stream) => {
                    if let Ok(permit) = limit.try_acquire() {
                        return Some((Ok(Connection::new(stream, permit)), (sockets, limit)));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted; the server tries again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// Closes connections on which the client does not send the HTTP/2 preface within 10 seconds. When `stopping` is
/// cancelled, closes connections without a preface immediately.
///
/// With TLS, the 10 seconds start after the handshake.
pub fn speaking<IO>(
    connections: impl Stream<Item = io::Result<IO>>,
    stopping: CancellationToken,
) -> impl Stream<Item = io::Result<Speaking<IO>>> {
    connections.map_ok(move |stream| {
        let preface = Preface {
            missing_bytes: PREFACE_BYTES,
            deadline: Box::pin(tokio::time::sleep(PREFACE_TIMEOUT)),
            stopping: Box::pin(stopping.clone().cancelled_owned()),
        };
        Speaking { stream, preface: Some(Box::new(preface)) }
    })
}

/// A TCP connection. It holds a permit of the connection limit until it is dropped.
pub struct Connection {
    stream: TcpStream,
    peer: Peer,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Cancels `peer.closing` at the end of the connection.
    _end: DropGuard,
    _permit: Permit,
}

impl Connection {
    fn new(stream: TcpStream, permit: Permit) -> Self {
        let peer = Peer::default();
        let closing = Box::pin(peer.closing.clone().cancelled_owned());
        Self { stream, closing, _end: peer.closing.clone().drop_guard(), peer, _permit: permit }
    }

    /// Returns the state that the connection shares with its requests.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Returns `done`, or an error if `done` is pending and the connection must be closed.
    fn unless_closing<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_pending() {
            ready!(self.closing.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        done
    }
}

/// A connection with a timeout for the preface.
pub struct Speaking<IO> {
    stream: IO,
    preface: Option<Box<Preface>>,
}

/// The state that a connection shares with its requests. Each request has this value in its extensions.
#[derive(Debug, Clone, Default)]
pub struct Peer(Arc<PeerState>);

/// The counts of a connection, and the signal to close the connection.
#[derive(Debug, Default)]
pub struct PeerState {
    /// Counts the permits of the arriving requests of the connection.
    pub arriving: Arc<Share>,
    /// Counts the permits of the probes of the connection.
    pub probes: Arc<Share>,
    /// Counts the KiB of the lists that the client has not taken yet.
    pub unsent: Arc<Share>,
    /// The number of parts of lists that the client has taken.
    pub taken_count: AtomicU64,
    /// Closes the connection when this token is cancelled. The token is also cancelled when the connection has ended.
    pub closing: CancellationToken,
}

impl Deref for Peer {
    type Target = PeerState;

    fn deref(&self) -> &PeerState {
        &self.0
    }
}

impl PeerState {
    /// Tells whether the server still builds lists for the client. The server stops if the client does not take them.
    pub fn takes_lists(&self) -> bool {
        self.unsent.is_below(MAX_UNSENT_KIB)
    }
}

impl Peer {
    /// Returns the state of the connection on which a request with these extensions arrived. Returns a new state if the
    /// extensions contain no state.
    pub fn of(extensions: &Extensions) -> Self {
        let peer = extensions.get::<Self>();
        let peer = peer.or_else(|| extensions.get::<TlsConnectInfo<Self>>().map(TlsConnectInfo::get_ref));
        peer.cloned().unwrap_or_default()
    }
}

/// The wait for a preface: the number of missing bytes, and the events that end the wait.
struct Preface {
    missing_bytes: usize,
    deadline: Pin<Box<Sleep>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Preface {
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.stopping.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => self.deadline.as_mut().poll(cx),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<IO: Connected> Connected for Speaking<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> IO::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.unless_closing(cx, read)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_closing(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.unless_closing(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.unless_closing(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Speaking<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read_before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let Some(preface) = &mut self.preface else {
            return read;
        };
        if read.is_pending() {
            ready!(preface.poll_given_up(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        preface.missing_bytes = preface.missing_bytes.saturating_sub(buf.filled().len() - read_before);
        if preface.missing_bytes == 0 {
            self.preface = None;
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Speaking<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::*;

    /// Returns both ends of a connection.
    async fn connected(stopping: &CancellationToken) -> (Speaking<Connection>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = Box::pin(speaking(incoming(listener, "test", 1), stopping.clone()));
        let (server, client) = tokio::join!(connections.next(), TcpStream::connect(address));
        (server.unwrap().unwrap(), client.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_preface_is_closed() {
        let (mut server, mut client) = connected(&CancellationToken::new()).await;
        let started = Instant::now();
        let mut buf = [0; 64];
        client.write_all(b"PRI * ").await.unwrap();
        let mut read = 0;
        let error = loop {
            match server.read(&mut buf).await {
                Ok(bytes) => read += bytes,
                Err(error) => break error,
            }
        };
        assert_eq!((read, error.kind()), (6, io::ErrorKind::TimedOut));
        assert!(started.elapsed() >= PREFACE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_may_be_idle_after_its_preface() {
        let (mut server, mut client) = connected(&CancellationToken::new()).await;
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut buf = [0; PREFACE_BYTES];
        server.read_exact(&mut buf).await.unwrap();
        let silent = tokio::time::timeout(10 * PREFACE_TIMEOUT, server.read(&mut buf)).await;
        assert!(silent.is_err());
    }

    #[tokio::test]
    async fn a_connection_is_closed_on_demand_while_it_reads_or_writes() {
        for is_read in [true, false] {
            let (mut server, _client) = connected(&CancellationToken::new()).await;
            let peer = server.connect_info();
            let waiting = async {
                match is_read {
                    true => server.read(&mut [0; 1]).await.map(drop),
                    // The client reads nothing, so a large write never ends.
                    false => server.write_all(&vec![0; 64 << 20]).await,
                }
            };
            let close = async { peer.closing.cancel() };
            let (ended, ()) = tokio::join!(waiting, close);
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        }
    }

    #[tokio::test]
    async fn a_connection_without_a_preface_is_closed_when_the_server_stops() {
        let stopping = CancellationToken::new();
        let (mut server, _client) = connected(&stopping).await;
        stopping.cancel();
        assert!(server.read(&mut [0; 1]).await.is_err());
    }
}
