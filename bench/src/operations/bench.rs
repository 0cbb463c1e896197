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
    peer::redis,
    world::{self, World},
};

/// The code of the concert for which the crowd makes its calls.
pub const CONCERT: &str = "BENCH";
/// Flags of the server: admissions and holds last longer than the run, and promotions run often.
const FLAGS: [&str; 6] = ["--promote-interval", "100ms", "--admission-ttl", "2h", "--hold-ttl", "1h"];
/// Minimum number of seats of the large date.
const SEATS: u32 = 30_000;
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
    /// The number of users of the open loop.
    pub open: usize,
    /// The number of payments of pgbench, and of calls of each operation with one command per transaction.
    pub peer: usize,
}

impl Plan {
    /// Returns the plan for the options of a run.
    pub fn new(common: &Common) -> Self {
        let (rounds, slice, idle, time) = match common.quick {
            true => (3, 8_000, 100, Duration::from_millis(700)),
            false => (3, 9_000, 300, Duration::from_secs(2)),
        };
        let slice = common.round_users.map_or(slice, |users| users as usize);
        Self { rounds, slice, warm: slice / 4, idle, time, open: 4 * slice, peer: slice }
    }

    /// Returns the numbers for the measurement of Redis, with as many users as the crowd has.
    pub fn load(&self, common: &Common) -> redis::Load {
        let Self { rounds, slice, warm, .. } = *self;
        redis::Load { connections: common.connections, in_flight: common.in_flight, rounds, slice, warm }
    }

    /// Returns the number of all users.
    pub fn users(&self) -> usize {
        self.open().end
    }

    /// Returns the number of seats of the date on which each user of the crowd holds a different seat.
    ///
    /// The date has more seats than it has users. So it stays in the answers of ListPerformances.
    pub fn seats(&self) -> u32 {
        SEATS.max(self.loners().end as u32 + 1)
    }

    /// Returns the indices of the users of the open loop.
    pub fn open(&self) -> Range<usize> {
        let first = self.first_comers().end;
        first..first + self.open
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
    /// The engine of the database.
    pub engine: Engine,
    /// The options of all commands.
    pub common: &'a Common,
    /// The servers under test, on one database: one server, or the number of `--replicas`.
    pub deployments: Vec<Deployment>,
    /// The PostgreSQL server with the database of the deployments; `None` on SQLite.
    pub postgres: Option<&'a Postgres>,
    /// The connections to the deployments, and the users.
    pub world: World,
    /// The calls for [`CONCERT`].
    pub calls: Calls,
    /// The connections to the echo.
    pub echo: Vec<Channel>,
    /// The progress bar.
    pub progress: ProgressBar,
}

impl<'a> Bench<'a> {
    /// Starts the servers on one database of `engine`, and connects to the servers and to the echo. The connections are
    /// spread over the servers.
    pub async fn start(
        common: &'a Common,
        engine: Engine,
        postgres: Option<&'a Postgres>,
        echo: &EchoProcess,
    ) -> Result<Self, Failure> {
        let plan = Plan::new(common);
        let mut deployments = vec![Deployment::start(engine, postgres, &FLAGS).await?];
        for _ in 1..common.replicas {
            deployments.push(deployments[0].replica().await?);
        }
        let mut world = World::of(&deployments[0], common.connections, plan.users()).await?;
        for (first, replica) in deployments.iter().enumerate().skip(1) {
            let channels = world.channels.iter_mut().skip(first).step_by(deployments.len());
            let connected = world::connect(&replica.address().to_string(), channels.len() as u16).await?;
            channels.zip(connected).for_each(|(channel, connected)| *channel = connected);
        }
        let echo = world::connect(&echo.address.to_string(), common.connections).await?;
        let calls = Calls::new(CONCERT, world.users.clone(), !common.kind);
        let steps = MEASURED * (plan.rounds as u64 + 1);
        let style = ProgressStyle::with_template("{prefix:<10} {bar:30} {elapsed_precise} {wide_msg}")?;
        let progress = ProgressBar::new(steps).with_style(style).with_prefix(engine.name());
        progress.enable_steady_tick(Duration::from_millis(200));
        Ok(Self { plan, engine, common, deployments, postgres, world, calls, echo, progress })
    }

    /// Makes `call` for `supply`, with `--in-flight` callers on each of `channels`.
    pub async fn full_load(&self, channels: &[Channel], supply: &Supply, call: &Call) -> Result<Round, Failure> {
        load::closed_loop(channels, self.common.in_flight, supply, call).await
    }
}
