//! Implements `boxoffice forward`: sends the feed of events on to NATS or to a webhook.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{
        background::{PRIMARY_INTERVAL, SHARED_STATE_INTERVAL, UPKEEP_INTERVAL},
        cli::{ForwardOptions, Settings},
        failure::{Failure, read},
        http::{MAX_CONNECTIONS, METRICS_TYPE},
        readiness::MAX_DATABASE_AGE,
        server::bind,
        telemetry,
    },
    batch::passes,
    clock::Clock,
    db::{self, Database},
    edge::{self, Hosts, Transport, web},
    forward::{Forwarder, Lag, Secrets, Sink, WebhookOptions, describe_metrics},
};

/// Interval between two measurements of the lag.
const LAG_INTERVAL: Duration = Duration::from_secs(1);
/// Delay before the next attempt to prepare the database, if the last attempt failed.
const PREPARE_INTERVAL: Duration = Duration::from_millis(500);

/// Forwards events until the process receives SIGTERM or SIGINT. Then stores the cursor and ends the lease. Fails if an
/// operator must act.
pub async fn run(settings: &Settings, options: ForwardOptions) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let clock = Clock::system();
    let start = options.from;
    let (sink, name) = open(options, clock.clone())?;
    let http = match settings.http_listen {
        None => None,
        Some(address) => {
            telemetry::start_metrics()?;
            describe_metrics();
            Some(bind(address).await?)
        }
    };
    let db = Database::with_commits(&settings.database_url, settings.synchronous_commit, clock).await?;
    let (tasks, stopping, lag) = (TaskTracker::new(), CancellationToken::new(), Arc::new(Lag::new(name.clone())));
    if let Some(socket) = http {
        let address = socket.local_addr()?;
        tasks.spawn(serve_http(settings, socket, address, db.clone(), lag.clone(), stopping.clone())?);
        tracing::info!(http_address = %address, "listening");
    }
    let work = async {
        let Some(prepared) = stopping.run_until_cancelled(prepare(&db)).await else { return Ok(()) };
        prepared?;
        start_passes(&db, &lag, &tasks, &stopping);
        Forwarder::new(db.clone(), name, start, sink).run(stopping.clone()).await.map_err(Failure::from)
    };
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stopping.cancel();
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = work => ended,
        () = stop => Ok(()),
    };
    stopping.cancel();
    ended
}

/// Reads the options. Returns the sink and its name.
fn open(options: ForwardOptions, clock: Clock) -> Result<(Sink, String), Failure> {
    let ForwardOptions { to, name, secret, secret_file, source, ca, allow_private_addresses, .. } = options;
    let secret = match (secret, secret_file) {
        (Some(secret), _) => Some(secret),
        (None, Some(file)) => Some(String::from_utf8(read(&file)?)?.into()),
        (None, None) => None,
    };
    let secrets = secret.as_ref().map(Secrets::read).transpose()?;
    let webhook = WebhookOptions { secrets, source, allow_private: allow_private_addresses };
    let sink = Sink::new(&to, ca, webhook, clock)?;
    let name = name.unwrap_or_else(|| sink.default_name());
    Ok((sink, name))
}

/// Waits until the database can be used, and applies the pending migrations. Fails after an error that a retry cannot
/// remove.
async fn prepare(db: &Database) -> Result<(), Failure> {
    loop {
        let prepared = async {
            db.follow_primary().await?;
            db.migrate().await?;
            db.anchor_clock().await
        };
        match prepared.await {
            Ok(()) => return Ok(()),
            Err(error @ db::Error::Defect(_)) => return Err(error.into()),
            Err(error) => tracing::warn!(%error, "the database cannot be used yet; retrying"),
        }
        tokio::time::sleep(PREPARE_INTERVAL).await;
    }
}

/// Starts the passes that follow PostgreSQL and its clock, and measure the lag.
fn start_passes(db: &Database, lag: &Arc<Lag>, tasks: &TaskTracker, stopping: &CancellationToken) {
    if !db.has_one_writer() {
        let followed = db.clone();
        passes::every("primary", PRIMARY_INTERVAL, tasks, stopping, move || {
            let db = followed.clone();
            async move { db.follow_primary().await }
        });
        let anchored = db.clone();
        passes::every("share", SHARED_STATE_INTERVAL, tasks, stopping, move || {
            let db = anchored.clone();
            async move { db.anchor_clock().await }
        });
    }
    let measured = (db.clone(), lag.clone());
    passes::every("lag", LAG_INTERVAL, tasks, stopping, move || {
        let (db, lag) = measured.clone();
        async move { lag.measure(&db).await }
    });
    passes::every("upkeep", UPKEEP_INTERVAL, tasks, stopping, async || {
        telemetry::tidy_metrics();
        Ok(())
    });
}

/// Returns a future that serves the probes and the metrics until `stopping` is cancelled.
fn serve_http(
    settings: &Settings,
    socket: TcpListener,
    address: SocketAddr,
    db: Database,
    lag: Arc<Lag>,
    stopping: CancellationToken,
) -> Result<impl Future<Output = ()> + use<>, Failure> {
    let probed = lag.clone();
    let routes = Router::new()
        .route("/livez", get(async || "the process runs\n"))
        .route("/readyz", get(async move || readyz(&probed)))
        .route("/metrics", get(async move || (METRICS_TYPE, telemetry::render_metrics(&db, lag.database_age()))))
        .fallback(async || (StatusCode::NOT_FOUND, "this path does not exist; use /livez, /readyz or /metrics\n"));
    let routes = web::guarded(routes, Hosts::new(address, &settings.http_hosts));
    let connections = edge::incoming(socket, "http_connections", MAX_CONNECTIONS);
    let tls = Transport::open(&settings.transport)?.http_tls(address);
    Ok(async move {
        match tls {
            None => web::serve(connections, routes, stopping).await,
            Some(tls) => web::serve(edge::tls::accept(connections, tls), routes, stopping).await,
        }
    })
}

fn readyz(lag: &Lag) -> impl IntoResponse + use<> {
    if lag.database_age() > MAX_DATABASE_AGE {
        return (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n");
    }
    (StatusCode::OK, "the process is ready\n")
}
