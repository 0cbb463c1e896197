//! The tables as SeaORM entities, one file per table. The entities match the schema in `migration/`. The tables
//! `admission_second`, `forward_cursor`, `pass_cursor` and `payment_second` have no entity, because all of their
//! statements are written in SQL.
//!
//! Times are microseconds since the Unix epoch (UTC). Money is in the smallest unit of the currency.

pub mod answered_request;
pub mod concert;
pub mod ledger_entry;
pub mod performance;
pub mod queue_counter;
pub mod queue_token;
pub mod reservation;
pub mod reservation_extension;
pub mod reserved_seat;
pub mod section;
pub mod section_price;
pub mod signing_key;
pub mod venue;
pub mod wallet;
