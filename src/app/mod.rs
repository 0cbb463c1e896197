//! The program: the command line, its commands, and the server that `serve` starts.
//!
//! Each file of this module has one task:
//!
//! | file | task |
//! |---|---|
//! | [`cli`] | defines the flags and environment variables |
//! | [`commands`] | runs the commands |
//! | [`demo`] | fills an empty database and writes the tour for `serve --demo` |
//! | [`crowd`] | simulates the visitors of the demo |
//! | [`telemetry`] | starts the logs and the metrics, and renders the metrics |
//! | [`server`] | starts and stops a server |
//! | `core.rs` | holds the state that the services, the listeners and the passes share |
//! | `routes.rs` | creates the services of both gRPC listeners |
//! | `listener.rs` | serves these services with HTTP/2, TLS and the gate |
//! | `http.rs` | serves probes, metrics and the live page over HTTP/1.1 |
//! | `background.rs` | prepares the database, then runs the passes |
//! | `readiness.rs` | tracks whether the server is ready |
//! | `apply/` | declares the venues and concerts of a file on a running server |
//! | `check/` | checks the invariants of the data in a database |
//! | `backup.rs` | copies a SQLite database while servers use it |
//! | `watch/` | shows a sale in the terminal |
//! | `draw.rs` | verifies the draw of a concert |
//! | `events.rs` | prints the feed of events |
//! | `forward.rs` | sends the feed of events on to NATS or to a webhook |
//! | `client.rs` | connects `apply`, `watch`, `draw`, `events` and `health` to a server |
//! | `traces.rs` | sends traces to a collector |
//! | `failure.rs` | defines the errors of the commands |

mod apply;
mod background;
mod backup;
mod check;
pub mod cli;
mod client;
pub mod commands;
mod core;
pub mod crowd;
pub mod demo;
mod draw;
mod events;
mod failure;
mod forward;
mod http;
mod listener;
mod readiness;
mod routes;
pub mod server;
pub mod telemetry;
mod traces;
mod watch;
