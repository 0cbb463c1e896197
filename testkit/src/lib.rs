//! The parts that the tests and the benchmark share.
//!
//! | module | |
//! |---|---|
//! | [`postgres`], [`database`] | a throwaway PostgreSQL server; a fresh database on either engine |
//! | [`server`] | boxoffice as a process or inside this process |
//! | [`process`], [`usage`], [`metrics`] | child processes; the CPU time and memory they use; the metrics they serve |
//! | [`http`], [`browser`] | requests to the HTTP listener; a browser that shows the live page |
//! | [`catalogue`], [`wallet`], [`caller`] | setting up a sale; wallets; a user with a queue token |
//! | [`history`] | rows of the past, as years of sales leave them |
//! | [`invariants`] | what must hold in the database at any time |
//! | [`net`], [`wait`] | addresses and connections; waiting for something to happen |
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

/// Says in a sentence why something could not be done.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The price of every seat, in won.
pub const PRICE: i64 = 10_000;

/// Returns the reason in a status. A status of the client's own transport has none.
pub fn reason(status: &tonic::Status) -> Option<String> {
    tonic_types::StatusExt::get_details_error_info(status).map(|info| info.reason)
}
