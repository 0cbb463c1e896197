//! The background work of a server: prepares the database, then runs the passes.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::{
    app::{cli::Settings, core::Core, readiness::Readiness, telemetry},
    batch::{answered, passes},
    clock, db, events, live,
    queue::{self, passes::Terms},
    reservation,
    rpc::Error,
    token,
};

/// Interval between refreshes of the queue snapshots. GetPosition and WatchPosition read these snapshots.
const REFRESH_INTERVAL: Duration = Duration::from_millis(250);
/// Interval between reads of the state that replicas share: the signing keys and the database's clock.
pub const SHARED_STATE_INTERVAL: Duration = Duration::from_secs(5);
const _: () = assert!(token::rotation::NOTICE.as_secs() >= 3 * SHARED_STATE_INTERVAL.as_secs());
/// Interval between two checks that the PostgreSQL server answers and accepts writes.
pub const PRIMARY_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between two calls of [`telemetry::tidy_metrics`].
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Interval between deletions of old rows.
const TIDY_INTERVAL: Duration = Duration::from_secs(60);
/// Delay before the next attempt to prepare the database, if the last attempt failed.
const PREPARE_INTERVAL: Duration = Duration::from_millis(500);

/// Prepares the database, starts the passes and makes the server ready. Retries while the database cannot be used.
///
/// Marks the server as failed after an error that a retry cannot remove, or if the server stops before the database is
/// prepared. The promotion, expiry and tidy passes run only with `run_background`. Tests run these passes explicitly.
pub async fn prepare_and_run(core: Arc<Core>, readiness: Readiness, run_background: bool) {
    let first_key = match token::new_secret() {
        Ok(secret) => secret,
        Err(error) => return readiness.set_failed(Error::internal(error)),
    };
    if !core.db.has_one_writer() {
        run(&core, "primary", PRIMARY_INTERVAL, |core| Box::pin(async move { core.db.follow_primary().await }));
    }
    loop {
        match prepare(&core, &first_key).await {
            Ok(()) => break,
            Err(error @ db::Error::Defect(_)) => return readiness.set_failed(error.into()),
            Err(error) => tracing::warn!(%error, "the database cannot be used yet; retrying"),
        }
        tokio::select! {
            () = core.stopping.cancelled() => return readiness.set_failed(Error::ShuttingDown),
            () = tokio::time::sleep(PREPARE_INTERVAL) => {}
        }
    }
    run(&core, "refresh", REFRESH_INTERVAL, |core| Box::pin(async move { core.snapshots.refresh().await }));
    run(&core, "share", SHARED_STATE_INTERVAL, |core| Box::pin(async move { read_shared_state(&core).await }));
    if core.settings.http_listen.is_some() {
        run(&core, "sample", live::INTERVAL, |core| Box::pin(async move { core.sampler.sample().await }));
        run(&core, "upkeep", UPKEEP_INTERVAL, |_| {
            Box::pin(async {
                telemetry::tidy_metrics();
                Ok(())
            })
        });
    }
    if run_background {
        let Settings { promote_interval, expire_interval, .. } = core.settings;
        run(&core, "promote", promote_interval, |core| Box::pin(async move { promote(&core).await }));
        run(&core, "expire", expire_interval, |core| Box::pin(async move { expire(&core).await }));
        run(&core, "tidy", TIDY_INTERVAL, |core| Box::pin(async move { tidy(&core).await }));
    }
    readiness.set_ready().await;
}

/// Runs the promotion pass for all concerts. After a success, records the current time in `promoted_at`.
pub async fn promote(core: &Core) -> Result<(), db::Error> {
    let Settings { admission_ttl, claim_ttl, promote_interval, .. } = core.settings;
    let terms = Terms { admission_ttl, claim_ttl, promote_interval };
    queue::passes::promote(&core.db, &core.snapshots, terms).await?;
    *core.promoted_at.lock() = Instant::now();
    Ok(())
}

/// Sets expired admissions and holds to EXPIRED, and frees the seats of these holds.
pub async fn expire(core: &Core) -> Result<(), db::Error> {
    queue::passes::expire(&core.db).await?;
    reservation::passes::expire(&core.db, &core.sweep).await
}

/// Deletes ended tokens, released and expired reservations, and answered requests that are older than the retention
/// time. Deletes events that are older than the event retention. Then returns free space of a SQLite file to the file
/// system.
pub async fn tidy(core: &Core) -> Result<(), db::Error> {
    let cutoff = core.db.now() - clock::micros(core.settings.retention);
    queue::passes::delete_ended(&core.db, cutoff).await?;
    reservation::passes::delete_unpaid(&core.db, cutoff).await?;
    answered::delete_old(&core.db, cutoff).await?;
    let cutoff = core.db.now() - clock::micros(core.settings.event_retention);
    events::passes::delete_old(&core.db, cutoff).await?;
    passes::reclaim_space(&core.db).await
}

async fn prepare(core: &Core, first_key: &[u8]) -> Result<(), db::Error> {
    core.db.follow_primary().await?;
    core.db.migrate().await?;
    token::store::ensure_key(&core.db, first_key).await?;
    read_shared_state(core).await?;
    core.snapshots.refresh().await
}

/// Reads the state that replicas share: the database's clock and the signing keys.
async fn read_shared_state(core: &Core) -> Result<(), db::Error> {
    core.db.anchor_clock().await?;
    let keys = token::store::keys(&core.db).await?;
    core.key_ring.replace(keys, core.settings.token_key.as_ref());
    Ok(())
}

/// A function that runs a background pass with the shared parts of the server.
type Pass = fn(Arc<Core>) -> BoxFuture<'static, Result<(), db::Error>>;

fn run(core: &Arc<Core>, name: &'static str, period: Duration, pass: Pass) {
    let shared = core.clone();
    passes::every(name, period, &core.tasks, &core.stopping, move || pass(shared.clone()));
}
