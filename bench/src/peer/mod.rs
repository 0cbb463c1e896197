//! The references of the comparison that are not an echo. Only [`redis`] also measures calls over gRPC.
//!
//! - [`single`] runs the operations of boxoffice with one command per transaction.
//! - [`postgres`] calls a function inside PostgreSQL, and measures a commit without boxoffice.
//! - [`redis`] sells the same tickets with Lua scripts in Redis.

pub mod postgres;
mod rates;
pub mod redis;
pub mod single;

pub use rates::Rates;
