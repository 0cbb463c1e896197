//! The parts that the tests and the benchmark share.
//!
//! | module | |
//! |---|---|
//! | [`postgres`], [`database`] | a temporary PostgreSQL server, and a fresh database on either engine |
//! | [`server`] | boxoffice as a process or inside this process |
//! | [`process`], [`usage`], [`metrics`] | child processes, and their CPU time, memory and metrics |
//! | [`http`], [`browser`] | requests to the HTTP listener, and a browser that shows the live page |
//! | [`catalogue`], [`wallet`], [`caller`] | the setup of a sale, wallets, and a user with a queue token |
//! | [`history`] | rows of past sales, as years of sales would leave them |
//! | [`invariants`] | checks that must always hold in the database |
//! | [`net`], [`wait`] | addresses and connections, and a wait for a condition |
//!
//! Helpers that the benchmark uses return a [`Failure`]. Helpers that only tests use panic.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod browser;
pub mod caller;
pub mod catalogue;
pub mod database;
pub mod history;
pub mod http;
pub mod invariants;
pub mod metrics;
pub mod net;
pub mod postgres;
pub mod process;
pub mod server;
pub mod usage;
pub mod wait;
pub mod wallet;

pub use browser::Browser;
pub use caller::Caller;
pub use database::{Engine, FreshDatabase};
pub use postgres::Postgres;
pub use server::ServerProcess;

/// An error that describes in a sentence why an action failed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The price of every seat, in won.
pub const PRICE: i64 = 10_000;

/// Returns the reason in a status; `None` for a status of the client's own transport.
pub fn reason(status: &tonic::Status) -> Option<String> {
    tonic_types::StatusExt::get_details_error_info(status).map(|info| info.reason)
}
