//! The parts that the tests and the benchmark share.
//!
//! | module | content |
//! |---|---|
//! | [`postgres`], [`database`] | a PostgreSQL server, and empty databases on SQLite and PostgreSQL |
//! | [`patroni`], [`pgbouncer`] | a cluster of two PostgreSQL servers, and a PgBouncer in front of a server |
//! | [`server`] | boxoffice as a child process, or inside this process |
//! | [`nats`], [`receiver`] | the sinks of `boxoffice forward`: a NATS server, and a receiver of webhooks |
//! | [`process`], [`logged`] | child processes, and child processes whose log is read |
//! | [`usage`], [`metrics`] | the use of the machine by a process, and the metrics of a server |
//! | [`http`], [`browser`] | requests to the HTTP listener, and a browser for the live page |
//! | [`catalogue`], [`wallet`], [`caller`] | calls that set up a sale, calls for wallets, and the calls of a user |
//! | [`history`] | rows of past sales and of long queues, written with SQL |
//! | [`invariants`] | checks that the rows of a database obey the rules of the service |
//! | [`feed`] | compares the rows of a database with what the feed of events tells |
//! | [`net`], [`wait`] | free addresses, connections, and a wait for a condition |
//!
//! A helper that fails returns a [`Failure`] or the status of a call. Some helpers for tests panic instead.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod books;
pub mod browser;
pub mod caller;
pub mod catalogue;
pub mod database;
pub mod feed;
pub mod history;
pub mod http;
pub mod invariants;
pub mod logged;
pub mod metrics;
pub mod nats;
pub mod net;
pub mod patroni;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
mod rebuild;
pub mod receiver;
pub mod server;
pub mod usage;
pub mod wait;
pub mod wallet;

pub use browser::Browser;
pub use caller::Caller;
pub use database::{Engine, FreshDatabase};
pub use nats::Nats;
pub use pgbouncer::PgBouncer;
pub use postgres::Postgres;
pub use receiver::Receiver;
pub use server::ServerProcess;

/// An error of any type. Its text says why an action failed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The price of each seat that this crate puts on sale, in won.
pub const PRICE: i64 = 10_000;

/// Returns the reason in the ErrorInfo of a status. Returns `None` if the status has no ErrorInfo, for example because
/// the client's transport made it.
pub fn reason(status: &tonic::Status) -> Option<String> {
    tonic_types::StatusExt::get_details_error_info(status).map(|info| info.reason)
}
