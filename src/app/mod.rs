//! The program: the command line, its commands, and the server that `serve` starts.
//!
//! Each file of this module has one task:
//!
//! | file | task |
//! |---|---|
//! | [`server`] | starts and stops a server |
//! | `core.rs` | holds the parts that the others share |
//! | `routes.rs` | creates the services of both listeners |
//! | `listener.rs` | serves them with HTTP/2, TLS and the gate |
//! | `http.rs` | serves probes, metrics and the live page over HTTP/1.1 |
//! | `background.rs` | prepares the database, then runs the passes |
//! | `readiness.rs` | tracks whether the server is ready |
//! | [`telemetry`] | starts logs and metrics |
//! | `traces.rs` | sends traces to a collector |

mod background;
pub mod cli;
pub mod commands;
mod core;
pub mod crowd;
pub mod demo;
mod http;
mod listener;
mod readiness;
mod routes;
pub mod server;
pub mod telemetry;
mod traces;
