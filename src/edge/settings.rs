//! The settings of the edge, as flags and environment variables. The comments of the fields are the texts of `--help`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

/// Limits on calls, streams and connections. A call above a limit fails immediately with OVERLOADED and a retry delay.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// Maximum number of in-flight calls on a gRPC listener, without streams. One method may use at most half of this
    /// number.
    #[arg(long, global = true, env = "BOXOFFICE_MAX_CALLS", default_value = "16384", value_parser = count)]
    pub max_calls: usize,
    /// Maximum number of open streams (such as WatchPosition and WatchSeats) on a gRPC listener.
    #[arg(long, global = true, env = "BOXOFFICE_MAX_STREAMS", default_value = "100000", value_parser = count)]
    pub max_streams: usize,
    /// Maximum number of connections on a gRPC listener; further connections are closed immediately.
    #[arg(long, global = true, env = "BOXOFFICE_MAX_CONNECTIONS", default_value = "10000", value_parser = count)]
    pub max_connections: usize,
    /// Age at which the server asks a client to replace its connection, so that load balancers can distribute the load
    /// again. Calls and streams on the old connection run to their end. Default: no maximum.
    #[arg(long, global = true, env = "BOXOFFICE_MAX_CONNECTION_AGE", value_parser = duration_above_zero)]
    pub max_connection_age: Option<Duration>,
    /// Maximum duration of a call. A client may set a shorter timeout. An open stream may last longer.
    #[arg(
        long,
        global = true,
        env = "BOXOFFICE_CALL_TIMEOUT",
        default_value = "30s",
        value_parser = duration_above_zero
    )]
    pub call_timeout: Duration,
    /// Time for which a stopping server still accepts calls after health reports NOT_SERVING. Clients that watch health
    /// use this time to change to another server. With 0s, the server refuses new calls immediately.
    #[arg(long, global = true, env = "BOXOFFICE_LAME_DUCK", default_value = "500ms", value_parser = duration)]
    pub lame_duck: Duration,
}

/// TLS and API keys. The server reloads changed files without a restart.
#[derive(Debug, Clone, Default, Args)]
pub struct TransportSettings {
    /// PEM file of the server's certificate and its chain. With it, both gRPC listeners accept only TLS. The HTTP
    /// listener then uses TLS unless its address is a loopback address.
    #[arg(long, global = true, env = "BOXOFFICE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the private key of the server's certificate.
    #[arg(long, global = true, env = "BOXOFFICE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// PEM file of the CA that signs client certificates. Clients must present a certificate of this CA. If API keys
    /// are configured too, an API key is enough.
    #[arg(long, global = true, env = "BOXOFFICE_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// PEM file of the CA that signs client certificates for the admin listener. Default: the same CA as for the public
    /// listener.
    #[arg(long, global = true, env = "BOXOFFICE_ADMIN_TLS_CLIENT_CA", value_name = "FILE")]
    pub admin_tls_client_ca: Option<PathBuf>,
    /// File of the API keys, made with `boxoffice api-key new`. With it, each call must have a key in the metadata
    /// `x-api-key`, unless the client presents a certificate.
    #[arg(long, global = true, env = "BOXOFFICE_API_KEYS_FILE", value_name = "FILE")]
    pub api_keys_file: Option<PathBuf>,
}

/// Parses a duration above 0.
pub fn duration_above_zero(text: &str) -> Result<Duration, String> {
    let parsed = duration(text)?;
    if parsed.is_zero() { Err("must be above 0".to_owned()) } else { Ok(parsed) }
}

/// Parses a duration, which may be 0.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}: write a duration like 500ms, 2s or 10m"))
}

/// Parses a number from 1 to the maximum number of permits of a semaphore.
fn count(text: &str) -> Result<usize, String> {
    let count: usize = text.parse().map_err(|_| "must be a number".to_owned())?;
    let bounds = 1..=tokio::sync::Semaphore::MAX_PERMITS;
    if bounds.contains(&count) { Ok(count) } else { Err(format!("must be from 1 to {}", bounds.end())) }
}
