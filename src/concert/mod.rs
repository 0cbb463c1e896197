//! ConcertService: the concerts, the performances on sale, and the states of their seats.

mod board;
mod draw;
mod operations;
mod service;
mod store;

pub use board::{Boards, States};
pub use service::ConcertApi;
