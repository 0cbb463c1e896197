//! One engine being measured: how much is measured, and the connections to the server and to the echo.

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

/// The concert of the crowd.
pub const CONCERT: &str = "BENCH";
/// Admissions and holds last longer than the run. Promotion runs often, so that the run need not wait for it.
const FLAGS: [&str; 6] = ["--promote-interval", "100ms", "--admission-ttl", "2h", "--hold-ttl", "1h"];
/// Operations under load, for the progress bar.
const MEASURED: u64 = 7;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Rounds of each operation. Each follows a round of the echo.
    pub rounds: usize,
    /// Users of one round of an operation that each user makes once.
    pub slice: usize,
    /// Users of the warm-up before.
    pub warm: usize,
    /// Users of one client alone: this many before the crowd and again after it.
    pub idle: usize,
    /// Duration of a round of the echo, and of an operation that users may repeat.
    pub time: Duration,
    /// Duration of the naive payments.
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

    /// Returns how many users there are.
    pub fn users(&self) -> usize {
        self.first_comers().end
    }

    /// Returns the users that call under load.
    pub fn crowd(&self) -> Range<usize> {
        0..self.warm + self.rounds * self.slice
    }

    /// Returns the users that call under load, in the order of one operation: a new random one, or with `kind` the
    /// order in which they were made. Rows that one operation writes together are then changed together by the next.
    pub fn order(&self, kind: bool) -> Vec<usize> {
        let mut users: Vec<usize> = self.crowd().collect();
        if !kind {
            users.shuffle(&mut rand::rng());
        }
        users
    }

    /// Returns the users of one client alone, in a database with the rows of the crowd.
    pub fn loners(&self) -> Range<usize> {
        let first = self.crowd().end;
        first..first + self.idle
    }

    /// Returns the users of one client alone, in an empty database.
    pub fn first_comers(&self) -> Range<usize> {
        let first = self.loners().end;
        first..first + self.idle
    }
}

/// One engine being measured.
pub struct Bench<'a> {
    /// How much is measured.
    pub plan: Plan,
    /// How it is measured.
    pub common: &'a Common,
    /// The server.
    pub deployment: Deployment,
    /// The PostgreSQL of the server.
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

    /// Makes `call` with as many calls in flight as the command line says.
    pub async fn full_load(&self, channels: &[Channel], supply: &Supply, call: &Call) -> Result<Round, Failure> {
        load::closed_loop(channels, self.common.in_flight, supply, call).await
    }
}
