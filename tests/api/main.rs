//! The API, called over gRPC against the real server, on SQLite and on PostgreSQL.

mod harness;

mod admin;
mod concert;
mod contention;
mod error_contract;
mod extension;
mod fuzz;
mod no_shows;
mod overload;
mod payment;
mod queue;
mod refund;
mod replicas;
mod reservation;
mod rolling;
mod running;
mod simulation;
mod tidy;
mod wallet;
mod watching;
