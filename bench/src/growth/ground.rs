//! The context of all measurements of growth: the options, the engine and the progress bar.

use indicatif::ProgressBar;
use testkit::{Engine, Failure, Postgres};

use crate::{
    cli::{Common, Growth},
    deployment::Deployment,
    load::Call,
    world::World,
};

/// Maximum number of users that [`Ground::prepare`] prepares in one step. The message of the progress bar changes
/// before each step.
const PORTION: usize = 50_000;

/// The context of all measurements of growth.
pub struct Ground<'a> {
    /// The options of all commands.
    pub common: &'a Common,
    /// The options of growth.
    pub options: &'a Growth,
    /// The progress bar.
    pub progress: ProgressBar,
    /// The database of the servers.
    pub engine: Engine,
    /// The PostgreSQL server for the databases; `None` on SQLite.
    pub postgres: Option<&'a Postgres>,
}

impl Ground<'_> {
    /// Starts a server with the command-line `flags` on a fresh database.
    pub async fn deploy(&self, flags: &[&str]) -> Result<Deployment, Failure> {
        Deployment::start(self.engine, self.postgres, flags).await
    }

    /// Connects to a deployment and creates `user_count` users in memory.
    pub async fn world(&self, deployment: &Deployment, user_count: usize) -> Result<World, Failure> {
        World::of(deployment, self.common.connections, user_count).await
    }

    /// Makes `call` for the first `user_count` users of the world, step by step. `what` names the call.
    pub async fn prepare(&self, world: &World, user_count: usize, what: &str, call: &Call) -> Result<(), Failure> {
        for first in (0..user_count).step_by(PORTION) {
            self.progress.set_message(format!("{what}: {first} of {user_count}"));
            world.for_users(first..(first + PORTION).min(user_count), what, call).await?;
        }
        Ok(())
    }
}
