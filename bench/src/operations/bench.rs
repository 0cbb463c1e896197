//! The context of the measurement of one engine: the plan, the server, and the connections to the server and to the
//! echo.

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

/// The code of the concert for which the crowd makes its calls.
pub const CONCERT: &str = "BENCH";
/// Flags of the server: admissions and holds last longer than the run, and promotions run often.
const FLAGS: [&str; 6] = ["--promote-interval", "100ms", "--admission-ttl", "2h", "--hold-ttl", "1h"];
/// Number of operations under full load, for the length of the progress bar.
const MEASURED: u64 = 7;

/// The numbers of rounds and users, and the durations of rounds.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The number of rounds of each operation. A round of the echo precedes each round of the operation.
    pub rounds: usize,
    /// The number of users in one round of an operation that each user calls only once.
    pub slice: usize,
    /// The number of users in the warm-up of such an operation.
    pub warm: usize,
    /// The number of calls in one measurement of a write by a single client. Each call is for a different user.
    pub idle: usize,
    /// The duration of a round of the echo, and of a round of an operation that users may repeat.
    pub time: Duration,
    /// The number of payments of pgbench.
    pub peer: usize,
}

impl Plan {
    fn new(quick: bool) -> Self {
        let seconds = Duration::from_secs;
        match quick {
            true => {
                let time = Duration::from_millis(700);
                Self { rounds: 3, slice: 8_000, warm: 2_000, idle: 100, time, peer: 8_000 }
            }
            false => Self { rounds: 5, slice: 25_000, warm: 5_000, idle: 300, time: seconds(2), peer: 30_000 },
        }
    }

    /// Returns the number of all users.
    pub fn users(&self) -> usize {
        self.first_comers().end
    }

    /// Returns the indices of the users of the crowd: the users of the operations under full load.
    pub fn crowd(&self) -> Range<usize> {
        0..self.warm + self.rounds * self.slice
    }

    /// Returns the users of the crowd in a new random order, or with `kind` in ascending order.
    ///
    /// The same order for all operations would be easier for the server. The users in one batch of an operation would
    /// also be in one batch of the next operation, and their rows are near each other.
    pub fn order(&self, kind: bool) -> Vec<usize> {
        let mut users: Vec<usize> = self.crowd().collect();
        if !kind {
            users.shuffle(&mut rand::rng());
        }
        users
    }

    /// Returns the indices of the users for which a single client calls after the crowd.
    pub fn loners(&self) -> Range<usize> {
        let first = self.crowd().end;
        first..first + self.idle
    }

    /// Returns the indices of the users for which a single client calls before the crowd, in an empty database.
    pub fn first_comers(&self) -> Range<usize> {
        let first = self.loners().end;
        first..first + self.idle
    }
}

/// The context of the measurement of one engine.
pub struct Bench<'a> {
    /// The numbers of rounds and users, and the durations of rounds.
    pub plan: Plan,
    /// The options of all commands.
    pub common: &'a Common,
    /// The server under test.
    pub deployment: Deployment,
    /// The PostgreSQL server with the database of the deployment; `None` on SQLite.
    pub postgres: Option<&'a Postgres>,
    /// The connections to the deployment, and the users.
    pub world: World,
    /// The calls for [`CONCERT`].
    pub calls: Calls,
    /// The connections to the echo.
    pub echo: Vec<Channel>,
    /// The progress bar.
    pub progress: ProgressBar,
}

impl<'a> Bench<'a> {
    /// Starts a server of `engine`, and connects to the server and to the echo.
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

    /// Makes `call` for `supply`, with `--in-flight` callers on each of `channels`.
    pub async fn full_load(&self, channels: &[Channel], supply: &Supply, call: &Call) -> Result<Round, Failure> {
        load::closed_loop(channels, self.common.in_flight, supply, call).await
    }
}
