//! Starts a temporary NATS server with JetStream, and reads its stream back.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use async_nats::jetstream::{
    self,
    consumer::{PullConsumer, pull},
    stream::Stream,
};
use futures::StreamExt;
use tokio::net::TcpStream;

use crate::{
    Failure,
    postgres::free_port,
    process::{self, Guarded, ScratchDir},
    server,
};

/// Maximum time until the server accepts connections, and maximum time to read the stream.
const LIMIT: Duration = Duration::from_secs(60);

/// A NATS server. It is stopped and its files are removed when this value is dropped, or when this process ends.
pub struct Nats {
    port: u16,
    dir: ScratchDir,
    process: Option<Guarded>,
}

/// A message of the stream `BOXOFFICE`.
#[derive(Debug)]
pub struct Message {
    /// The header `Nats-Msg-Id`, which is the number of an event.
    pub number: i64,
    /// The subject.
    pub subject: String,
    /// The event.
    pub event: serde_json::Value,
}

impl Nats {
    /// Starts a server on a free port.
    pub async fn start() -> Result<Self, Failure> {
        let mut nats = Self { port: free_port()?, dir: ScratchDir::new()?, process: None };
        nats.start_again().await?;
        Ok(nats)
    }

    /// Returns the URL of the server.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills the server with SIGKILL.
    pub fn kill(&mut self) -> Result<(), Failure> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Starts the server again, on the same port and with the same files.
    pub async fn start_again(&mut self) -> Result<(), Failure> {
        let program =
            process::find_program("nats-server").ok_or("nats-server is missing: install it with `make nats`")?;
        let mut command = server::command(program);
        command.args(["-js", "-a", "127.0.0.1", "-p", &self.port.to_string(), "-sd"]).arg(self.dir.path());
        self.process = Some(Guarded::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?);
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            if started.elapsed() > LIMIT {
                return Err(format!("nats-server accepts no connection after {LIMIT:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Changes the duplicate window of the stream, and waits until the window has passed.
    pub async fn forget_duplicates(&self) -> Result<(), Failure> {
        let window = Duration::from_millis(200);
        let context = jetstream::new(async_nats::connect(self.url()).await?);
        let mut config = context.get_stream("BOXOFFICE").await?.cached_info().config.clone();
        config.duplicate_window = window;
        context.update_stream(config).await?;
        tokio::time::sleep(3 * window).await;
        Ok(())
    }

    /// Deletes the last `count` messages of the stream, as if the server had lost them.
    pub async fn lose(&self, count: u64) -> Result<(), Failure> {
        let stream = self.stream().await?;
        let last = stream.get_info().await?.state.last_sequence;
        for sequence in last - count + 1..=last {
            stream.delete_message(sequence).await?;
        }
        Ok(())
    }

    /// Returns the number of messages in the stream. Returns 0 if there is no stream.
    pub async fn count(&self) -> Result<u64, Failure> {
        Ok(match self.stream().await {
            Ok(stream) => stream.get_info().await?.state.messages,
            Err(_) => 0,
        })
    }

    /// Returns all messages of the stream, in the order of the stream.
    pub async fn messages(&self) -> Result<Vec<Message>, Failure> {
        let stream = self.stream().await?;
        let count = stream.get_info().await?.state.messages;
        let config = pull::Config { ack_policy: jetstream::consumer::AckPolicy::None, ..pull::Config::default() };
        let consumer: PullConsumer = stream.create_consumer(config).await?;
        let mut read = Vec::new();
        let started = Instant::now();
        while (read.len() as u64) < count {
            let mut page = consumer.fetch().max_messages(1_000).messages().await?;
            while let Some(message) = page.next().await {
                let message = message.map_err(|error| error.to_string())?;
                let id = message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Id"));
                let number = id.and_then(|id| id.as_str().parse().ok()).ok_or("a message has no number")?;
                let event = serde_json::from_slice(&message.payload)?;
                read.push(Message { number, subject: message.subject.to_string(), event });
            }
            if started.elapsed() > LIMIT {
                return Err(format!("only {} of {count} messages were read within {LIMIT:?}", read.len()).into());
            }
        }
        Ok(read)
    }

    async fn stream(&self) -> Result<Stream, Failure> {
        Ok(jetstream::new(async_nats::connect(self.url()).await?).get_stream("BOXOFFICE").await?)
    }
}
