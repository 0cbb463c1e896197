//! What becomes of it when it grows: a million who wait, tens of thousands who watch, a hundred concerts at once, a stadium.

mod concerts;
mod passes;
mod report;
mod stadium;
mod waiting;
mod watchers;

use std::{fs, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

pub use report::{GrowthReport, text};

use crate::{
    Failure,
    cli::{Common, Engine, EngineChoice, Growth},
    deployment::Deployment,
    load::Call,
    postgres::Postgres,
    usage,
    world::World,
};

/// Users are prepared so many at a time, for the progress.
const PORTION: usize = 50_000;

/// Measures growth on the chosen engines.
pub async fn run(common: &Common, options: &Growth) -> Result<(), Failure> {
    let engines = common.engine.unwrap_or(EngineChoice::Both).engines();
    let postgres = match engines.contains(&Engine::Postgres) {
        true => Some(Postgres::start(common.postgres_url.as_deref()).await?),
        false => None,
    };
    let mut reports = Vec::new();
    for engine in engines {
        let postgres = postgres.as_ref().filter(|_| *engine == Engine::Postgres);
        let report = measure(common, options, *engine, postgres).await?;
        println!("\n{}\n\n{}", engine.name(), text(&report));
        reports.push(report);
    }
    if let Some(postgres) = &postgres {
        postgres.tidy().await?;
    }
    if let Some(file) = &common.json {
        fs::write(file, serde_json::to_string_pretty(&reports)?)?;
    }
    Ok(())
}

/// Measures growth on one engine.
pub async fn measure(
    common: &Common,
    options: &Growth,
    engine: Engine,
    postgres: Option<&Postgres>,
) -> Result<GrowthReport, Failure> {
    let style = ProgressStyle::with_template("{prefix:<10} {elapsed_precise} {wide_msg}")?;
    let progress = ProgressBar::new_spinner().with_style(style).with_prefix(engine.name());
    progress.enable_steady_tick(Duration::from_millis(200));
    let crowd = Ground { common, options, engine, postgres, progress };
    let waiting = waiting::run(&crowd).await?;
    let mut deployment =
        crowd.deploy(&["--promote-interval", "100ms", "--admission-ttl", "2h", "--hold-ttl", "1h"]).await?;
    let watchers = watchers::run(&crowd, &deployment).await?;
    // Whoever watched is gone; what they left in memory is not carried into what follows.
    deployment.restart().await?;
    let concerts = concerts::run(&crowd, &deployment).await?;
    let stadium = stadium::run(&crowd, &deployment).await?;
    crowd.progress.finish_and_clear();
    Ok(GrowthReport { engine, waiting, watchers, concerts, stadium })
}

/// What all measurements stand on.
struct Ground<'a> {
    common: &'a Common,
    options: &'a Growth,
    engine: Engine,
    postgres: Option<&'a Postgres>,
    progress: ProgressBar,
}

impl Ground<'_> {
    async fn deploy(&self, flags: &[&str]) -> Result<Deployment, Failure> {
        Deployment::start(self.engine, self.postgres, flags).await
    }

    async fn world(&self, deployment: &Deployment, users: usize) -> Result<World, Failure> {
        let (address, admin) = (deployment.address.to_string(), deployment.admin.to_string());
        World::new(&address, &admin, self.common.connections, users).await
    }

    /// Makes `call` for the first `users` of the world.
    async fn prepare(&self, world: &World, users: usize, what: &str, call: &Call) -> Result<(), Failure> {
        for first in (0..users).step_by(PORTION) {
            self.progress.set_message(format!("{what}: {first} of {users}"));
            world.for_users(first..(first + PORTION).min(users), what, call).await?;
        }
        Ok(())
    }
}

fn resident_bytes(deployment: &Deployment) -> Result<u64, Failure> {
    usage::resident_bytes(deployment.pid).ok_or_else(|| "the server's memory cannot be read".into())
}
