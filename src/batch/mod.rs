//! The machinery of writes: lanes that serve waiting calls together, and passes that run in the background.

pub mod answered;
mod lane;
mod pace;
pub mod passes;
mod replay;
pub mod turns;

pub use answered::Answered;
pub use lane::{Batch, Lane, read_lane, write_lane};
pub use replay::Replays;

/// Returns the items in ascending order, each once: the order in which rows are locked.
pub fn distinct<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}
