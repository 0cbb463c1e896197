//! Reservations: seats that are held for a token for a limited time, and paid or released.

pub mod extend;
pub mod hold;
pub mod operations;
pub mod passes;
pub mod release;
pub mod rules;
mod service;
mod store;

pub use service::ReservationApi;
