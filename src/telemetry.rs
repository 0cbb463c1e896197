//! Logs and metrics.

use std::net::SocketAddr;

use metrics_exporter_prometheus::PrometheusBuilder;
use tracing_subscriber::EnvFilter;

use crate::{
    config::{LogFormat, Settings},
    error::Error,
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

fn serve_metrics(listen: SocketAddr) -> Result<(), Error> {
    PrometheusBuilder::new().with_http_listener(listen).install().map_err(Error::internal)
}
