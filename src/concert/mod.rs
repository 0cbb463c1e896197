//! The dates and seats on sale now.

mod board;
mod operations;
mod service;
mod store;

pub use board::{Boards, States};
pub use service::ConcertApi;
