//! Sends the feed of events on to a sink: to NATS JetStream or to a webhook.
//!
//! Any number of processes may forward to the same sink. The lease in the row of the sink lets one process send. If
//! this process ends, another process takes over after the end of the lease. The row also has the cursor: the number up
//! to which all events have reached the sink. A sink receives each event at least once. It receives the events of a
//! concert in the order of their numbers.
//!
//! | file | task |
//! |---|---|
//! | `forwarder.rs` | waits for the lease, reads the next events and gives them to the sink |
//! | `lease.rs` | takes and renews the lease, and stores the cursor |
//! | `sink.rs` | the kinds of sinks |
//! | `jetstream.rs` | stores events in a stream of NATS |
//! | `webhook.rs` | posts events, and repeats requests that fail |
//! | `client.rs` | connects to a receiver of webhooks, but not to forbidden addresses |
//! | `signature.rs` | signs requests as Standard Webhooks specifies |
//! | `rules.rs` | subjects, CloudEvents, delays, and the addresses that are allowed |
//! | `lag.rs` | the metrics |
//! | `trouble.rs` | the errors |
//! | `store.rs` | the statements on the row of the sink |

mod client;
mod forwarder;
mod jetstream;
mod lag;
mod lease;
mod rules;
mod signature;
mod sink;
pub mod store;
mod trouble;
mod webhook;

pub use forwarder::Forwarder;
pub use lag::{Lag, describe_metrics};
pub use rules::Start;
pub use signature::Secrets;
pub use sink::Sink;
pub use webhook::WebhookOptions;
