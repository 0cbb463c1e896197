//! Holds: seats kept for one token for a few minutes, until paid.

pub mod operations;
pub mod rules;
mod service;
mod store;

pub use service::ReservationApi;
