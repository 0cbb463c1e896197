//! The state of an open WatchEvents stream.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    batch::Batch,
    feed::Feed,
    rules::{Filter, Selection, check_cursor},
};
use crate::rpc::{Error, proto::WatchEventsResponse};

/// Maximum number of events in a message.
const MAX_EVENTS: usize = 1_000;
/// Time after which a stream without matching events sends a message without events. The message is up to about one
/// second later, because the stream waits for a signal of the feed.
const HEARTBEAT: Duration = Duration::from_secs(4);

/// A stream of the events that match a filter.
pub struct Watcher {
    feed: Arc<Feed>,
    filter: Filter,
    /// All matching events up to this number were sent.
    reached: i64,
    last_number: watch::Receiver<i64>,
    sent_at: Instant,
    stopping: CancellationToken,
}

impl Watcher {
    /// Starts a stream of the matching events after the number `after`. The stream ends when `stopping` is cancelled.
    pub fn new(feed: Arc<Feed>, filter: Filter, after: i64, stopping: CancellationToken) -> Self {
        let last_number = feed.watch();
        Self { feed, filter, reached: after, last_number, sent_at: Instant::now(), stopping }
    }

    /// Waits for the next message. Fails with EVENTS_COMPACTED if an event was deleted before it was sent. Fails with
    /// SHUTTING_DOWN if the server shuts down.
    pub async fn next(mut self) -> Result<Option<(WatchEventsResponse, Self)>, Error> {
        loop {
            let last_number = *self.last_number.borrow_and_update();
            let mut selection = Selection::new(&self.filter, self.reached, MAX_EVENTS);
            if last_number > self.reached {
                match self.read().await {
                    Ok(batches) => {
                        selection.add(batches.iter().map(Arc::as_ref));
                    }
                    // The stream stays open. The next signal of the feed comes after the database is available again.
                    Err(Error::StorageUnavailable) => {}
                    Err(error) => return Err(error),
                }
            }
            let (events, reached) = (selection.events, selection.reached);
            let has_advanced = reached > self.reached;
            self.reached = reached;
            if !events.is_empty() || self.sent_at.elapsed() >= HEARTBEAT {
                self.sent_at = Instant::now();
                let last_event_number = last_number.max(reached);
                let message = WatchEventsResponse { events, last_event_number, next_after_event_number: reached };
                return Ok(Some((message, self)));
            }
            if has_advanced {
                continue;
            }
            tokio::select! {
                () = self.stopping.cancelled() => return Err(Error::ShuttingDown),
                changed = self.last_number.changed() => changed.map_err(|_| Error::ShuttingDown)?,
            }
        }
    }

    /// Returns the next transactions. Fails with EVENTS_COMPACTED if an event before them was deleted.
    async fn read(&self) -> Result<Vec<Arc<Batch>>, Error> {
        let batches = self.feed.after(self.reached).await?;
        if batches.first().is_none_or(|batch| batch.first_number > self.reached + 1) {
            check_cursor(self.reached, self.feed.bounds().await?)?;
        }
        Ok(batches)
    }
}
