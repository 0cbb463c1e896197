//! How much a server takes on.

use std::time::Duration;

use clap::Args;

use crate::config::{span, span_or_none};

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
    #[arg(long, global = true, env = "BOXOFFICE_MAX_CONNECTION_AGE", value_parser = span)]
    pub max_connection_age: Option<Duration>,
    /// How long a call may take, if its caller sets no shorter deadline; streams may be open for longer.
    #[arg(long, global = true, env = "BOXOFFICE_CALL_TIMEOUT", default_value = "30s", value_parser = span)]
    pub call_timeout: Duration,
    /// How long a stopping server still serves after health says NOT_SERVING, so that callers who follow it can go; 0s: not at all.
    #[arg(long, global = true, env = "BOXOFFICE_LAME_DUCK", default_value = "500ms", value_parser = span_or_none)]
    pub lame_duck: Duration,
}

/// Above 0, and no more than a semaphore can hold.
fn count(text: &str) -> Result<usize, String> {
    let count: usize = text.parse().map_err(|_| "must be a number".to_owned())?;
    let bounds = 1..=tokio::sync::Semaphore::MAX_PERMITS;
    if bounds.contains(&count) { Ok(count) } else { Err("must be above 0".to_owned()) }
}
