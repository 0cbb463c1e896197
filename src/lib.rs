//! boxoffice sells the seats of a concert that everyone wants at the same second. Users take a place in a queue, are
//! admitted as seats allow, hold seats for some minutes, and pay from a prepaid wallet.
//!
//! # Two ideas
//!
//! **Every write is a batch, and a batch of one is the common case.** Calls of one kind wait in a lane ([`batch`]). The
//! lane takes all that wait, runs *load, decide, store* in one transaction, and answers each caller after the commit.
//!
//! **Cost follows what is live.** A call, a pass or a start pays for what waits, is admitted, is held or is on sale
//! now. It never pays for history.
//!
//! # The rooms
//!
//! Each room may use the rooms below it, and no other. A test holds the code to this order.
//!
//! | room | what it does |
//! |---|---|
//! | [`app`] | The program: command line, server, background, demo, logs and metrics. |
//! | [`payment`] | Pay and refund: money and seats change hands together. |
//! | [`admin`] | What the operator creates, changes and counts. |
//! | [`reservation`] | Hold, extend, release: seats kept for one token. |
//! | [`concert`] | What is on sale now, for admitted users: dates and free seats, also as a stream. |
//! | [`queue`] | Numbers, positions, promotion, and the question whether a token is admitted. |
//! | [`catalogue`] | What never changes once it was created: concerts, dates, sections, prices. |
//! | [`wallet`] | Prepaid money, and a ledger of everything that moved. |
//! | [`edge`] | What a connection and a call pass first: sockets, TLS, API keys, limits, deadlines. |
//! | [`token`] | The signed queue token, and the interceptor that reads it. |
//! | [`batch`] | Lanes, replays of a `request_id`, and background passes in short steps. |
//! | [`db`] | Connections, transactions, statements about sets of rows, entities. |
//! | [`rpc`] | One call: errors and their only mapping to a status, messages, fields, pages, deadline. |
//! | [`clock`] | The time that decisions go by. |
//!
//! Inside a capability: `service.rs` (gRPC in, gRPC out), a file per verb or `operations.rs` (decides over a slice of
//! commands), `store.rs` (every query), `rules.rs` (pure functions with their tests), `passes.rs` (its background
//! work).
//!
//! # A seat is sold
//!
//! 1. `HoldSeats` passes [`edge`]: its API key, a permit, its deadline. The interceptor of [`token`] verifies the
//!    token.
//! 2. `reservation/service.rs` reads the fields, finds the performance in the [`catalogue`], and submits a command.
//! 3. The lane runs `reservation/hold.rs`: it locks tokens, loads seats, decides each command in order by `rules.rs`,
//!    and stores all holds with one statement per table. A unique key decides between replicas; the loser runs again.
//! 4. `Pay` does the same in `payment/pay.rs`: token, wallet, reservation, seats and the counts of the date, one
//!    commit.
//! 5. `queue/passes.rs` sees the changed counts and admits the next users; `queue/line.rs` wakes those who watch.
//!
//! # Where to add
//!
//! A rule: a function in the capability's `rules.rs`. A query: its `store.rs` (a test looks at its plan on both
//! engines). An RPC: its proto, then `service.rs`. A setting: `app/cli.rs` or `edge/settings.rs`, and
//! `docs/configuration.md`. A table: a new file in `migration/`, its entity in `db/entity`.
//!
//! # What always holds
//!
//! 1. A seat of a performance is SOLD to at most one payment. A SOLD seat has exactly one PAID payment, and the
//!    reverse.
//! 2. A wallet's balance is the sum of its entries, as its last entry says it, and never below 0.
//! 3. ACTIVE tokens of a concert never exceed its capacity at the moment of a promotion. Promotion follows the numbers.
//! 4. What was acknowledged is durable. What was refused left no trace. A repeated `request_id` has one effect.
//!
//! The database settles races between replicas: rows are locked in the order counter, token, wallet, reservation, seat,
//! performance, each by key, and conditional writes check how many rows they changed. An expiry is true at the moment
//! it is due; the passes only tidy up. Memory may say that a user waits. Only the database says that a user is
//! admitted.

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
