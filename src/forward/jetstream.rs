//! Stores events in a stream of NATS JetStream, each exactly once.
//!
//! The number of the last stored event is in the stream itself, in the header `Nats-Msg-Id`. A process reads this
//! number before its first message. Each message names the sequence number of the message before it, and the server
//! refuses a message that does not follow this one. So neither a repeated message nor a message of a process that has
//! lost its lease is stored. The deduplication by `Nats-Msg-Id` alone would not be enough, because it ends with the
//! duplicate window of the stream.

use std::{
    future::IntoFuture,
    path::PathBuf,
    str::FromStr,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use async_nats::{
    ConnectOptions, ServerAddr,
    jetstream::{
        self, Context,
        message::PublishMessage,
        stream::{Config, LastRawMessageErrorKind, State, Stream},
    },
};
use futures::{StreamExt, stream::FuturesOrdered};

use super::{lag::Counts, rules, trouble::Trouble};
use crate::{events::Bounds, rpc::proto::Event};

/// The name of the stream.
const STREAM: &str = "BOXOFFICE";
/// The subjects of the stream.
const SUBJECTS: &str = "boxoffice.>";
/// Time for which a new stream recognizes repeated messages by their `Nats-Msg-Id`. It is the default of NATS.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Maximum number of messages that wait for their acknowledgement.
const MAX_IN_FLIGHT: usize = 256;
/// Maximum time to establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A stream of NATS JetStream.
pub struct JetStream {
    address: ServerAddr,
    ca: Option<PathBuf>,
    /// The connection, which reconnects automatically. `None` before the first connection.
    context: Option<Context>,
    /// The sequence number of the last message in the stream.
    sequence: u64,
}

impl JetStream {
    /// Reads a URL of the form `nats://USER:PASSWORD@HOST:PORT` or `tls://...`. Does not connect yet.
    pub fn new(to: &str, ca: Option<PathBuf>) -> Result<Self, String> {
        // The error may quote the URL, and the URL may contain a password.
        let address = ServerAddr::from_str(to)
            .map_err(|_| "the URL of NATS cannot be read; write nats://HOST:4222 or tls://HOST:4222".to_owned())?;
        Ok(Self { address, ca, context: None, sequence: 0 })
    }

    /// Returns the URL without a password.
    pub fn name(&self) -> String {
        format!("{}://{}:{}", self.address.scheme(), self.address.host(), self.address.port())
    }

    /// Creates the stream if it is missing, and reads its end. Returns the number up to which the stream has all
    /// events.
    pub async fn resume(&mut self, cursor: i64, bounds: Bounds) -> Result<i64, Trouble> {
        let context = self.connected().await?;
        let config = Config {
            name: STREAM.to_owned(),
            subjects: vec![SUBJECTS.to_owned()],
            duplicate_window: DUPLICATE_WINDOW,
            ..Config::default()
        };
        let stream = context.get_or_create_stream(config).await;
        let stream = stream.map_err(|error| Trouble::passing("the stream cannot be read or created", &error))?;
        // The sequence number is read before the message. If another process stores a message between both reads, the
        // server refuses the first message of this process.
        let state =
            stream.get_info().await.map_err(|error| Trouble::passing("the stream cannot be read", &error))?.state;
        self.sequence = state.last_sequence;
        let stored = last_number(&stream, &state).await?;
        let resumed = rules::resume(cursor, stored, bounds);
        if resumed < cursor {
            tracing::warn!(cursor, resumed, "the stream has lost events; sending the events again");
        }
        Ok(resumed)
    }

    /// Publishes events in the order of their numbers. Sets `reached` after each acknowledgement.
    pub async fn send(&mut self, events: &[&Event], reached: &AtomicI64, counts: &Counts) -> Result<(), Trouble> {
        let context = self.connected().await?;
        let mut acks = FuturesOrdered::new();
        let mut events = events.iter();
        loop {
            while acks.len() < MAX_IN_FLIGHT
                && let Some(event) = events.next()
            {
                let payload = serde_json::to_vec(event).map_err(|error| Trouble::passing("JSON", &error))?;
                let message = PublishMessage::build()
                    .payload(payload.into())
                    .message_id(event.event_number.to_string())
                    .expected_stream(STREAM)
                    .expected_last_sequence(self.sequence);
                let ack = context.send_publish(rules::subject(event), message).await;
                let ack = ack.map_err(|error| refused(event, &error))?.into_future();
                self.sequence += 1;
                let sequence = self.sequence;
                acks.push_back(async move { (*event, sequence, ack.await) });
            }
            let Some((event, sequence, ack)) = acks.next().await else { return Ok(()) };
            let stored = ack.map_err(|error| refused(event, &error))?.sequence;
            if stored != sequence {
                let title = rules::title(event);
                return Err(Trouble::Passing(format!("{title} is message {stored} of the stream, not {sequence}")));
            }
            reached.store(event.event_number, Ordering::Release);
            counts.sent.increment(1);
        }
    }

    async fn connected(&mut self) -> Result<Context, Trouble> {
        if let Some(context) = &self.context {
            return Ok(context.clone());
        }
        let mut options = ConnectOptions::new().name("boxoffice forward").connection_timeout(CONNECT_TIMEOUT);
        if let Some(ca) = &self.ca {
            options = options.add_root_certificates(ca.clone());
        }
        let client = options.connect(self.address.clone()).await;
        let client = client.map_err(|error| Trouble::passing("NATS cannot be reached", &error))?;
        Ok(self.context.insert(jetstream::new(client)).clone())
    }
}

/// Returns the number of the last event in a stream. Returns `None` if the stream is empty.
async fn last_number(stream: &Stream, state: &State) -> Result<Option<i64>, Trouble> {
    if state.messages == 0 {
        return Ok(None);
    }
    // The last messages may have been deleted.
    for sequence in (state.first_sequence..=state.last_sequence).rev() {
        match stream.get_raw_message(sequence).await {
            Ok(message) => {
                let number = message.headers.get("Nats-Msg-Id").and_then(|id| id.as_str().parse().ok());
                return number.map(Some).ok_or_else(|| {
                    Trouble::Final(format!(
                        "message {sequence} at the end of the stream {STREAM} is not an event of boxoffice; let only \
                         boxoffice publish to {SUBJECTS}, and delete the other messages"
                    ))
                });
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {}
            Err(error) => return Err(Trouble::passing("the last message of the stream cannot be read", &error)),
        }
    }
    Ok(None)
}

fn refused(event: &Event, error: &(dyn std::error::Error + 'static)) -> Trouble {
    Trouble::passing(&format!("{} is not stored", rules::title(event)), error)
}
