//! The tables as SeaORM entities without behaviour, one file per table. They match the schema in `migration/`.
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
