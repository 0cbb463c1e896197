//! The feed of events, which EventService returns page by page and as a stream.
//!
//! The operations record events in their transactions (`db/log.rs`). This room only reads and deletes the stored
//! events:
//!
//! | file | task |
//! |---|---|
//! | `batch.rs` | reads stored events and adds what the catalogue knows, such as names and prices |
//! | `feed.rs` | reads new events once for all streams, and keeps the last ones in memory |
//! | `watch.rs` | the state of a stream |
//! | `rules.rs` | the filters, and the size of a message |

pub mod batch;
mod feed;
pub mod passes;
mod rules;
mod service;
mod store;
mod watch;

pub use rules::{check_cursor, kind_name};
pub use service::EventApi;
pub use store::{Bounds, Stored, bounds};
