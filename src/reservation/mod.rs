//! Holds: seats kept for one token for some minutes, until they are paid.

pub mod extend;
pub mod hold;
pub mod operations;
pub mod passes;
pub mod release;
pub mod rules;
mod service;
mod store;

pub use service::ReservationApi;
