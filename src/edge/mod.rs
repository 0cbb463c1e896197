//! The edge: what every connection and every request passes before a service sees it.
//!
//! # A connection
//!
//! [`incoming`] limits the connections, [`tls`] does the handshake, and [`speaking`] closes connections that do not
//! begin to speak HTTP/2. [`Transport`] holds the TLS settings and the API keys of both listeners; their files are read
//! again when they change.
//!
//! [`web`] serves the HTTP listener, which speaks HTTP/1.1. It refuses requests that name a host outside of [`Hosts`].
//!
//! # A request
//!
//! The [`Gate`] wraps the services of a listener in tower layers. A call passes them from top to bottom, its answer
//! from bottom to top:
//!
//! | layer | task |
//! |---|---|
//! | `SetSensitiveRequestHeaders` | keeps tokens and API keys out of logs |
//! | `gate/durations.rs` | records how long the call took, to the last message of a stream |
//! | `gate/answers.rs` | turns an error or a panic into a status with details |
//! | `gate/shutdown.rs` | refuses calls once the server shuts down |
//! | `gate/deadlines.rs` | ends the call or the stream at its deadline |
//! | `gate/callers.rs` | asks for a client certificate or an API key, where the operator wants one |
//! | `gate/permits.rs` | takes a permit of the limit on calls or streams; reads the request whole (`gate/inbox.rs`) |
//!
//! Health, reflection and unknown paths pass a short stack of their own: `gate/answers.rs` and `gate/probes.rs`.
//!
//! # Why the layers are written here
//!
//! `ServiceBuilder`, `layer_fn` and `service_fn` of tower compose them; tokio's semaphore counts the permits.
//! Ready-made layers do not fit:
//!
//! - tower's `ConcurrencyLimit` makes callers wait and its `LoadShed` knows one limit for all. Here a refusal is
//!   immediate and says when to retry, no method takes more than half, and a call without its request gives its permit
//!   back.
//! - tower's and tonic's timeouts know one fixed time, end at the headers of a stream, and answer without details.
//! - tower-http's `CatchPanic` moves every response body to a new allocation and does not watch the bodies of streams.
//! - tower-http's `RequestBodyLimit` answers with HTTP 413, which gRPC clients see as UNKNOWN.
//! - The ready-made layers for gRPC metrics read the status from the headers, where a failed stream still looks well.
//!
//! The layers do not box their futures, except for the innermost one: a call costs the gate one allocation.

pub mod credential;
mod gate;
mod hosts;
mod limit;
mod methods;
mod reload;
mod settings;
mod socket;
mod status;
pub mod tls;
mod transport;
pub mod web;

pub use gate::{CallerCheck, Gate};
pub use hosts::Hosts;
pub use limit::{Limit, Permit};
pub use settings::{Limits, TransportSettings, duration_above_zero};
pub use socket::{incoming, speaking};
pub use transport::{PageAccess, Transport};
