//! How long the background passes of the server take, each by itself.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::{sync::oneshot, task::JoinHandle};

use crate::{Failure, scrape};

/// More often than any pass runs.
const INTERVAL: Duration = Duration::from_millis(20);

/// Follows the passes of a server until asked.
pub struct Passes {
    stop: oneshot::Sender<()>,
    follower: JoinHandle<Result<BTreeMap<String, f64>, Failure>>,
}

impl Passes {
    /// Begins to follow the passes of the server whose metrics are at `address`.
    pub fn follow(address: SocketAddr) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, follower: tokio::spawn(follow(address, stopped)) }
    }

    /// The milliseconds that the longest pass of each kind took.
    pub async fn longest_ms(self) -> Result<BTreeMap<String, f64>, Failure> {
        // The follower ends by itself only if the server is gone.
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
            // Mostly one; of several that came together, the mean.
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
