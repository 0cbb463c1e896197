//! What the services, the listeners and the background passes of one server share.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::cli::Settings, catalogue::Catalogue, clock::Clock, db::Database, edge::Transport, queue::Snapshots,
    reservation::passes::Sweep, rpc::Error, token::KeyRing,
};

/// The shared parts of a server.
pub struct Core {
    /// The settings that the server was started with.
    pub settings: Settings,
    /// The database; it may not be reachable yet.
    pub db: Database,
    /// The catalogue, cached in memory.
    pub catalogue: Arc<Catalogue>,
    /// The queues as polling reads them, in memory.
    pub snapshots: Snapshots,
    /// The keys that sign and verify queue tokens.
    pub key_ring: Arc<KeyRing>,
    /// TLS settings and API keys.
    pub transport: Transport,
    /// How far this server has swept holds.
    pub sweep: Sweep,
    /// The tasks to wait for when the server stops.
    pub tasks: TaskTracker,
    /// Cancelled when the server begins to drain.
    pub stopping: CancellationToken,
}

impl Core {
    /// Reads the files of TLS and of API keys, and connects to nothing yet.
    pub async fn new(settings: Settings, clock: Clock) -> Result<Self, Error> {
        let db = Database::new(&settings.database_url, clock).await?;
        Ok(Self {
            catalogue: Arc::new(Catalogue::new(db.clone())),
            snapshots: Snapshots::new(db.clone(), settings.poll_budget),
            key_ring: Arc::default(),
            transport: Transport::open(&settings.transport).map_err(Error::internal)?,
            db,
            settings,
            sweep: Sweep::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        })
    }
}
