//! Logs and metrics.

use std::net::SocketAddr;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tracing_subscriber::EnvFilter;

use crate::{
    app::cli::{LogFormat, Settings},
    rpc::Error,
};

/// Starts logging to standard error, and metrics if they have a listener.
pub fn start(settings: &Settings) -> Result<(), Error> {
    // What these say at INFO is noise to operators; directives of theirs come later and win.
    let directives = format!("sea_orm_migration=warn,sqlx=warn,{}", settings.log);
    let filter = EnvFilter::try_new(directives).map_err(Error::internal)?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    settings.metrics_listen.map_or(Ok(()), serve_metrics)
}

/// Seconds, as OpenTelemetry has them for calls; counted in buckets so that replicas add up.
const CALL_BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

fn serve_metrics(listen: SocketAddr) -> Result<(), Error> {
    let calls = Matcher::Full("rpc_server_call_duration_seconds".to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(calls, &CALL_BUCKETS).map_err(Error::internal)?;
    builder.with_http_listener(listen).install().map_err(Error::internal)
}
