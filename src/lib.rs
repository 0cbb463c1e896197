//! boxoffice sells the seats of a concert that everyone wants at the same second: users queue with a token, are admitted as seats
//! allow, hold seats for minutes, and pay from a prepaid wallet.
//!
//! # The one idea
//!
//! Every write is a batch, and a batch of one is the common case. Calls of one kind wait in a [`lane`]; the lane takes all that wait,
//! runs *load, decide, store* in one transaction, and answers each caller after the commit. Reads that many make at once share a
//! query the same way, and those who wait in a queue are answered from memory.
//!
//! # Where to go
//!
//! An RPC is three rooms: `service.rs` (gRPC in, gRPC out), `operations.rs` (a verb over a slice of commands: load, decide, store),
//! `store.rs` (every query of the capability, set-based). Beside them `rules.rs`: pure functions with their tests.
//!
//! | capability | what it knows | uses |
//! |---|---|---|
//! | [`concert`] | what is on sale: concerts, dates, free seats; `catalogue.rs`: what never changes, in memory; `board.rs`: what watchers of seats read | queue |
//! | [`wallet`] | prepaid money and its ledger | |
//! | [`queue`] | numbers, positions, admission; `snapshot.rs`: what polling reads; `admission.rs`: may this token? | concert, wallet |
//! | [`reservation`] | seats held for minutes | concert, queue, wallet |
//! | [`payment`] | money for seats, in one transaction; `refund.rs`: and back | concert, reservation, wallet, queue |
//! | [`admin`] | sets up and steers the sale | concert |
//! | [`live`] | the live page: the sales and their halls as they move, in a browser | admin, concert, queue |
//!
//! | around them | |
//! |---|---|
//! | [`server`] | the composition root: wires, serves, drains |
//! | [`token`] | the queue token: sign, verify; the tonic interceptor; `rotation.rs`: which key signs when |
//! | [`transport`] | who may connect and call: TLS, client certificates, API keys, all from files that are read again when they change |
//! | [`gate`] | what every call passes first: its API key, limits, deadlines, requests read whole, panics, statuses completed; `socket.rs`: what a connection may do |
//! | [`lane`] | the batching lane; `pace.rs`: whom it refuses |
//! | [`background`] | the one loop that promotion and expiry run in |
//! | [`db`] | connections, write transactions, what errors mean; `statement.rs`: a set of rows as one parameter, so that one SQL text serves both engines and any size of batch |
//! | [`entity`] | the tables, one file each; the schema itself is in `migration/` |
//! | [`error`] | what a call can fail with, and its only mapping to a status |
//! | [`fields`], [`paging`] | reading requests: all violations at once, pages |
//! | [`clock`] | the time that decisions go by |
//! | [`proto`], [`codec`] | the generated messages, and how they become bytes |
//! | [`config`], [`run`], [`demo`], [`telemetry`] | the command line and what it does |
//!
//! A place in a queue has no id of its own: concert and number are its key, and the token says both. The `tests/api` suite speaks gRPC to the
//! real server on both engines, `tests/faults` gets it into trouble; `bench/` measures it against a bare echo.
//!
//! # What always holds
//!
//! 1. A seat of a performance is SOLD to at most one payment; a SOLD seat has exactly one PAID payment, and the reverse.
//! 2. A wallet's balance is the sum of its entries, as its last entry says it, and never below 0.
//! 3. ACTIVE tokens of a concert never exceed its capacity at the moment of a promotion, which follows the numbers.
//! 4. What was acknowledged is durable; what was refused left no trace; a repeated `request_id` has one effect.
//!
//! The schema holds what a schema can hold. Races between replicas are settled by the database: rows are locked in the order counter,
//! token, wallet, reservation, seat, performance, each by key, and conditional writes check how many rows they changed; a lost race
//! runs the batch again. Expiry is true at the moment it is due, whoever asks; the sweeps only tidy. Memory may say that somebody
//! waits; that somebody is admitted, only the database says.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod admin;
pub mod app;
pub mod batch;
pub mod catalogue;
pub mod clock;
pub mod concert;
pub mod db;
pub mod edge;
pub mod live;
pub mod payment;
pub mod queue;
pub mod reservation;
pub mod rpc;
pub mod token;
pub mod wallet;

/// Chooses the one implementation of cryptography, before anything uses it.
pub fn install_crypto() {
    // It fails only if it was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
