//! Waits for a condition.

use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `done` returns true. Panics with a message that contains `what` if this takes longer than `limit`. The
/// time that `done` itself takes does not count.
pub async fn until(what: &str, limit: Duration, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..limit.as_millis() / INTERVAL.as_millis() {
        if done().await {
            return;
        }
        tokio::time::sleep(INTERVAL).await;
    }
    panic!("this did not happen within {limit:?}: {what}");
}
