//! The kinds of sinks.

use std::{path::PathBuf, sync::atomic::AtomicI64};

use super::{
    jetstream::JetStream,
    lag::Counts,
    trouble::Trouble,
    webhook::{self, Webhook, WebhookOptions},
};
use crate::{clock::Clock, events::Bounds, rpc::proto::Event};

/// The receiver of the events.
pub enum Sink {
    /// A stream of NATS JetStream.
    JetStream(Box<JetStream>),
    /// A webhook.
    Webhook(Box<Webhook>),
}

impl Sink {
    /// Reads a URL with the scheme `nats`, `tls`, `https` or `http`. Does not connect yet. `ca` is the PEM file of the
    /// CA that signed the certificate of the sink; by default, the public CAs are trusted. Fails with a message for the
    /// operator.
    pub fn new(to: &str, ca: Option<PathBuf>, options: WebhookOptions, clock: Clock) -> Result<Self, String> {
        let scheme = to.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("nats" | "tls") => Ok(Self::JetStream(Box::new(JetStream::new(to, ca)?))),
            Some("https" | "http") => Ok(Self::Webhook(Box::new(Webhook::new(to, ca, options, clock)?))),
            _ => Err("--to is not the URL of a sink; write nats://HOST:4222 or https://HOST/PATH".to_owned()),
        }
    }

    /// Returns the default name of the sink: its URL without a password and without a query.
    pub fn default_name(&self) -> String {
        match self {
            Self::JetStream(stream) => stream.name(),
            Self::Webhook(webhook) => webhook.name(),
        }
    }

    /// Returns the number up to which the sink has all events. `cursor` is the stored cursor, and `bounds` are the
    /// stored events.
    pub async fn resume(&mut self, cursor: i64, bounds: Bounds) -> Result<i64, Trouble> {
        match self {
            Self::JetStream(stream) => stream.resume(cursor, bounds).await,
            Self::Webhook(_) => Ok(cursor),
        }
    }

    /// Sends events, which must be in the order of their numbers. Sets `reached` to each number up to which all events
    /// have reached the sink.
    pub async fn send(&mut self, events: &[&Event], reached: &AtomicI64, counts: &Counts) -> Result<(), Trouble> {
        match self {
            Self::JetStream(stream) => stream.send(events, reached, counts).await,
            Self::Webhook(webhook) => webhook::send(webhook, events, reached, counts).await,
        }
    }
}
