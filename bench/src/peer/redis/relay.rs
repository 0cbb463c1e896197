//! A bare gRPC service in front of Redis: it forwards each request to Redis, and answers when Redis has answered. It
//! checks no tokens and no fields, so it does less than a real service would.

use std::sync::atomic::{AtomicUsize, Ordering};

use prost::bytes::Bytes;
use testkit::Failure;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
};
use tonic::{Request, Response, Status};

use super::resp::{Replies, Reply, write};
use crate::echo::proto::{EchoRequest, EchoResponse, echo_service_server::EchoService};

/// Number of connections to Redis, which all calls share.
const CONNECTIONS: usize = 8;
/// Maximum number of commands that are sent to Redis together.
const WIDTH: usize = 512;
/// Size of the payload of a response, in bytes. It is about the mean size of the responses of boxoffice.
pub const REPLY_BYTES: usize = 200;

/// A command of Redis, and the channel for its answer.
type Command = (Bytes, oneshot::Sender<Reply>);

/// Forwards the payload of each request to Redis. The payload is an encoded command.
pub struct Relay {
    connections: Vec<mpsc::UnboundedSender<Command>>,
    next: AtomicUsize,
    reply: Bytes,
}

impl Relay {
    /// Connects to Redis at a port of this machine.
    pub async fn open(port: u16) -> Result<Self, Failure> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            let (commands, queue) = mpsc::unbounded_channel();
            tokio::spawn(forward(stream, queue));
            connections.push(commands);
        }
        Ok(Self { connections, next: AtomicUsize::new(0), reply: Bytes::from(vec![7; REPLY_BYTES]) })
    }
}

#[tonic::async_trait]
impl EchoService for Relay {
    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let (reply, answer) = oneshot::channel();
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        let lost = || Status::unavailable("Redis closed the connection");
        self.connections[turn].send((request.into_inner().payload, reply)).map_err(|_| lost())?;
        match answer.await.map_err(|_| lost())? {
            Reply::Int(_) => Ok(Response::new(EchoResponse { payload: self.reply.clone() })),
            other => Err(Status::failed_precondition(format!("{other:?}"))),
        }
    }
}

/// Sends the queued commands over one connection, and gives each answer to its caller. Ends when the connection or the
/// queue ends.
async fn forward(stream: TcpStream, mut queue: mpsc::UnboundedReceiver<Command>) {
    let (reader, mut writer) = stream.into_split();
    let (sent, mut waiting) = mpsc::unbounded_channel::<oneshot::Sender<Reply>>();
    tokio::spawn(async move {
        let mut replies = Replies::new(reader);
        while let Ok(arrived) = replies.next().await {
            for reply in arrived {
                let Some(caller) = waiting.recv().await else { return };
                // If the caller has cancelled the call, its answer is dropped.
                let _ = caller.send(reply);
            }
        }
    });
    let (mut commands, mut request) = (Vec::with_capacity(WIDTH), Vec::new());
    while queue.recv_many(&mut commands, WIDTH).await > 0 {
        for (command, caller) in commands.drain(..) {
            request.extend_from_slice(&command);
            if sent.send(caller).is_err() {
                return;
            }
        }
        if write(&mut writer, &mut request).await.is_err() {
            return;
        }
    }
}
