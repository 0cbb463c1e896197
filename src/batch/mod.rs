//! Runs waiting calls in batches (lanes), remembers the answers for repeated requests, and runs the background passes.

pub mod answered;
mod called;
mod lane;
mod pace;
pub mod passes;
mod replay;
pub mod turns;
mod worker;

pub use answered::Answered;
pub use called::Called;
pub use lane::{Lane, WriteLane, read_lane, write_lane};
pub use pace::WIDTH;
pub use replay::Replays;
pub use worker::Batch;

/// Returns the items without duplicates and in ascending order. Batches lock rows in this order, so that they do not
/// deadlock.
pub fn distinct<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}
