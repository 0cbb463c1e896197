//! Waits for the lease of the sink, reads the next events and gives them to the sink.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    lag::Counts,
    lease::Lease,
    rules::{self, Start},
    sink::Sink,
    store,
    trouble::Trouble,
};
use crate::{
    catalogue::Catalogue,
    db::Database,
    events::{
        self,
        batch::{self, MAX_BATCHES},
    },
};

/// Pause between two reads. After a read that has reached its limit, there is no pause. A new event reaches the sink
/// about this time after its commit.
const READ_INTERVAL: Duration = Duration::from_millis(50);
/// Pause before the next attempt after an error that may pass.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Forwards the events of a database to a sink.
pub struct Forwarder {
    db: Database,
    catalogue: Arc<Catalogue>,
    name: String,
    start: Start,
    sink: Sink,
    counts: Counts,
    leads: metrics::Gauge,
}

impl Forwarder {
    /// Returns a forwarder to the sink with this name. `start` selects the first event if the sink has no cursor yet.
    pub fn new(db: Database, name: String, start: Start, sink: Sink) -> Self {
        let catalogue = Arc::new(Catalogue::new(db.clone()));
        let leads = metrics::gauge!("boxoffice_forward_leads", "sink" => name.clone());
        Self { db, catalogue, counts: Counts::new(&name), name, start, sink, leads }
    }

    /// Forwards events until `stopping` is cancelled. Then stores the cursor and ends the lease. Fails with a message
    /// for the operator after an error that a retry cannot remove.
    pub async fn run(mut self, stopping: CancellationToken) -> Result<(), String> {
        loop {
            match self.lead(&stopping).await {
                Ok(()) => return Ok(()),
                Err(Trouble::Final(reason)) => return Err(reason),
                Err(Trouble::Passing(reason)) => {
                    self.counts.failed.increment(1);
                    tracing::warn!(sink = self.name, reason, "events are not sent now; retrying");
                }
            }
            if stopping.run_until_cancelled(tokio::time::sleep(RETRY_INTERVAL)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Takes the lease, and sends events until the lease is lost, an error occurs or `stopping` is cancelled.
    async fn lead(&mut self, stopping: &CancellationToken) -> Result<(), Trouble> {
        let (db, name) = (self.db.clone(), self.name.clone());
        let taken = stopping.run_until_cancelled(async {
            self.add_cursor().await?;
            Ok::<_, Trouble>(Lease::take(&db, &name).await?)
        });
        let Some(lease) = taken.await.transpose()? else { return Ok(()) };
        tracing::info!(sink = name, last_event_number = lease.cursor, "this process sends the events now");
        self.leads.set(1);
        let reached = AtomicI64::new(lease.cursor);
        let ended = tokio::select! {
            () = stopping.cancelled() => Ok(()),
            Err(lost) = lease.keep(&reached) => Err(lost),
            Err(failed) = self.forward(lease.cursor, &reached) => Err(failed),
        };
        self.leads.set(0);
        lease.release(&reached).await;
        ended
    }

    /// Adds the row of the sink if it does not exist.
    async fn add_cursor(&self) -> Result<(), Trouble> {
        if store::cursor(&self.db, &self.name).await?.is_some() {
            return Ok(());
        }
        let first = rules::first_cursor(self.start, events::bounds(&self.db).await?)?;
        Ok(store::add(&self.db, &self.name, first).await?)
    }

    /// Sends all events after the cursor, and then each new event. Ends only with an error.
    async fn forward(&mut self, cursor: i64, reached: &AtomicI64) -> Result<Infallible, Trouble> {
        let bounds = events::bounds(&self.db).await?;
        let mut after = self.sink.resume(cursor, bounds).await?;
        rules::check_cursor(&self.name, after, bounds)?;
        reached.store(after, Ordering::Release);
        loop {
            let page = batch::read(&self.db, &self.catalogue, after).await?;
            if let (Some(first), Some(last)) = (page.first(), page.last()) {
                if first.first_number > after + 1 {
                    rules::check_cursor(&self.name, after, events::bounds(&self.db).await?)?;
                }
                let events = page.iter().flat_map(|batch| &batch.events);
                let events: Vec<_> = events.filter(|event| event.event_number > after).collect();
                self.sink.send(&events, reached, &self.counts).await?;
                after = last.last_number;
            }
            if page.len() < MAX_BATCHES {
                tokio::time::sleep(READ_INTERVAL).await;
            }
        }
    }
}
