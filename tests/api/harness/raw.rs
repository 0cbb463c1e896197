//! An HTTP/2 client without gRPC, for requests that no gRPC client would send.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, request::Builder};
use tokio::net::TcpStream;
use tonic::{Code, Status};

/// An HTTP/2 connection to a server. Clones share the connection.
#[derive(Clone)]
pub struct Raw(SendRequest<Bytes>);

/// The status of a call, and the DATA frames that were received.
pub struct Answer {
    pub status: Status,
    pub messages: Vec<Bytes>,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let (sender, connection) = h2::client::handshake(stream).await.expect("a handshake");
        tokio::spawn(connection);
        Self(sender)
    }

    /// Sends the headers of a call. The test sends the rest.
    pub async fn open(&self, request: Request<()>) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.0.clone().ready().await?.send_request(request, false)
    }

    /// Makes a call with these bytes as its body.
    pub async fn call(&self, request: Request<()>, body: Bytes) -> Result<Answer, h2::Error> {
        let (response, mut sender) = self.open(request).await?;
        // The sending fails if the server has already answered. Then only the answer matters.
        let _ = sender.send_data(body, true);
        read(response, usize::MAX).await
    }

    /// Makes a call with these bytes as its body, and stops after the first DATA frame of the answer. The status is
    /// then OK.
    pub async fn first(&self, request: Request<()>, body: Bytes) -> Result<Answer, h2::Error> {
        let (response, mut sender) = self.open(request).await?;
        let _ = sender.send_data(body, true);
        read(response, 1).await
    }
}

/// Returns the builder of a gRPC request to `path`. The test may add headers.
pub fn request(path: &str) -> Builder {
    let uri = format!("http://127.0.0.1{path}");
    Request::post(uri).header("content-type", "application/grpc").header("te", "trailers")
}

/// Returns a message with the header of a gRPC frame.
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.extend_from_slice(message);
    framed.freeze()
}

async fn read(response: ResponseFuture, most: usize) -> Result<Answer, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    let mut messages = Vec::new();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return Ok(Answer { status, messages });
    }
    while let Some(data) = data(&mut body).await? {
        messages.push(data);
        if messages.len() == most {
            return Ok(Answer { status: Status::ok(""), messages });
        }
    }
    let trailers: Option<HeaderMap> = body.trailers().await?;
    let status = trailers.and_then(|trailers| Status::from_header_map(&trailers));
    let status = status.unwrap_or_else(|| Status::new(Code::Unknown, format!("HTTP {} without a status", head.status)));
    Ok(Answer { status, messages })
}

async fn data(body: &mut RecvStream) -> Result<Option<Bytes>, h2::Error> {
    let Some(data) = body.data().await else { return Ok(None) };
    let data = data?;
    body.flow_control().release_capacity(data.len())?;
    Ok(Some(data))
}
