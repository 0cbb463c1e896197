//! Posts events to a webhook, one CloudEvent per request. Repeats a request until the receiver accepts it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::{
    HeaderValue, Method, Request, StatusCode, Uri,
    header::{CONTENT_TYPE, HOST, USER_AGENT},
};
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{client::Client, lag::Counts, rules, signature::Secrets, trouble::Trouble};
use crate::{clock::Clock, rpc::proto::Event};

/// Maximum number of concerts whose events are posted at the same time.
const MAX_CONCERTS: usize = 16;
/// Time for which requests with one event are repeated.
const RETRY_LIMIT: Duration = Duration::from_secs(3 * 24 * 60 * 60);
const MICROS_PER_SECOND: i64 = 1_000_000;

/// The options of a webhook.
pub struct WebhookOptions {
    /// The secrets that sign the requests.
    pub secrets: Option<Secrets>,
    /// The `source` of the CloudEvents.
    pub source: String,
    /// Allows private addresses, and `http` to them.
    pub allow_private: bool,
}

/// A receiver of webhooks.
pub struct Webhook {
    uri: Uri,
    host: HeaderValue,
    client: Client,
    secrets: Secrets,
    source: String,
    clock: Clock,
}

impl Webhook {
    /// Reads a URL with the scheme `https` or `http`. Does not connect yet.
    pub fn new(to: &str, ca: Option<PathBuf>, options: WebhookOptions, clock: Clock) -> Result<Self, String> {
        let WebhookOptions { secrets, source, allow_private } = options;
        let uri: Uri = to.parse().map_err(|_| "the URL of the webhook cannot be read; write https://HOST/PATH")?;
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        if authority.contains('@') {
            return Err("the URL of the webhook must not contain a user or a password; the signature of a request \
                        proves its sender"
                .to_owned());
        }
        if uri.scheme_str() == Some("http") && !allow_private {
            return Err("http sends the events in plain text; use https, or allow http to private addresses with \
                        --allow-private-addresses"
                .to_owned());
        }
        let secrets = secrets.ok_or(
            "a webhook needs a secret that signs its requests; set BOXOFFICE_FORWARD_SECRET or \
             BOXOFFICE_FORWARD_SECRET_FILE",
        )?;
        let host = HeaderValue::from_str(authority).map_err(|_| "the host of the webhook has invalid characters")?;
        let client = Client::new(&uri, ca.as_deref(), allow_private)?;
        Ok(Self { uri, host, client, secrets, source, clock })
    }

    /// Returns the URL without its query.
    pub fn name(&self) -> String {
        let authority = self.host.to_str().unwrap_or_default();
        format!("{}://{authority}{}", self.uri.scheme_str().unwrap_or_default(), self.uri.path())
    }

    /// Posts an event until the receiver accepts it.
    async fn deliver(&self, event: &Event, counts: &Counts) -> Result<(), Trouble> {
        let body = rules::cloud_event(event, &self.source).map_err(|error| Trouble::passing("JSON", &error))?;
        let (body, started, title) = (Bytes::from(body), Instant::now(), rules::title(event));
        for failures in 1.. {
            let reason = match self.post(event.event_number, body.clone()).await {
                Ok(status) if status.is_success() => break,
                Ok(StatusCode::GONE) => {
                    return Err(Trouble::Final(format!(
                        "the receiver answered {title} with 410: it wants no more events; remove this forwarder, or \
                         correct --to"
                    )));
                }
                Ok(status) if status.is_redirection() => format!("the receiver answered {status}: correct --to"),
                Ok(status) => format!("the receiver answered {status}"),
                Err(Trouble::Passing(reason)) => reason,
                Err(error) => return Err(error),
            };
            counts.failed.increment(1);
            if started.elapsed() > RETRY_LIMIT {
                return Err(Trouble::Final(format!(
                    "{title} was refused for three days: {reason}; repair the receiver and start again, or skip the \
                     event with a new --name and --from {}",
                    event.event_number + 1
                )));
            }
            let delay = rules::backoff(failures, event.event_number);
            tracing::warn!(event = title, reason, failures, ?delay, "a webhook failed; retrying");
            tokio::time::sleep(delay).await;
        }
        Ok(())
    }

    /// Posts a signed request once, and returns the status of the answer. Redirects are not followed.
    async fn post(&self, event_number: i64, body: Bytes) -> Result<StatusCode, Trouble> {
        let timestamp = self.clock.now() / MICROS_PER_SECOND;
        let signature = self.secrets.sign(&event_number.to_string(), timestamp, &body);
        let target = self.uri.path_and_query().map_or("/", |target| target.as_str());
        let request = Request::builder()
            .method(Method::POST)
            .uri(target)
            .header(HOST, &self.host)
            .header(USER_AGENT, concat!("boxoffice/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/cloudevents+json; charset=utf-8")
            .header("webhook-id", event_number)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(Full::new(body))
            .map_err(|error| Trouble::passing("the request is invalid", &error))?;
        self.client.send(request).await
    }
}

/// Posts events, at most 16 concerts at the same time. Posts an event only after the event before it of the same
/// concert was accepted. Sets `reached` to each number up to which all events were accepted.
pub async fn send(webhook: &Webhook, events: &[&Event], reached: &AtomicI64, counts: &Counts) -> Result<(), Trouble> {
    let Some(last) = events.last() else { return Ok(()) };
    let mut of_concert: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events {
        of_concert.entry(&event.concert_code).or_default().push(event);
    }
    let open: Mutex<BTreeSet<i64>> = Mutex::new(events.iter().map(|event| event.event_number).collect());
    let deliver_all = async |events: Vec<&Event>| {
        for event in events {
            webhook.deliver(event, counts).await?;
            counts.sent.increment(1);
            let mut open = open.lock();
            open.remove(&event.event_number);
            let next = open.first().map_or(last.event_number, |next| next - 1);
            reached.store(next, Ordering::Release);
        }
        Ok(())
    };
    stream::iter(of_concert.into_values().map(deliver_all)).buffer_unordered(MAX_CONCERTS).try_collect().await
}
