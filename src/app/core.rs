//! The state that the services, the listeners and the background passes of one server share.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::Statistics, app::cli::Settings, catalogue::Catalogue, clock::Clock, concert::Boards, db::Database,
    edge::Transport, live::Sampler, queue::Snapshots, reservation::passes::Sweep, rpc::Error, token::KeyRing,
};

/// The shared parts of a server.
pub struct Core {
    /// The settings that the server was started with.
    pub settings: Settings,
    /// The database; it may not be reachable yet.
    pub db: Database,
    /// The catalogue, cached in memory.
    pub catalogue: Arc<Catalogue>,
    /// The queue snapshots in memory, which GetPosition and WatchPosition read.
    pub snapshots: Snapshots,
    /// The seat boards of the watched performances, for WatchSeats and the live page.
    pub boards: Arc<Boards>,
    /// The statistics of sales. Concurrent requests for the same sale share one query.
    pub statistics: Statistics,
    /// The sampler that reads the counts of the sales, for the live page and the metrics.
    pub sampler: Arc<Sampler>,
    /// The time of the last successful promotion of this server. Before the first promotion, the start of the server.
    pub promoted_at: Mutex<Instant>,
    /// The keys that sign and verify queue tokens.
    pub key_ring: Arc<KeyRing>,
    /// TLS settings and API keys.
    pub transport: Transport,
    /// The progress of this server in the expiry pass of holds.
    pub sweep: Sweep,
    /// The tasks that a stopping server waits for, at most until the drain timeout.
    pub tasks: TaskTracker,
    /// A token that is cancelled when the server starts to drain.
    pub stopping: CancellationToken,
}

impl Core {
    /// Creates the shared parts and reads the TLS and API key files. It does not connect to the database yet.
    pub async fn new(settings: Settings, clock: Clock) -> Result<Self, Error> {
        let db = Database::with_commits(&settings.database_url, settings.synchronous_commit, clock).await?;
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        let catalogue = Arc::new(Catalogue::new(db.clone()));
        let snapshots = Snapshots::new(db.clone(), settings.poll_budget);
        let statistics = Statistics::new(db.clone(), snapshots.clone());
        let sampler = Sampler::new(db.clone(), catalogue.clone(), snapshots.clone(), statistics.clone());
        Ok(Self {
            catalogue,
            snapshots,
            boards: Arc::new(Boards::new(&db, &tasks, stopping.clone())),
            statistics,
            sampler: Arc::new(sampler),
            promoted_at: Mutex::new(Instant::now()),
            key_ring: Arc::default(),
            transport: Transport::open(&settings.transport).map_err(Error::internal)?,
            db,
            settings,
            sweep: Sweep::default(),
            tasks,
            stopping,
        })
    }
}
