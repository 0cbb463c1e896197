//! What is on sale now: dates and free seats.

mod board;
mod operations;
mod service;
mod store;

pub use board::{Boards, States};
pub use service::ConcertApi;
