//! The metrics of a sink.

use std::time::Duration;

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::store;
use crate::{
    clock,
    db::{self, Database},
};

/// Measures how far a sink is behind the feed. A process that waits for the lease measures too.
pub struct Lag {
    sink: String,
    events: Gauge,
    seconds: Gauge,
    answered_at: Mutex<Instant>,
}

impl Lag {
    /// Returns the measurement of the sink with this name.
    pub fn new(sink: String) -> Self {
        let events = gauge!("boxoffice_forward_lag_events", "sink" => sink.clone());
        let seconds = gauge!("boxoffice_forward_lag_seconds", "sink" => sink.clone());
        Self { sink, events, seconds, answered_at: Mutex::new(Instant::now()) }
    }

    /// Measures once.
    pub async fn measure(&self, db: &Database) -> Result<(), db::Error> {
        if let Some(behind) = store::behind(db, &self.sink).await? {
            let age = behind.oldest_time.map(|oldest| clock::until(db.now(), oldest));
            self.events.set(behind.event_count as f64);
            self.seconds.set(age.unwrap_or_default());
        }
        *self.answered_at.lock() = Instant::now();
        Ok(())
    }

    /// Returns the time since the last answer of the database. Before the first answer, the time since the start.
    pub fn database_age(&self) -> Duration {
        self.answered_at.lock().elapsed()
    }
}

/// The counters of a sink.
pub struct Counts {
    /// The events that have reached the sink.
    pub sent: Counter,
    /// The attempts that failed.
    pub failed: Counter,
}

impl Counts {
    /// Returns the counters of the sink with this name.
    pub fn new(sink: &str) -> Self {
        Self {
            sent: counter!("boxoffice_forward_sent_total", "sink" => sink.to_owned()),
            failed: counter!("boxoffice_forward_failed_total", "sink" => sink.to_owned()),
        }
    }
}

/// Gives the metrics of all sinks their help texts.
pub fn describe_metrics() {
    describe_gauge!("boxoffice_forward_lag_events", "Number of events that have not reached the sink.");
    describe_gauge!(
        "boxoffice_forward_lag_seconds",
        Unit::Seconds,
        "Age of the oldest event that has not reached the sink; 0 if there is none."
    );
    describe_gauge!("boxoffice_forward_leads", "1 if this process sends the events of the sink, 0 if it waits.");
    describe_counter!("boxoffice_forward_sent_total", "Events that have reached the sink.");
    describe_counter!("boxoffice_forward_failed_total", "Attempts to send an event that failed.");
}
