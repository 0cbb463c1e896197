//! Serves the HTTP listener: probes, metrics and the live page, over HTTP/1.1.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    http::{HeaderName, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    app::{core::Core, readiness::Readiness, telemetry},
    edge::{self, Hosts, Limit, web},
    live::{self, MAX_PAGES, Site},
};

/// Maximum number of connections of the HTTP listener. Open pages use at most a quarter of them, so probes and
/// Prometheus can still connect.
pub const MAX_CONNECTIONS: usize = 4 * MAX_PAGES;
/// The content type of the text format of Prometheus.
pub const METRICS_TYPE: [(HeaderName, &str); 1] = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];

/// Serves HTTP on `socket`, which listens on `address`, until the server stops.
pub fn serve(core: &Arc<Core>, readiness: &Readiness, socket: TcpListener, address: SocketAddr) -> JoinHandle<()> {
    let routes = web::guarded(routes(core, readiness, address), Hosts::new(address, &core.settings.http_hosts));
    let connections = edge::incoming(socket, "http_connections", MAX_CONNECTIONS);
    match core.transport.http_tls(address) {
        None => tokio::spawn(web::serve(connections, routes, core.stopping.clone())),
        Some(tls) => tokio::spawn(web::serve(edge::tls::accept(connections, tls), routes, core.stopping.clone())),
    }
}

fn routes(core: &Arc<Core>, readiness: &Readiness, address: SocketAddr) -> Router {
    let site = Arc::new(Site {
        sampler: core.sampler.clone(),
        catalogue: core.catalogue.clone(),
        boards: core.boards.clone(),
        db: core.db.clone(),
        currency: core.settings.currency.clone(),
        access: core.transport.page_access(address),
        pages: Limit::new("pages", MAX_PAGES),
        stopping: core.stopping.clone(),
    });
    let (probed, measured) = (core.clone(), core.clone());
    let (readiness, counted) = (readiness.clone(), site.clone());
    Router::new()
        .route("/livez", get(async || "the process runs\n"))
        .route("/readyz", get(async move || readyz(&probed, &readiness)))
        .route("/metrics", get(async move || (METRICS_TYPE, metrics(&measured) + &counted.gauges())))
        .merge(live::routes(site))
        .fallback(async || (StatusCode::NOT_FOUND, "this path does not exist; use /, /livez, /readyz or /metrics\n"))
}

/// Returns the metrics of the server without the gauges of the sales.
fn metrics(core: &Core) -> String {
    let promotion_lag = core.promoted_at.lock().elapsed();
    metrics::gauge!("boxoffice_promotion_lag_seconds").set(promotion_lag);
    // Before the first answer of the database, both times count from the start of the server.
    telemetry::render_metrics(&core.db, core.snapshots.age().unwrap_or(promotion_lag))
}

fn readyz(core: &Core, readiness: &Readiness) -> impl IntoResponse + use<> {
    match readiness.obstacle(core.snapshots.age()) {
        None => (StatusCode::OK, "the server is ready\n".to_owned()),
        Some(obstacle) => (StatusCode::SERVICE_UNAVAILABLE, format!("{obstacle}\n")),
    }
}
