//! Measures the longest background pass of each kind.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use testkit::Failure;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::scrape;

/// Interval between two reads of the metrics. It is shorter than the interval of any pass.
const INTERVAL: Duration = Duration::from_millis(20);

/// A task that reads the durations of the passes of a server from its metrics.
pub struct Passes {
    stop: oneshot::Sender<()>,
    follower: JoinHandle<Result<BTreeMap<String, f64>, Failure>>,
}

impl Passes {
    /// Starts the task. `address` is the HTTP listener of the server.
    pub fn follow(address: SocketAddr) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, follower: tokio::spawn(follow(address, stopped)) }
    }

    /// Stops the task. Returns the duration of the longest pass of each kind, in milliseconds.
    pub async fn longest_ms(self) -> Result<BTreeMap<String, f64>, Failure> {
        // The sending fails only if the task has ended with an error, which the next line returns.
        let _ = self.stop.send(());
        self.follower.await?
    }
}

async fn follow(address: SocketAddr, mut stopped: oneshot::Receiver<()>) -> Result<BTreeMap<String, f64>, Failure> {
    let mut longest: BTreeMap<String, f64> = BTreeMap::new();
    let mut before = scrape::passes(address).await?;
    loop {
        let ended = tokio::time::timeout(INTERVAL, &mut stopped).await.is_ok();
        let now = scrape::passes(address).await?;
        for (pass, total) in scrape::added(&before, &now) {
            // Usually one pass ended since the last read. If several passes ended, this is their mean duration.
            let milliseconds = total.sum / total.count * 1_000.0;
            let longest = longest.entry(pass).or_default();
            *longest = longest.max(milliseconds);
        }
        if ended {
            return Ok(longest);
        }
        before = now;
    }
}
