//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use testkit::{Engine, Failure, Postgres};

/// Settings of PostgreSQL for measuring. Durability is as in production: every commit is flushed to disk.
const POSTGRES_SETTINGS: &str = "-c max_connections=200 -c shared_buffers=256MB -c max_wal_size=4GB";

/// Measures each operation of boxoffice against a bare echo, then how boxoffice grows. `sale` plays a whole flash sale.
#[derive(Debug, Parser)]
#[command(name = "boxoffice-bench", version, about)]
pub struct Cli {
    /// What to do; without a command, operations and growth are measured.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of all commands.
    #[command(flatten)]
    pub common: Common,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Play a whole flash sale: users arrive, queue, hold, pay, leave or come too late.
    Sale(Sale),
    /// Measure growth: long queues, many watchers, many concerts, a stadium, years of history.
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
    /// The database of the server; default `both`, and `sqlite` for a sale.
    #[arg(long, global = true)]
    pub engine: Option<EngineChoice>,
    /// A PostgreSQL to use instead of a throwaway one; the benchmark creates databases in it and drops them.
    #[arg(long, global = true, env = "BOXOFFICE_BENCH_POSTGRES_URL", hide_env_values = true)]
    pub postgres_url: Option<String>,
    /// Connections of the client.
    #[arg(long, global = true, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub connections: u16,
    /// Calls in flight on each connection.
    #[arg(long, global = true, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub in_flight: u16,
    /// Fewer and shorter rounds: less than three minutes in all.
    #[arg(long, global = true)]
    pub quick: bool,
    /// Measure the kind case: all operations take the users in the same order, and only ChargeWallet has a request_id.
    /// By default each operation takes the users in a new random order, and every write has a request_id.
    #[arg(long, global = true)]
    pub kind: bool,
    /// Write the figures to a file as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Common {
    /// Returns the engines to measure, in their order.
    pub fn engines(&self, default: EngineChoice) -> &'static [Engine] {
        match self.engine.unwrap_or(default) {
            EngineChoice::Sqlite => &[Engine::Sqlite],
            EngineChoice::Postgres => &[Engine::Postgres],
            EngineChoice::Both => &[Engine::Sqlite, Engine::Postgres],
        }
    }

    /// Returns the PostgreSQL to measure on, if it is one of `engines`.
    pub async fn postgres(&self, engines: &[Engine]) -> Result<Option<Postgres>, Failure> {
        if !engines.contains(&Engine::Postgres) {
            return Ok(None);
        }
        let server = match &self.postgres_url {
            Some(url) => Postgres::at(url).map_err(|error| format!("--postgres-url: {error}"))?,
            None => Postgres::start(POSTGRES_SETTINGS).await.map_err(|error| {
                format!("{error}; or name a running one by --postgres-url, or measure with --engine sqlite")
            })?,
        };
        Ok(Some(server))
    }
}

/// The sale to play.
#[derive(Debug, Args)]
pub struct Sale {
    /// Number of users.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    pub users: u32,
    /// Number of seats; by default half as many as users.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub seats: Option<u32>,
    /// Seats of one date.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub hall: u32,
    /// The time within which all users arrive.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub arrive: Duration,
    /// How long a user thinks before each step, on average.
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
    pub think: Duration,
    /// Watch the position in the queue instead of polling it.
    #[arg(long)]
    pub watch: bool,
    /// Give up after this time.
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration)]
    pub limit: Duration,
    /// Where to draw the sale.
    #[arg(long, default_value = "boxoffice-sale.svg", value_name = "FILE")]
    pub plot: PathBuf,
    /// A running deployment to play on, instead of one that the benchmark starts.
    #[arg(long, requires = "admin", value_name = "ADDRESS")]
    pub target: Option<String>,
    /// Where AdminService of that deployment listens.
    #[arg(long, requires = "target", value_name = "ADDRESS")]
    pub admin: Option<String>,
}

/// How far boxoffice grows. With `--quick` each number is a tenth.
#[derive(Debug, Clone, Args)]
pub struct Growth {
    /// Waiting users in one queue.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(10_000..=5_000_000))]
    pub waiting: u32,
    /// Users that watch their position.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub watchers: u32,
    /// Concerts on sale at the same time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=1_000))]
    pub concerts: u32,
    /// Seats of the stadium.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(20..=200_000))]
    pub seats: u32,
    /// Expired tokens of past sales; as many departed tokens, and as many reservations that ended.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(10_000..=5_000_000))]
    pub history: u32,
    /// Concerts that are over, each with a user that still waits.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    pub finished: u32,
    /// Users that wait for one concert with a seat for each, when its sale opens.
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(10_000..=1_000_000))]
    pub opening: u32,
    /// Admitted users that watch their position.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=50_000))]
    pub admitted: u32,
    /// Measure only these parts.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Part>,
}

/// The parts of growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// A long queue.
    Waiting,
    /// Waiting users that watch.
    Watchers,
    /// Many concerts on sale.
    Concerts,
    /// A stadium.
    Stadium,
    /// Years of history.
    History,
    /// Concerts that are over.
    Finished,
    /// The opening of a huge sale.
    Opening,
    /// Admitted users that watch.
    Admitted,
}

impl Default for Growth {
    fn default() -> Self {
        Self {
            waiting: 1_000_000,
            watchers: 50_000,
            concerts: 100,
            seats: 50_000,
            history: 1_000_000,
            finished: 10_000,
            opening: 500_000,
            admitted: 20_000,
            only: Vec::new(),
        }
    }
}

impl Growth {
    /// Returns a tenth of it.
    pub fn tenth(&self) -> Self {
        Self {
            waiting: self.waiting / 10,
            watchers: self.watchers / 10,
            concerts: self.concerts / 10,
            seats: self.seats / 10,
            history: self.history / 10,
            finished: self.finished / 10,
            opening: self.opening / 10,
            admitted: self.admitted / 10,
            only: self.only.clone(),
        }
    }

    /// Tells whether a part is to be measured.
    pub fn includes(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
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
