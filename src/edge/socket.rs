//! Accepts connections and limits their number. Closes connections on which the client does not start HTTP/2.

use std::{
    io,
    pin::Pin,
    sync::Arc,
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
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpIncoming, TlsConnectInfo};

use super::limit::{Limit, Permit, Share};

/// Length of the preface that every HTTP/2 client sends first, in bytes.
const PREFACE_BYTES: usize = 24;
/// Maximum time for a client to send the preface. hyper itself has no timeout for the preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which TCP sends a keepalive probe on an idle connection.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
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
                        let connection = Connection { stream, peer: Peer::default(), _permit: permit };
                        return Some((Ok(connection), (sockets, limit)));
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
    _permit: Permit,
}

/// A connection with a timeout for the preface.
pub struct Speaking<IO> {
    stream: IO,
    preface: Option<Box<Preface>>,
}

/// Counts the permits that the requests of one connection hold. Each request has this value in its extensions.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Counts the permits of the arriving requests of the connection.
    pub arriving: Arc<Share>,
    /// Counts the permits of the probes of the connection.
    pub probes: Arc<Share>,
}

impl Peer {
    /// Returns the permit counts of the connection on which a request with these extensions arrived. Returns new counts
    /// if the extensions contain no counts.
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
        Pin::new(&mut self.stream).poll_read(cx, buf)
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

/// Implements `AsyncWrite` with the inner stream.
macro_rules! write_through {
    ($connection:ty $(, $io:ident)?) => {
        impl$(<$io: AsyncWrite + Unpin>)? AsyncWrite for $connection {
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
    };
}

write_through!(Connection);
write_through!(Speaking<IO>, IO);

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
    async fn a_connection_without_a_preface_is_closed_when_the_server_stops() {
        let stopping = CancellationToken::new();
        let (mut server, _client) = connected(&stopping).await;
        stopping.cancel();
        assert!(server.read(&mut [0; 1]).await.is_err());
    }
}
