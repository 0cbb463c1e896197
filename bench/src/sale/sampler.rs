//! Looks at the sale a few times a second while it runs.

use std::time::{Duration, Instant};

use boxoffice::rpc::proto::{SaleStats, admin_service_client::AdminServiceClient};
use indicatif::ProgressBar;
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::transport::Channel;

use crate::{Failure, world};

const EVERY: Duration = Duration::from_millis(200);

/// What the sale had come to at some time.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Seconds since the sale was opened.
    pub seconds: f64,
    /// The counts.
    pub stats: SaleStats,
}

/// A sampler at work.
pub struct Sampler {
    stop: oneshot::Sender<()>,
    work: JoinHandle<Result<Vec<(Instant, SaleStats)>, Failure>>,
}

impl Sampler {
    /// Starts to look, and shows what it sees.
    pub fn start(admin: AdminServiceClient<Channel>, concert_code: String, progress: ProgressBar) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, work: tokio::spawn(look(admin, concert_code, progress, stopped)) }
    }

    /// Looks once more, and returns all that was seen since the sale was opened.
    pub async fn stop(self, opened: Instant) -> Result<Vec<Sample>, Failure> {
        // It fails only if the sampler has failed before, which the next line tells.
        let _ = self.stop.send(());
        let seen = self.work.await??;
        let sample = |(at, stats): (Instant, SaleStats)| Sample {
            seconds: at.saturating_duration_since(opened).as_secs_f64(),
            stats,
        };
        Ok(seen.into_iter().map(sample).collect())
    }
}

async fn look(
    admin: AdminServiceClient<Channel>,
    concert_code: String,
    progress: ProgressBar,
    mut stopped: oneshot::Receiver<()>,
) -> Result<Vec<(Instant, SaleStats)>, Failure> {
    let mut seen = Vec::new();
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
        seen.push((Instant::now(), stats));
        if is_last {
            return Ok(seen);
        }
    }
}
