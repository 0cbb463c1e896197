//! Tests of the real server on SQLite and PostgreSQL: its gRPC and HTTP APIs, its command line, and the structure of
//! its code.

mod harness;

mod admin;
mod apply;
mod best_available;
mod check;
mod concert;
mod contention;
mod credentials;
mod draw;
mod error_contract;
mod event_callers;
mod events;
mod events_command;
mod extension;
mod forward;
mod fuzz;
mod http;
mod live;
mod metrics;
mod no_shows;
mod overload;
mod pace;
mod payment;
mod plans;
mod queue;
mod refund;
mod replicas;
mod reservation;
mod retention;
mod rolling;
mod rows;
mod running;
mod sale_end;
mod secrets;
mod signing_keys;
mod simulation;
mod tidy;
mod tour;
mod traces;
mod transport;
mod upgrade;
mod wallet;
mod watch;
mod watching;
