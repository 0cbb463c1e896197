//! Reads the statistics of the sale about five times per second during the sale.

use std::time::{Duration, Instant};

use boxoffice::rpc::proto::SaleStats;
use indicatif::ProgressBar;
use testkit::Failure;
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::transport::Channel;

use crate::world;

const EVERY: Duration = Duration::from_millis(200);

/// The statistics of the sale at one time.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The seconds from the opening of the sale to the answer; 0 for an answer before the opening.
    pub seconds: f64,
    /// The answer of GetSaleStats.
    pub stats: SaleStats,
}

/// A task that reads the statistics of a sale regularly.
pub struct Sampler {
    stop: oneshot::Sender<()>,
    work: JoinHandle<Result<Vec<(Instant, SaleStats)>, Failure>>,
}

impl Sampler {
    /// Starts the task. It also shows the counts in the progress bar.
    pub fn start(admin: Channel, concert_code: String, progress: ProgressBar) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, work: tokio::spawn(sample(admin, concert_code, progress, stopped)) }
    }

    /// Reads the statistics once more and stops the task. Returns all samples, in the order of their times.
    pub async fn stop(self, opened: Instant) -> Result<Vec<Sample>, Failure> {
        // The sending fails only if the task has ended with an error, which the next line returns.
        let _ = self.stop.send(());
        let samples = self.work.await??;
        let sample = |(at, stats): (Instant, SaleStats)| Sample {
            seconds: at.saturating_duration_since(opened).as_secs_f64(),
            stats,
        };
        Ok(samples.into_iter().map(sample).collect())
    }
}

async fn sample(
    admin: Channel,
    concert_code: String,
    progress: ProgressBar,
    mut stopped: oneshot::Receiver<()>,
) -> Result<Vec<(Instant, SaleStats)>, Failure> {
    let mut samples = Vec::new();
    loop {
        let is_last = tokio::select! {
            biased;
            _ = &mut stopped => true,
            () = tokio::time::sleep(EVERY) => false,
        };
        let stats = world::stats(&admin, &concert_code).await?;
        progress.set_position(stats.sold_seat_count.max(0).unsigned_abs().into());
        progress.set_message(format!(
            "({} waiting, {} active, {} held)",
            stats.waiting_count, stats.active_count, stats.held_seat_count
        ));
        samples.push((Instant::now(), stats));
        if is_last {
            return Ok(samples);
        }
    }
}
