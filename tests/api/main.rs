//! The API, called over gRPC against the real server, on SQLite and on PostgreSQL.

mod harness;

mod admin;
mod concert;
mod contention;
mod error_contract;
mod extension;
mod no_shows;
mod payment;
mod queue;
mod refund;
mod replicas;
mod reservation;
mod running;
mod simulation;
mod tidy;
mod transport;
mod wallet;
mod watching;
