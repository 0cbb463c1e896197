//! The measurement of one engine: the plan, and the connections to the server and to the echo.

use std::{ops::Range, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use rand::seq::SliceRandom;
use testkit::{Engine, Failure, Postgres};
use tonic::transport::Channel;

use crate::{
    calls::Calls,
    cli::Common,
    deployment::Deployment,
    echo::EchoProcess,
    load::{self, Call, Round, Supply},
    world::{self, World},
};

/// The code of the concert of the crowd.
pub const CONCERT: &str = "BENCH";
/// Admissions and holds last longer than the run. Promotion runs often, so that the run does not wait for it.
const FLAGS: [&str; 6] = ["--promote-interval", "100ms", "--admission-ttl", "2h", "--hold-ttl", "1h"];
/// Number of measured operations, for the progress bar.
const MEASURED: u64 = 7;

/// The number and the size of the measurements.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The number of rounds of each operation. A round of the echo precedes each of them.
    pub rounds: usize,
    /// The number of users in one round of an operation that each user calls once.
    pub slice: usize,
    /// The number of users in the warm-up before the rounds.
    pub warm: usize,
    /// The number of users of a single client, first before the crowd and again after it.
    pub idle: usize,
    /// The duration of a round of the echo, and of an operation that users may repeat.
    pub time: Duration,
    /// The duration of the naive payments.
    pub naive: Duration,
}

impl Plan {
    fn new(quick: bool) -> Self {
        let seconds = Duration::from_secs;
        match quick {
            true => {
                let time = Duration::from_millis(700);
                Self { rounds: 3, slice: 8_000, warm: 2_000, idle: 100, time, naive: seconds(3) }
            }
            false => Self { rounds: 5, slice: 25_000, warm: 5_000, idle: 300, time: seconds(2), naive: seconds(10) },
        }
    }

    /// Returns the number of users.
    pub fn users(&self) -> usize {
        self.first_comers().end
    }

    /// Returns the users of the crowd, which call under full load.
    pub fn crowd(&self) -> Range<usize> {
        0..self.warm + self.rounds * self.slice
    }

    /// Returns the users of the crowd in a new random order, or with `kind` in their original order.
    ///
    /// In the original order, the rows that one batch of an operation writes are also changed together by a batch of
    /// the next operation.
    pub fn order(&self, kind: bool) -> Vec<usize> {
        let mut users: Vec<usize> = self.crowd().collect();
        if !kind {
            users.shuffle(&mut rand::rng());
        }
        users
    }

    /// Returns the users of the single client in a database with the rows of the crowd.
    pub fn loners(&self) -> Range<usize> {
        let first = self.crowd().end;
        first..first + self.idle
    }

    /// Returns the users of the single client in an empty database.
    pub fn first_comers(&self) -> Range<usize> {
        let first = self.loners().end;
        first..first + self.idle
    }
}

/// The measurement of one engine.
pub struct Bench<'a> {
    /// The number and the size of the measurements.
    pub plan: Plan,
    /// The options of all commands.
    pub common: &'a Common,
    /// The server under test.
    pub deployment: Deployment,
    /// The PostgreSQL server that the server uses.
    pub postgres: Option<&'a Postgres>,
    /// The users.
    pub world: World,
    /// The calls of the crowd.
    pub calls: Calls,
    /// Connections to the echo.
    pub echo: Vec<Channel>,
    /// The progress bar.
    pub progress: ProgressBar,
}

impl<'a> Bench<'a> {
    /// Starts a server and connects to it and to the echo.
    pub async fn start(
        common: &'a Common,
        engine: Engine,
        postgres: Option<&'a Postgres>,
        echo: &EchoProcess,
    ) -> Result<Self, Failure> {
        let plan = Plan::new(common.quick);
        let deployment = Deployment::start(engine, postgres, &FLAGS).await?;
        let world = World::of(&deployment, common.connections, plan.users()).await?;
        let echo = world::connect(&echo.address.to_string(), common.connections).await?;
        let calls = Calls::new(CONCERT, world.users.clone(), !common.kind);
        let steps = MEASURED * (plan.rounds as u64 + 1);
        let style = ProgressStyle::with_template("{prefix:<10} {bar:30} {elapsed_precise} {wide_msg}")?;
        let progress = ProgressBar::new(steps).with_style(style).with_prefix(engine.name());
        progress.enable_steady_tick(Duration::from_millis(200));
        Ok(Self { plan, common, deployment, postgres, world, calls, echo, progress })
    }

    /// Makes `call` with the number of in-flight calls of the command line.
    pub async fn full_load(&self, channels: &[Channel], supply: &Supply, call: &Call) -> Result<Round, Failure> {
        load::closed_loop(channels, self.common.in_flight, supply, call).await
    }
}
