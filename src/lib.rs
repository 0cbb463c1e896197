//! boxoffice sells the seats of a concert that many users want in the same second. Each user gets a number in a queue
//! and is admitted when seats are free. An admitted user holds seats for some minutes and pays from a prepaid wallet.
//!
//! # Two ideas
//!
//! **Every write is a batch.** Calls of one kind wait in a lane ([`batch`]). The lane takes all waiting calls and runs
//! *load, decide, store* in one transaction. It answers each caller after the commit. Most batches have one call.
//!
//! **Cost does not grow with history.** The cost of a call, a background pass or a start depends on the tokens that
//! wait or are admitted, the seats that are held, and the dates on sale. It does not depend on past sales.
//!
//! # The rooms
//!
//! A room is a module of this crate. Each room may use only the rooms below it in this table. A test checks this order.
//!
//! | room | content |
//! |---|---|
//! | [`app`] | The program: command line, server, background passes, demo, logs, metrics and traces. |
//! | [`live`] | The live page: each sale and its hall in a browser, and their gauges. |
//! | [`payment`] | Pay and refund: money and seats change in one transaction. |
//! | [`admin`] | Venues, concerts and performances, and the control and the counts of a sale. |
//! | [`reservation`] | Hold, extend and release the seats of a token. |
//! | [`concert`] | Dates on sale and free seats for admitted users, also as a stream. |
//! | [`queue`] | Numbers, positions and promotion, and the check that a token is admitted. |
//! | [`catalogue`] | Data that never changes after its creation: concerts, dates, sections, prices. |
//! | [`wallet`] | Prepaid money, and a ledger of all its movements. |
//! | [`edge`] | The first checks of a connection and a call: sockets, TLS, API keys, limits, deadlines. |
//! | [`token`] | The signed queue token, and the interceptor that verifies it. |
//! | [`batch`] | Lanes, replays of a `request_id`, and background passes in short steps. |
//! | [`db`] | Connections, transactions, statements about sets of rows, entities. |
//! | [`rpc`] | Parts of a call: errors and their status codes, messages, fields, pages, deadlines, traces. |
//! | [`clock`] | The time for decisions. |
//!
//! A capability is a room with a gRPC service. Its files:
//!
//! - `service.rs` reads the request, submits a command to a lane, and builds the response.
//! - A file per verb, such as `hold.rs`, or `operations.rs` decides a batch of commands.
//! - `store.rs` has every query.
//! - `rules.rs` has pure functions with their tests.
//! - `passes.rs` has the background work.
//!
//! # How a seat is sold
//!
//! 1. `HoldSeats` passes [`edge`], which checks the API key, the limits and the deadline. The interceptor of [`token`]
//!    verifies the token.
//! 2. `reservation/service.rs` reads the fields, finds the performance in the [`catalogue`], and submits a command.
//! 3. The lane runs `reservation/hold.rs`, which locks tokens and loads seats. It decides each command in order with
//!    the functions in `rules.rs`. It stores all holds with one statement per table. If two replicas take the same
//!    seat, a unique key refuses the second one, and its batch runs again.
//! 4. `Pay` runs `payment/pay.rs` in the same way. One commit changes the token, the wallet, the reservation, the seats
//!    and the counts of the date.
//! 5. `queue/passes.rs` reads the changed counts and admits the next users. `queue/line.rs` wakes their watchers.
//!
//! # Where to add
//!
//! - **A rule**: a function in `rules.rs`. Call it where its verb decides, such as `HoldBatch::decide` in `hold.rs`.
//!   A new failure also needs a variant in `rpc/error.rs` and a reason in `error_reason.proto`.
//! - **A query**: a function in `store.rs` with `query_set`, `execute_set` or `change_set` (see `db/write.rs`).
//!   `db/statement.rs` explains `{r}` and `{lock}`. `tests/api/plans.rs` must run the query.
//! - **An RPC**: its proto, from which `build.rs` generates the code, and a method in `service.rs`. A write also needs
//!   a verb file, and a lane that the `new` function of the service starts.
//! - **A setting**: `app/cli.rs` for the server, or `edge/settings.rs` for limits and TLS. Pass the setting on in
//!   `app/routes.rs` or `app/background.rs`. Describe it in `docs/configuration.md`.
//! - **A column**: a new file in `migration/src`, the entity in `db/entity`, and the statements in `store.rs`.
//!
//! # Guarantees
//!
//! 1. A seat of a performance is SOLD to at most one payment. A SOLD seat belongs to exactly one PAID payment, and
//!    every seat of a PAID payment is SOLD.
//! 2. A wallet's balance is the sum of its ledger entries and is never below 0. The last entry stores the balance.
//! 3. A promotion never raises the number of ACTIVE tokens of a concert above its capacity. Tokens are admitted in the
//!    order of their numbers.
//! 4. An acknowledged write is durable. A refused call changes nothing. A repeated `request_id` has one effect.
//!
//! The database resolves races between replicas. Rows are locked in the order counter, token, wallet, reservation,
//! seat, performance, and by key within a table. Conditional writes check the number of changed rows. A hold or an
//! admission ends exactly at its expiry, even before a background pass updates its row. Memory may show that a user
//! waits. Only the database shows that a user is admitted.

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

/// Installs ring as the cryptography provider of rustls. Call it before the first use of TLS.
pub fn install_crypto() {
    // The installation fails only if a provider was installed before, which is harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
