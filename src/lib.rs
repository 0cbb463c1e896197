//! boxoffice sells concert seats that many users want in the same second. Each user gets a number in the queue of the
//! concert. Users are admitted in the order of their numbers, or in the order of a draw, up to the number of unsold
//! seats. An admitted user holds seats for some minutes, and pays for them from a prepaid wallet.
//!
//! # Two ideas
//!
//! **Calls write in batches.** Calls of one kind wait in a lane ([`batch`]). The lane takes the waiting calls, at most
//! 512, and runs *load, decide, store* in one transaction. The lane answers each caller after the commit. In an idle
//! lane, a batch has one call.
//!
//! **Cost does not grow with history.** The cost of a call, of a background pass or of a start depends on live data:
//! the waiting and admitted tokens, the held seats, and the dates on sale. The number of past sales does not change
//! this cost.
//!
//! # The rooms
//!
//! A room is a top-level module of this crate. Each room may use only the rooms below it in this table. A test checks
//! this order.
//!
//! | room | content |
//! |---|---|
//! | [`app`] | The program: command line, server, background passes, demo, logs, metrics and traces. |
//! | [`forward`] | Sends the feed of events on to NATS JetStream and to webhooks. |
//! | [`live`] | The live page, which shows the sales and their seats in a browser. The metrics of the sales. |
//! | [`payment`] | Pay and refund: money and seats change in one transaction. |
//! | [`admin`] | Creation of venues, concerts and performances; settings and counts of a sale. |
//! | [`events`] | The feed of events, which EventService returns and streams. |
//! | [`reservation`] | Hold, extend and release the seats of a token. |
//! | [`concert`] | The list of concerts. For admitted users: the dates on sale, and the seats as a list or a stream. |
//! | [`queue`] | Numbers, positions and promotion, and the check that a token is admitted. |
//! | [`catalogue`] | A cache in memory of the concert data that never changes, such as sections and prices. |
//! | [`wallet`] | Prepaid money, and a ledger of all its movements. |
//! | [`edge`] | The layer between the network and the services: sockets, TLS, API keys, limits, deadlines. |
//! | [`token`] | The signed queue token, and the interceptor that verifies it. |
//! | [`batch`] | Lanes, first answers by `request_id`, and background passes in short steps. |
//! | [`db`] | Connections, transactions with their events, statements about sets of rows, entities. |
//! | [`rpc`] | Parts of a call: errors and their status codes, messages, checks of fields, pages, callers, deadlines. |
//! | [`clock`] | The clock for all decisions that depend on the time. |
//!
//! A capability is a room with a gRPC service. It has some of these files, and may have others:
//!
//! - `service.rs` reads the request, submits a command to a lane or runs a query, and builds the response.
//! - A file of one verb, such as `hold.rs`, decides a batch of commands. `operations.rs` has the other operations, and
//!   the functions that other rooms call.
//! - `store.rs` has the queries of the capability.
//! - `rules.rs` has the rules as pure functions, with their unit tests.
//! - `passes.rs` has the background work.
//!
//! # How a seat is sold
//!
//! 1. `HoldSeats` passes [`edge`], which checks the API key, the limits and the deadline. The interceptor of [`token`]
//!    verifies the signature of the queue token.
//! 2. `reservation/service.rs` reads the fields, finds the performance in the [`catalogue`], and submits a command.
//! 3. The lane runs `reservation/hold.rs`, which locks the tokens and loads the seats. `hold.rs` decides the commands
//!    in the order of arrival, with the functions in `rules.rs`. `best.rs` chooses the best available seats from the
//!    map that `seat_map.rs` keeps. `hold.rs` stores all holds with one write per table. If another transaction has
//!    taken one of the seats, the write for the seats changes too few rows, and the batch runs again.
//! 4. `Pay` runs `payment/pay.rs` in the same way. One commit changes the token, the ledger of the wallet, the
//!    reservation, the seats and the counts of the date.
//! 5. Both transactions record their events. The last statement before a commit appends these events to the feed, and
//!    `events/feed.rs` sends them to the WatchEvents streams.
//! 6. `queue/passes.rs` reads the changed counts and admits the next users. `queue/line.rs` wakes the WatchPosition
//!    streams of these users.
//!
//! # Where to add
//!
//! - **A rule**: a function in `rules.rs`. Call the rule in the function that decides a command, such as
//!   `HoldBatch::decide` in `hold.rs`. A new kind of failure also needs a variant in `rpc/error.rs` and a reason in
//!   `error_reason.proto`.
//! - **A query**: a function in `store.rs` with `find_set`, `query_set`, `execute_set` or `change_set`, which
//!   `db/write.rs` describes. `db/statement.rs` explains `{r}` and `{lock}`. The scenario in `tests/api/plans.rs` must
//!   run the query, so that the test checks its plan.
//! - **An RPC**: its proto, from which `build.rs` generates the code, and a method in `service.rs`. A write also needs
//!   a function that decides a batch of commands, and a lane that the `new` function of the service starts.
//! - **An event**: a field of the oneof `kind` in `event_service.proto` and in `event_batch.proto`, its name in
//!   `events/rules.rs`, its conversion in `events/batch.rs`, and its messages in the lists of `build.rs`. The operation
//!   records the event with `Write::record`. If the event takes or frees seats, `reservation/seat_map.rs` applies it.
//! - **A setting**: `app/cli.rs` for the server, or `edge/settings.rs` for limits and TLS. Give the setting to the code
//!   that uses it in `app/routes.rs` or `app/background.rs`. Describe it in `docs/configuration.md`.
//! - **A column**: a new migration, which is a file in `migration/src` and an entry in its `lib.rs`. Change the entity
//!   in `db/entity` and the statements in `store.rs`.
//!
//! # Guarantees
//!
//! 1. A SOLD seat belongs to exactly one PAID payment, and every seat of a PAID payment is SOLD.
//! 2. A wallet's balance is the sum of its ledger entries and is never below 0. The last entry stores the balance.
//! 3. A promotion never raises the number of ACTIVE tokens of a concert above its capacity: the number of unsold seats
//!    on sale, or `max_active_count` if that is lower and not 0. Tokens are admitted in the order of their numbers. If
//!    the concert has a draw, the published function gives each token a place, and the places are the order.
//! 4. An acknowledged write is durable. Within the retention time, calls of one RPC with the same `request_id` have one
//!    effect. After DEADLINE_EXCEEDED, UNAVAILABLE or INTERNAL, the outcome of a call is unknown. A call with any other
//!    error changes no seats and no money.
//! 5. An event is in the feed exactly if its change was committed. The numbers of events have no gaps and follow the
//!    order of the commits.
//!
//! The database resolves races between replicas. Most transactions lock rows in the order counter, token, ledger entry,
//! reservation, seat, performance, head of the feed. Within a table, most statements lock rows in the order of the
//! keys. After a deadlock, PostgreSQL aborts one of the transactions, and this transaction runs again.
//!
//! A wallet is not locked. If two transactions add the same entry number to a wallet, the primary key refuses the
//! second entry, and its transaction runs again. A change of a reservation is conditional on the version that the
//! transaction has read. If the version is different, the statement changes too few rows, and its transaction runs
//! again.
//!
//! A hold or an admission ends exactly at its expiry, even before a background pass updates its row. The memory of a
//! replica may show that an admitted user still waits. Only the database shows that a user is admitted.

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
pub mod events;
pub mod forward;
pub mod live;
pub mod payment;
pub mod queue;
pub mod reservation;
pub mod rpc;
pub mod token;
pub mod wallet;

/// Installs ring as the cryptography provider of rustls. A program must call this function before its first use of TLS.
pub fn install_crypto() {
    // The installation fails only if a provider is already installed. TLS then uses that provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
