//! The turns in which calls build large lists.

use std::{num::NonZero, thread::available_parallelism, time::Duration};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::socket::Peer;
use crate::rpc::Error;

/// Delay before the retry of a list whose connection has too many unsent lists.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Lets only a few calls build a large list at the same time. Building such a list occupies a thread for milliseconds.
/// The other threads stay free for other calls.
pub struct Turns(Semaphore);

impl Default for Turns {
    /// Returns one turn per two threads, and at least one turn.
    fn default() -> Self {
        let threads = available_parallelism().map_or(1, NonZero::get);
        Self(Semaphore::new((threads / 2).max(1)))
    }
}

impl Turns {
    /// Waits for a turn, which ends when the result is dropped. Fails with OVERLOADED if the connection of the request
    /// has too many unsent lists by then. `extensions` are the extensions of the request.
    pub async fn wait(&self, extensions: &tonic::Extensions) -> Result<SemaphorePermit<'_>, Error> {
        let turn = self.0.acquire().await.map_err(Error::internal)?;
        match extensions.get::<Peer>() {
            Some(peer) if !peer.takes_lists() => Err(Error::Overloaded { retry_after: RETRY_DELAY }),
            _ => Ok(turn),
        }
    }
}
