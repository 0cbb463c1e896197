//! Runs server processes on databases, injects faults, and compares the rows with the answers to callers.

pub mod book;
pub mod check;
pub mod contents;
pub mod crowd;
pub mod lab;
pub mod preload;
pub mod proxy;
pub mod runner;
pub mod site;

use std::time::Duration;

/// Waits until `done` returns true, for at most 30 s.
pub async fn eventually(what: &str, done: impl AsyncFnMut() -> bool) {
    testkit::wait::until(what, Duration::from_secs(30), done).await;
}
