//! What is on sale: concerts, their dates, and which seats are free. Reads decide nothing, so there are no operations.

mod board;
pub mod catalogue;
mod service;
mod store;

pub use catalogue::{Catalogue, Concert, Performance, Section};
pub use service::ConcertApi;
pub use store::TakenSeat;
