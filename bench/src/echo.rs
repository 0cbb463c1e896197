//! The echo: a bare tonic server with one unary call. It uses the same codec, the same HTTP/2 window and the same
//! maximum number of streams as boxoffice.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use prost::bytes::Bytes;
use testkit::{Failure, process::Guarded};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, server::TcpIncoming},
};

use crate::load::{Call, Miss};

#[allow(missing_docs, clippy::all, reason = "generated; documented in the proto")]
pub mod proto {
    tonic::include_proto!("boxoffice.bench");
}
use proto::{
    EchoRequest, EchoResponse,
    echo_service_client::EchoServiceClient,
    echo_service_server::{EchoService, EchoServiceServer},
};

// These three values are the same as in `src/app/listener.rs`. The benchmark would measure a difference as a cost of
// boxoffice.
const MAX_STREAMS: u32 = 20_000;
const CONNECTION_WINDOW: u32 = 8 << 20;
const MAX_RESETS: usize = 1_024;
/// Maximum size of the payload that the echo returns, in bytes. No operation that is compared with the echo has a
/// larger response.
const MAX_REPLY: usize = 1 << 20;

/// The service of the echo. It holds the longest payload of a response.
pub struct Echo(Bytes);

impl Default for Echo {
    fn default() -> Self {
        Self(Bytes::from(vec![7; MAX_REPLY]))
    }
}

#[tonic::async_trait]
impl EchoService for Echo {
    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let size = (request.get_ref().reply_size as usize).min(self.0.len());
        Ok(Response::new(EchoResponse { payload: self.0.slice(..size) }))
    }
}

/// Serves `service` on `listen` until standard input ends. Prints the address to standard output.
pub async fn serve(listen: SocketAddr, service: impl EchoService) -> Result<(), Failure> {
    let listener = TcpListener::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    println!("{}", listener.local_addr()?);
    // A read of standard input cannot be cancelled, so it runs in a separate thread.
    let (tell, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(tell);
    });
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(Duration::from_secs(60)));
    let serving = tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_local_error_reset_streams(Some(MAX_RESETS))
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(EchoServiceServer::new(service))
        .serve_with_incoming(incoming);
    tokio::select! {
        served = serving => Ok(served?),
        _ = ended.recv() => Ok(()),
    }
}

/// The echo in a separate process, which ends when this value is dropped.
pub struct EchoProcess {
    /// The address of the echo.
    pub address: SocketAddr,
    _process: Guarded,
}

impl EchoProcess {
    /// Starts this program with the command `echo` and `flags`, and reads the address that it prints.
    pub fn start(flags: &[&str]) -> Result<Self, Failure> {
        let program = std::env::current_exe()?;
        let mut process =
            Guarded::spawn(Command::new(program).arg("echo").args(flags).stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let stdout = process.child().stdout.take().ok_or("the echo has no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse().map_err(|_| "the echo did not print its address")?;
        Ok(Self { address, _process: process })
    }
}

/// Sends `payload` to the echo, or to another service with the same interface. The payload of the response must have
/// `size` bytes.
pub async fn ask(channel: Channel, payload: Bytes, size: usize) -> Result<(), Miss> {
    answered(channel, Request::new(EchoRequest { payload, reply_size: size as u32 }), size).await
}

async fn answered(channel: Channel, request: Request<EchoRequest>, size: usize) -> Result<(), Miss> {
    let answer = EchoServiceClient::new(channel).echo(request).await?;
    if answer.get_ref().payload.len() == size { Ok(()) } else { Err(Miss::wrong("the payload has another size")) }
}

/// Returns a call of the echo. The sizes are in bytes: of the `authorization` metadata (0 means none), of the payload
/// of the request, and of the payload of the response.
pub fn call(token_size: usize, request_size: usize, reply_size: usize) -> Call {
    let payload = Bytes::from(vec![7; request_size]);
    let bearer: Option<MetadataValue<Ascii>> = "x".repeat(token_size).parse().ok().filter(|_| token_size > 0);
    let size = reply_size.min(MAX_REPLY);
    Call::new(move |channel: Channel, _| {
        let mut request = Request::new(EchoRequest { payload: payload.clone(), reply_size: size as u32 });
        if let Some(bearer) = &bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        answered(channel, request, size)
    })
}
