//! Logs and metrics.

use std::net::SocketAddr;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tracing_subscriber::EnvFilter;

use crate::app::cli::{LogFormat, Settings};

/// Upper bounds of the histogram of call durations, in seconds, as OpenTelemetry recommends. All replicas have the same
/// buckets, so their counts can be added.
const CALL_BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Starts logging to standard error. Serves metrics if a listener is configured for them. Fails with a message for the
/// operator.
pub fn start(settings: &Settings) -> Result<(), String> {
    // The INFO lines of these crates are noise to operators. The directives of the operator come later, so they take
    // precedence.
    let directives = format!("sea_orm_migration=warn,sqlx=warn,{}", settings.log);
    let filter = EnvFilter::try_new(directives)
        .map_err(|error| format!("BOXOFFICE_LOG is not a level or directives: {error}"))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    settings.metrics_listen.map_or(Ok(()), serve_metrics)
}

fn serve_metrics(listen: SocketAddr) -> Result<(), String> {
    let calls = Matcher::Full("rpc_server_call_duration_seconds".to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(calls, &CALL_BUCKETS);
    let installed = builder.and_then(|builder| builder.with_http_listener(listen).install());
    installed.map_err(|error| format!("metrics cannot be served on {listen}: {error}"))
}
