//! The machinery of writes: lanes that serve waiting calls together, and the loop of the background passes.

pub mod answered;
mod lane;
mod pace;
pub mod passes;
mod replay;
pub mod turns;
mod worker;

pub use answered::Answered;
pub use lane::{Lane, read_lane, write_lane};
pub use replay::Replays;
pub use worker::Batch;

/// Returns the items in ascending order and each once: the order in which rows are locked.
pub fn distinct<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}
