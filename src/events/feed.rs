//! Reads new events once for all streams of this replica, and keeps the last events in memory.
//!
//! The reader works only while streams are open. A commit of this replica wakes the reader. The reader finds the events
//! of other replicas after at most [`READ_INTERVAL`].

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prost::Message;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    batch::{self, Batch, MAX_BATCHES},
    store,
};
use crate::{catalogue::Catalogue, db::Database, rpc::Error};

/// Maximum pause between two reads while streams are open, if no read fails.
const READ_INTERVAL: Duration = Duration::from_millis(100);
/// Minimum pause between two reads, so that one read finds the events of many small commits. After a read that has
/// reached its limit, there is no pause.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Minimum time between two signals to the streams while there are no new events. A signal says that the last read
/// succeeded.
const PULSE: Duration = Duration::from_secs(1);
/// Pause after a read that failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum encoded size of the events in memory, in bytes. A stream that needs older events reads them from the
/// database.
const MAX_BYTES: usize = 16 << 20;

/// The new events of this replica.
pub struct Feed {
    db: Database,
    catalogue: Arc<Catalogue>,
    recent: Mutex<Recent>,
    /// The number of the last event that the reader has seen.
    last_number: watch::Sender<i64>,
    joined: Notify,
}

/// The last events, without gaps.
#[derive(Default)]
struct Recent {
    /// The number of the event before the first event in memory.
    base: i64,
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
}

impl Feed {
    /// Starts the reader, which `tasks` tracks. The reader ends when `stopping` is cancelled.
    pub fn start(
        db: Database,
        catalogue: Arc<Catalogue>,
        tasks: &TaskTracker,
        stopping: CancellationToken,
    ) -> Arc<Self> {
        let (recent, last_number) = (Mutex::default(), watch::Sender::default());
        let feed = Arc::new(Self { db, catalogue, recent, last_number, joined: Notify::new() });
        tasks.spawn(feed.clone().run(stopping));
        feed
    }

    /// Returns a receiver of the number of the last event. The receiver is also signalled about once per second while
    /// there are no new events.
    pub fn watch(&self) -> watch::Receiver<i64> {
        let last_number = self.last_number.subscribe();
        self.joined.notify_one();
        last_number
    }

    /// Returns the transactions with events after the number `after`, at most [`MAX_BATCHES`]. Reads the database if
    /// the events are not in memory.
    pub async fn after(&self, after: i64) -> Result<Vec<Arc<Batch>>, Error> {
        let known = self.recent.lock().after(after);
        match known {
            Some(batches) => Ok(batches),
            None => self.read(after).await,
        }
    }

    /// Reads the transactions with events after the number `after` from the database, at most [`MAX_BATCHES`].
    pub async fn read(&self, after: i64) -> Result<Vec<Arc<Batch>>, Error> {
        batch::read(&self.db, &self.catalogue, after).await
    }

    /// Returns the range of the stored events.
    pub async fn bounds(&self) -> Result<store::Bounds, Error> {
        Ok(store::bounds(&self.db).await?)
    }

    async fn run(self: Arc<Self>, stopping: CancellationToken) {
        let follow = async {
            loop {
                if self.last_number.receiver_count() == 0 {
                    self.joined.notified().await;
                } else if let Err(error) = self.follow().await {
                    tracing::warn!(%error, "the new events could not be read; retrying");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        };
        stopping.run_until_cancelled(follow).await;
    }

    /// Reads new events while streams are open.
    async fn follow(&self) -> Result<(), Error> {
        let mut last_number = self.bounds().await?.last_number;
        *self.recent.lock() = Recent { base: last_number, ..Recent::default() };
        self.last_number.send_replace(last_number);
        let mut signalled = Instant::now();
        while self.last_number.receiver_count() > 0 {
            let batches = self.read(last_number).await?;
            let is_full = batches.len() == MAX_BATCHES;
            if !batches.is_empty() || signalled.elapsed() >= PULSE {
                last_number = batches.last().map_or(last_number, |batch| batch.last_number);
                self.recent.lock().extend(batches);
                self.last_number.send_replace(last_number);
                signalled = Instant::now();
            }
            if !is_full {
                tokio::time::sleep(MIN_INTERVAL).await;
                let _ = tokio::time::timeout(READ_INTERVAL - MIN_INTERVAL, self.db.appended().notified()).await;
            }
        }
        Ok(())
    }
}

impl Recent {
    /// Returns the transactions with events after the number `after`, at most [`MAX_BATCHES`]. Returns `None` if some
    /// of these events are not in memory any more.
    fn after(&self, after: i64) -> Option<Vec<Arc<Batch>>> {
        if after < self.base {
            return None;
        }
        let first = self.batches.partition_point(|batch| batch.last_number <= after);
        Some(self.batches.range(first..).take(MAX_BATCHES).cloned().collect())
    }

    fn extend(&mut self, batches: Vec<Arc<Batch>>) {
        for batch in batches {
            let last_number = self.batches.back().map_or(self.base, |batch| batch.last_number);
            // The events in between were deleted before they were read. No stream may skip them without an error.
            if batch.first_number > last_number + 1 {
                *self = Self { base: batch.first_number - 1, ..Self::default() };
            }
            self.bytes += size(&batch);
            self.batches.push_back(batch);
        }
        while self.bytes > MAX_BYTES
            && let Some(oldest) = self.batches.pop_front()
        {
            self.bytes -= size(&oldest);
            self.base = oldest.last_number;
        }
    }
}

fn size(batch: &Batch) -> usize {
    batch.events.iter().map(Message::encoded_len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::proto::Event;

    fn batch(first_number: i64, last_number: i64, bytes: usize) -> Arc<Batch> {
        let event = |event_number| Event { event_number, caller: "x".repeat(bytes), ..Event::default() };
        Arc::new(Batch { first_number, last_number, events: (first_number..=last_number).map(event).collect() })
    }

    fn numbers(recent: &Recent, after: i64) -> Option<Vec<i64>> {
        Some(recent.after(after)?.iter().map(|batch| batch.first_number).collect())
    }

    #[test]
    fn recent_events_are_found_by_number_and_older_ones_are_not() {
        let mut recent = Recent { base: 10, ..Recent::default() };
        recent.extend(vec![batch(11, 13, 0), batch(14, 14, 0), batch(15, 16, 0)]);
        assert_eq!(numbers(&recent, 9), None);
        assert_eq!(numbers(&recent, 10), Some(vec![11, 14, 15]));
        assert_eq!(numbers(&recent, 12), Some(vec![11, 14, 15]));
        assert_eq!(numbers(&recent, 14), Some(vec![15]));
        assert_eq!(numbers(&recent, 16), Some(vec![]));
    }

    #[test]
    fn the_events_in_memory_are_bounded_and_have_no_gap() {
        let mut recent = Recent::default();
        recent.extend((1..=5).map(|number| batch(number, number, MAX_BYTES / 4)).collect());
        assert_eq!((numbers(&recent, 1), numbers(&recent, 2)), (None, Some(vec![3, 4, 5])));
        recent.extend(vec![batch(9, 9, 0)]);
        assert_eq!((numbers(&recent, 5), numbers(&recent, 8)), (None, Some(vec![9])));
    }
}
