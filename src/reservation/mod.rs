//! Reservations: seats that are held for a token for a limited time, until the seats are paid for or the hold ends.

pub mod best;
pub mod extend;
pub mod facts;
pub mod hold;
pub mod operations;
pub mod passes;
pub mod release;
pub mod rules;
pub mod seat_map;
mod service;
mod store;

pub use service::ReservationApi;
