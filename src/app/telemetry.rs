//! Logs and metrics. `traces.rs` has the traces.

use std::{sync::OnceLock, time::Duration};

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::{
    app::cli::{LogFormat, Settings},
    db::Database,
    rpc,
};

/// Upper bounds of the histogram of call durations, in seconds, as OpenTelemetry recommends. All replicas have the same
/// buckets, so their counts can be added.
const CALL_BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Upper bounds of the histograms of background passes, lane waits and batches, in seconds. Most of these times are
/// shorter than calls.
const STEP_BUCKETS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Upper bounds of the histogram of batch sizes, in calls. The last bound is the size of the largest batch.
const SIZE_BUCKETS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// The handle of the metrics recorder. It is empty until [`start_metrics`] installs the recorder.
static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

/// Starts logging to standard error. Fails with a message for the operator.
pub fn start_logs(settings: &Settings) -> Result<(), String> {
    // Operators do not need the INFO lines of these crates. The directives of the operator come later in the text, so
    // they take precedence.
    let directives = format!("async_nats=warn,sea_orm_migration=warn,sqlx=warn,{}", settings.log);
    let filter = EnvFilter::try_new(directives).map_err(|error| {
        format!("BOXOFFICE_LOG is invalid: {error}; use a level like info, or directives like info,boxoffice=debug")
    })?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    Ok(())
}

/// Installs the metrics recorder. Metrics that were created earlier are not recorded.
pub fn start_metrics() -> Result<(), String> {
    let buckets: [(&str, &[f64]); 5] = [
        ("rpc_server_call_duration_seconds", &CALL_BUCKETS),
        ("boxoffice_pass_seconds", &STEP_BUCKETS),
        ("boxoffice_lane_wait_seconds", &STEP_BUCKETS),
        ("boxoffice_lane_batch_seconds", &STEP_BUCKETS),
        ("boxoffice_lane_batch_size", &SIZE_BUCKETS),
    ];
    let builder = buckets.into_iter().try_fold(PrometheusBuilder::new(), |builder, (name, buckets)| {
        builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)
    });
    let installed = builder.and_then(PrometheusBuilder::install_recorder);
    let handle = installed.map_err(|error| format!("metrics cannot be recorded: {error}"))?;
    // A second installation of a recorder fails above, so this value is not set yet.
    let _ = METRICS.set(handle);
    describe();
    rpc::count_panics_from_zero();
    Ok(())
}

/// Moves the values that were recorded since the last call into the histograms, which need less memory. Must run every
/// few seconds.
pub fn tidy_metrics() {
    if let Some(metrics) = METRICS.get() {
        metrics.run_upkeep();
    }
}

/// Returns the metrics of this process in the text format of Prometheus. Updates the gauges of the database first.
/// `database_age` is the time since the last answer of the database, or since the start of the process.
pub fn render_metrics(db: &Database, database_age: Duration) -> String {
    for pool in db.pools() {
        for (state, count) in [("busy", pool.busy_count), ("idle", pool.idle_count)] {
            metrics::gauge!("boxoffice_database_connections", "pool" => pool.pool, "state" => state).set(count);
        }
        metrics::gauge!("boxoffice_database_max_connections", "pool" => pool.pool).set(pool.max_count);
    }
    metrics::gauge!("boxoffice_database_silence_seconds").set(database_age);
    METRICS.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// Gives every metric its help text.
fn describe() {
    describe_histogram!("rpc_server_call_duration_seconds", Unit::Seconds, "Duration of calls and streams.");
    describe_gauge!("boxoffice_open", "Number of permits of each limit that are in use.");
    describe_counter!("boxoffice_shed_total", "Calls, connections and live pages that each limit or lane rejected.");
    describe_counter!("boxoffice_panics_total", "Panics that were caught.");
    describe_histogram!("boxoffice_pass_seconds", Unit::Seconds, "Duration of background passes.");
    describe_histogram!("boxoffice_lane_batch_size", "Calls per batch.");
    describe_histogram!("boxoffice_lane_wait_seconds", Unit::Seconds, "Time that calls waited for their batch.");
    describe_histogram!("boxoffice_lane_batch_seconds", Unit::Seconds, "Duration of batches.");
    describe_counter!("boxoffice_lane_statements_total", "Statements of the batches' transactions.");
    describe_gauge!("boxoffice_database_connections", "Open connections to the database.");
    describe_gauge!("boxoffice_database_max_connections", "Maximum number of connections to the database.");
    describe_gauge!(
        "boxoffice_database_silence_seconds",
        Unit::Seconds,
        "Time since the last answer of the database to the pass that queries it at least once per second."
    );
    describe_gauge!(
        "boxoffice_promotion_lag_seconds",
        Unit::Seconds,
        "Time since the last successful promotion of this server, or since its start."
    );
}
