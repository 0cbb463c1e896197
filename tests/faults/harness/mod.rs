//! Real server processes on real databases, the troubles they get into, and the books that are held against each other afterwards.

pub mod book;
#[path = "../../common/caller.rs"]
pub mod caller;
pub mod check;
pub mod contents;
pub mod crowd;
#[path = "../../common/invariants.rs"]
pub mod invariants;
pub mod lab;
#[path = "../../common/postgres.rs"]
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod runner;
pub mod site;

use std::time::Duration;

/// Waits until `done` holds; for what happens by itself soon.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..1_500 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it did not happen in 30 s: {what}");
}
