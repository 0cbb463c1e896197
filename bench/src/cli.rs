//! The command line of the benchmark.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use testkit::{Engine, Failure, Postgres};

/// Flags of the temporary PostgreSQL server. They do not change durability: every commit is flushed to disk.
const POSTGRES_SETTINGS: &str = "-c max_connections=200 -c shared_buffers=256MB -c max_wal_size=4GB";

/// Compare each operation of boxoffice with a bare echo, then measure growth. The command `sale` simulates a whole
/// flash sale.
#[derive(Debug, Parser)]
#[command(name = "boxoffice-bench", version, about)]
pub struct Cli {
    /// The command. Without a command, the benchmark measures the operations, and then growth unless `--quick` is set.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of all commands.
    #[command(flatten)]
    pub common: Common,
}

/// The commands of `boxoffice-bench`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Simulate a whole flash sale, in which users arrive, wait, hold seats, and pay or leave.
    Sale(Sale),
    /// Measure growth: long queues, watchers, many concerts, a stadium, a crowd, past sales, a huge opening, a draw.
    Growth(Growth),
    /// Serve the echo until standard input ends. The benchmark starts this command as a separate process.
    #[command(hide = true)]
    Echo {
        /// Address on which the echo listens.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Port of a Redis on this machine. Each call is then forwarded to this Redis.
        #[arg(long)]
        redis: Option<u16>,
    },
}

/// The options of all commands.
#[derive(Debug, Args)]
pub struct Common {
    /// Database of the server. The default is `sqlite` for the command `sale`, and otherwise `both`.
    #[arg(long, global = true)]
    pub engine: Option<EngineChoice>,
    /// URL of a running PostgreSQL server to use instead of a temporary server. The benchmark creates databases on this
    /// server and drops them.
    #[arg(long, global = true, env = "BOXOFFICE_BENCH_POSTGRES_URL", hide_env_values = true)]
    pub postgres_url: Option<String>,
    /// Number of connections to the server. The echo gets the same number of connections.
    #[arg(long, global = true, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub connections: u16,
    /// Number of in-flight calls on each connection.
    #[arg(long, global = true, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub in_flight: u16,
    /// Measure the operations with shorter rounds and fewer users, in a few minutes. The command
    /// `growth` divides each of its numbers by 10. The command `sale` does not change.
    #[arg(long, global = true)]
    pub quick: bool,
    /// Measure the operations under easier conditions: all operations use the users in the same order, and only
    /// ChargeWallet has a request_id. By default, each write uses the users in a new random order, and every call that
    /// accepts a request_id has one.
    #[arg(long, global = true)]
    pub kind: bool,
    /// Measure the operations only at full load, in about a minute per engine: no open loop and no peers
    #[arg(long, global = true)]
    pub closed_loop: bool,
    /// Number of runs of the operations. Each run starts with new databases. With several runs, the report has the
    /// median and the spread of each figure. Growth is measured once.
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub runs: u16,
    /// Number of servers on one PostgreSQL database in the measurement of the operations.
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub replicas: u16,
    /// Number of users in one round of an operation. The default is 9,000, or 8,000 with `--quick`.
    #[arg(long, global = true, value_name = "USERS", value_parser = clap::value_parser!(u32).range(100..=200_000))]
    pub round_users: Option<u32>,
    /// File for the results of all runs as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// File for the report of the operations as Markdown.
    #[arg(long, global = true, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

impl Common {
    /// Returns the engines of `--engine`, in the order of the measurements. Without `--engine`, returns the engines of
    /// `default`.
    pub fn engines(&self, default: EngineChoice) -> &'static [Engine] {
        match self.engine.unwrap_or(default) {
            EngineChoice::Sqlite => &[Engine::Sqlite],
            EngineChoice::Postgres => &[Engine::Postgres],
            EngineChoice::Both => &[Engine::Sqlite, Engine::Postgres],
        }
    }

    /// Starts a temporary PostgreSQL server, or uses the server of `--postgres-url`. Returns `None` if `engines` does
    /// not contain PostgreSQL.
    pub async fn postgres(&self, engines: &[Engine]) -> Result<Option<Postgres>, Failure> {
        if !engines.contains(&Engine::Postgres) {
            return Ok(None);
        }
        let server = match &self.postgres_url {
            Some(url) => Postgres::at(url).map_err(|error| format!("--postgres-url: {error}"))?,
            None => Postgres::start(POSTGRES_SETTINGS).await.map_err(|error| {
                format!("{error}; name a running PostgreSQL with --postgres-url, or use --engine sqlite")
            })?,
        };
        Ok(Some(server))
    }
}

/// The options of a sale.
#[derive(Debug, Args)]
pub struct Sale {
    /// Number of users.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    pub users: u32,
    /// Number of seats on all dates together. The default is half the number of users.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub seats: Option<u32>,
    /// Number of seats of one date. The last date may have fewer seats.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub hall: u32,
    /// Time within which all users arrive.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub arrive: Duration,
    /// Average time that a user waits before each choice of seats and before the payment.
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
    pub think: Duration,
    /// Watch the position in the queue instead of polling it.
    #[arg(long)]
    pub watch: bool,
    /// Ask for the best available seats together instead of choosing seats.
    #[arg(long)]
    pub best: bool,
    /// Maximum time from the opening of the sale until all visits end. The remaining visits count as not done.
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration)]
    pub limit: Duration,
    /// File for the plot of the sale, as SVG. With `--engine both`, each engine has a separate file.
    #[arg(long, default_value = "boxoffice-sale.svg", value_name = "FILE")]
    pub plot: PathBuf,
    /// Address of the public services of a running deployment. By default the benchmark starts a server.
    #[arg(long, requires = "admin", value_name = "ADDRESS")]
    pub target: Option<String>,
    /// Address of AdminService of the deployment that `--target` names.
    #[arg(long, requires = "target", value_name = "ADDRESS")]
    pub admin: Option<String>,
}

/// The options of growth. With `--quick`, each number is divided by 10.
#[derive(Debug, Clone, Args)]
pub struct Growth {
    /// Number of waiting users in the long queue.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(10_000..=5_000_000))]
    pub waiting: u32,
    /// Number of waiting users that watch their position.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub watchers: u32,
    /// Number of concerts on sale at the same time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=1_000))]
    pub concerts: u32,
    /// Number of seats of the stadium, and of the hall whose best seats are held.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(20..=200_000))]
    pub seats: u32,
    /// Number of users that ask for the best two seats at the same time. The hall has two seats for each user.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=50_000))]
    pub crowd: u32,
    /// Number of expired tokens of past sales. The history has the same number of tokens that left, and of ended
    /// reservations.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(10_000..=5_000_000))]
    pub history: u32,
    /// Number of past concerts. In the queue of each past concert, one user still waits.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    pub finished: u32,
    /// Number of users that wait for one concert when its sale opens. The concert has as many seats as users.
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(10_000..=1_000_000))]
    pub opening: u32,
    /// Number of users that take part in a draw when the sale of their concert opens.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(10_000..=5_000_000))]
    pub draw: u32,
    /// Number of participants of the draw that watch their position.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(10..=50_000))]
    pub draw_watchers: u32,
    /// Number of admitted users that watch their position.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=50_000))]
    pub admitted: u32,
    /// Parts to measure, separated by commas. By default all parts are measured.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Part>,
}

/// The parts of growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// A long queue of waiting users.
    Waiting,
    /// Waiting users that watch their position.
    Watchers,
    /// Many concerts on sale at the same time.
    Concerts,
    /// The list of the seats of a stadium.
    Stadium,
    /// Holds of the best available seats.
    Best,
    /// Users that ask for the best available seats at the same time.
    Crowd,
    /// Rows of past sales, and their deletion.
    History,
    /// Past concerts with waiting users.
    Finished,
    /// The opening of a huge sale.
    Opening,
    /// The opening of a sale with a draw.
    Draw,
    /// Admitted users that watch their position.
    Admitted,
}

impl Default for Growth {
    fn default() -> Self {
        Self {
            waiting: 1_000_000,
            watchers: 50_000,
            concerts: 100,
            seats: 50_000,
            crowd: 10_000,
            history: 1_000_000,
            finished: 10_000,
            opening: 500_000,
            draw: 1_000_000,
            draw_watchers: 5_000,
            admitted: 20_000,
            only: Vec::new(),
        }
    }
}

impl Growth {
    /// Returns a copy in which each number is divided by 10.
    pub fn tenth(&self) -> Self {
        Self {
            waiting: self.waiting / 10,
            watchers: self.watchers / 10,
            concerts: self.concerts / 10,
            seats: self.seats / 10,
            crowd: self.crowd / 10,
            history: self.history / 10,
            finished: self.finished / 10,
            opening: self.opening / 10,
            draw: self.draw / 10,
            draw_watchers: self.draw_watchers / 10,
            admitted: self.admitted / 10,
            only: self.only.clone(),
        }
    }

    /// Tells whether `part` is measured.
    pub fn includes(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// The choice of engines to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// SQLite only.
    Sqlite,
    /// PostgreSQL only.
    Postgres,
    /// SQLite, then PostgreSQL.
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
    fn a_target_needs_an_admin_address() {
        assert!(Cli::try_parse_from(["boxoffice-bench", "sale", "--target", "127.0.0.1:1"]).is_err());
    }
}
