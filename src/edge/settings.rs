//! How much a server takes on.

use std::{path::PathBuf, time::Duration};

use clap::Args;

/// Limits of what callers may ask for at once. What is over them is refused at once with OVERLOADED and the time to try again.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// How many calls may be under way at once on a listener, of one method no more than it leaves to the others; streams do not count.
    #[arg(long, global = true, env = "BOXOFFICE_MAX_CALLS", default_value = "16384", value_parser = count)]
    pub max_calls: usize,
    /// How many streams (WatchPosition, WatchSeats, WatchSaleStats) may be open at once on a listener.
    #[arg(long, global = true, env = "BOXOFFICE_MAX_STREAMS", default_value = "100000", value_parser = count)]
    pub max_streams: usize,
    /// How many connections may be open at once on a listener; more are closed at once.
    #[arg(long, global = true, env = "BOXOFFICE_MAX_CONNECTIONS", default_value = "10000", value_parser = count)]
    pub max_connections: usize,
    /// After how long a connection is told to make way for a new one, so that load balancers can spread it anew; calls and
    /// streams on it go on to their end. Never by default.
    #[arg(long, global = true, env = "BOXOFFICE_MAX_CONNECTION_AGE", value_parser = duration_above_zero)]
    pub max_connection_age: Option<Duration>,
    /// How long a call may take, if its caller sets no shorter deadline; streams may be open for longer.
    #[arg(long, global = true, env = "BOXOFFICE_CALL_TIMEOUT", default_value = "30s", value_parser = duration_above_zero)]
    pub call_timeout: Duration,
    /// How long a stopping server still serves after health says NOT_SERVING, so that callers who follow it can go; 0s: not at all.
    #[arg(long, global = true, env = "BOXOFFICE_LAME_DUCK", default_value = "500ms", value_parser = duration)]
    pub lame_duck: Duration,
}

/// TLS and API keys. The files are read again when they change.
#[derive(Debug, Clone, Default, Args)]
pub struct TransportSettings {
    /// PEM file of the server's certificate, with its chain: both listeners speak TLS only.
    #[arg(long, global = true, env = "BOXOFFICE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of its private key.
    #[arg(long, global = true, env = "BOXOFFICE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// PEM file of the CA that signs certificates of clients: clients have to show one, or an API key where those are in use too.
    #[arg(long, global = true, env = "BOXOFFICE_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// The same for the admin listener, where only its certificates count then.
    #[arg(long, global = true, env = "BOXOFFICE_ADMIN_TLS_CLIENT_CA", value_name = "FILE")]
    pub admin_tls_client_ca: Option<PathBuf>,
    /// File of the API keys that calls have to carry in the metadata `x-api-key`: see `boxoffice api-key new`.
    #[arg(long, global = true, env = "BOXOFFICE_API_KEYS_FILE", value_name = "FILE")]
    pub api_keys_file: Option<PathBuf>,
}

/// A span above 0.
pub fn duration_above_zero(text: &str) -> Result<Duration, String> {
    let span = duration(text)?;
    if span.is_zero() { Err("must be above 0".to_owned()) } else { Ok(span) }
}

/// A span that may be 0.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}: write 500ms, 2s or 10m"))
}

/// Above 0, and no more than a semaphore can hold.
fn count(text: &str) -> Result<usize, String> {
    let count: usize = text.parse().map_err(|_| "must be a number".to_owned())?;
    let bounds = 1..=tokio::sync::Semaphore::MAX_PERMITS;
    if bounds.contains(&count) { Ok(count) } else { Err("must be above 0".to_owned()) }
}
