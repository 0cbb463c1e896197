//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

/// Measures boxoffice against a bare echo, operation by operation, and how it grows; `sale` plays a whole flash sale.
#[derive(Debug, Parser)]
#[command(name = "boxoffice-bench", version, about)]
pub struct Cli {
    /// What to do; measure each operation without one.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What all commands share.
    #[command(flatten)]
    pub common: Common,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Play a whole flash sale: users arrive, queue, hold, pay, leave or come too late.
    Sale(Sale),
    /// Measure what becomes of it when it grows: long queues, many watchers, many concerts, a stadium.
    Growth(Growth),
    /// Serve the echo that operations are compared with, until standard input ends.
    #[command(hide = true)]
    Echo {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
}

/// How to measure.
#[derive(Debug, Args)]
pub struct Common {
    /// What the server keeps its data in; `both` by default, `sqlite` for a sale.
    #[arg(long, global = true)]
    pub engine: Option<EngineChoice>,
    /// A PostgreSQL to use instead of a throwaway one; databases of its own are made in it and dropped.
    #[arg(long, global = true, env = "BOXOFFICE_BENCH_POSTGRES_URL", hide_env_values = true)]
    pub postgres_url: Option<String>,
    /// Connections of the client.
    #[arg(long, global = true, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub connections: u16,
    /// Calls in flight on each connection.
    #[arg(long, global = true, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub in_flight: u16,
    /// Fewer and shorter rounds: under three minutes in all.
    #[arg(long, global = true)]
    pub quick: bool,
    /// Send a request_id with HoldSeats and Pay too, as ChargeWallet always does.
    #[arg(long, global = true)]
    pub request_ids: bool,
    /// Write the figures to a file as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// The sale to play.
#[derive(Debug, Args)]
pub struct Sale {
    /// How many users come.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    pub users: u32,
    /// How many seats there are; half as many as users by default.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub seats: Option<u32>,
    /// Seats of one date.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub hall: u32,
    /// Within what time they all arrive.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub arrive: Duration,
    /// How long a user thinks before each step, on average.
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
    pub think: Duration,
    /// Watch the place in the queue instead of polling it.
    #[arg(long)]
    pub watch: bool,
    /// Give up after this time.
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration)]
    pub limit: Duration,
    /// Where to draw the sale.
    #[arg(long, default_value = "boxoffice-sale.svg", value_name = "FILE")]
    pub plot: PathBuf,
    /// A deployment that is running already, instead of one of its own.
    #[arg(long, requires = "admin", value_name = "ADDRESS")]
    pub target: Option<String>,
    /// Where AdminService of that deployment is.
    #[arg(long, requires = "target", value_name = "ADDRESS")]
    pub admin: Option<String>,
}

/// How far it grows.
#[derive(Debug, Args)]
pub struct Growth {
    /// How many wait in one queue.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=5_000_000))]
    pub waiting: u32,
    /// How many watch their place.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub watchers: u32,
    /// How many concerts are sold at once.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub concerts: u32,
    /// How many seats the stadium has.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(2..=200_000))]
    pub seats: u32,
}

impl Default for Growth {
    fn default() -> Self {
        Self { waiting: 1_000_000, watchers: 50_000, concerts: 100, seats: 50_000 }
    }
}

/// Which engines to measure on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// SQLite only.
    Sqlite,
    /// PostgreSQL only.
    Postgres,
    /// One after the other.
    Both,
}

/// What a server keeps its data in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// A SQLite file.
    Sqlite,
    /// A PostgreSQL database.
    Postgres,
}

impl EngineChoice {
    /// The engines in the order in which they are measured.
    pub fn engines(self) -> &'static [Engine] {
        match self {
            Self::Sqlite => &[Engine::Sqlite],
            Self::Postgres => &[Engine::Postgres],
            Self::Both => &[Engine::Sqlite, Engine::Postgres],
        }
    }
}

impl Engine {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_target_needs_its_admin() {
        assert!(Cli::try_parse_from(["boxoffice-bench", "sale", "--target", "127.0.0.1:1"]).is_err());
    }
}
