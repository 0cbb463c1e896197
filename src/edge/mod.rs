//! The edge: handles connections, TLS, credentials, limits and deadlines before a service handles a request.
//!
//! # A connection
//!
//! [`incoming`] limits the connections, [`tls`] does the handshake, and [`speaking`] closes connections on which the
//! client does not start HTTP/2. [`Transport`] holds the TLS settings and the API keys of all listeners, and reloads
//! their files when they change.
//!
//! [`web`] serves the HTTP listener, which speaks HTTP/1.1. It refuses requests for a host that [`Hosts`] does not
//! allow.
//!
//! # A request
//!
//! The [`Gate`] wraps the services of a listener in tower layers. A request passes the layers from top to bottom. The
//! response passes them from bottom to top:
//!
//! | layer | task |
//! |---|---|
//! | `SetSensitiveRequestHeaders` | hides tokens and API keys in debug output |
//! | `gate/durations.rs` | records the duration, the status code and the span of the call or stream |
//! | `gate/answers.rs` | converts an error or a panic to a status with details |
//! | `gate/shutdown.rs` | refuses calls during shutdown |
//! | `gate/deadlines.rs` | ends the call or the stream at its deadline |
//! | `gate/callers.rs` | requires an API key or a client certificate, if the operator configured API keys |
//! | `gate/permits.rs` | takes a permit, reads the request (`inbox.rs`), and holds a large list (`outbox.rs`) |
//!
//! Requests for health, reflection and unknown paths pass only three layers: `SetSensitiveRequestHeaders`,
//! `gate/answers.rs` and `gate/probes.rs`.
//!
//! # Why the layers are written here
//!
//! `ServiceBuilder`, `layer_fn` and `service_fn` of tower compose the layers. A semaphore of tokio counts the permits.
//! Ready-made layers do not fit:
//!
//! - tower's `ConcurrencyLimit` makes callers wait. With `LoadShed`, this layer refuses callers, but it has one limit
//!   for all methods and no retry delay. Here one unary method may use at most half of the permits, and a refusal has a
//!   retry delay. A call whose request has not arrived holds no permit.
//! - The timeouts of tower and tonic do not apply to the body of a stream, and their errors have no details.
//! - tower-http's `CatchPanic` moves every response body to a new allocation and does not watch the bodies of streams.
//! - tower-http's `RequestBodyLimit` answers with HTTP 413, which gRPC clients report as UNKNOWN.
//! - The ready-made layers for gRPC metrics read the status from the headers only. A stream that fails later is
//!   recorded as OK.
//!
//! For calls, only the innermost layer boxes its future. So the futures of all layers need one allocation per call.

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
mod turns;
pub mod web;

pub use gate::{CallerCheck, Gate};
pub use hosts::Hosts;
pub use limit::{Limit, Permit};
pub use settings::{Limits, TransportSettings, duration_above_zero};
pub use socket::{incoming, speaking};
pub use transport::{PageAccess, Transport};
pub use turns::Turns;
