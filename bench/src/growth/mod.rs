//! How boxoffice grows: a million waiting users, tens of thousands of watchers, a hundred concerts, a stadium.

mod concerts;
mod ground;
mod passes;
mod report;
mod stadium;
mod waiting;
mod watchers;

use std::{fs, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use testkit::{Engine, Failure, Postgres};

pub use report::{GrowthReport, text};

use crate::cli::{Common, EngineChoice, Growth};
use ground::Ground;

/// Measures growth on the chosen engines.
pub async fn run(common: &Common, options: &Growth) -> Result<(), Failure> {
    let engines = common.engines(EngineChoice::Both);
    let postgres = common.postgres(engines).await?;
    let mut reports = Vec::new();
    for engine in engines {
        let report = measure(common, options, *engine, postgres.as_ref()).await?;
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
    let ground = Ground { common, options, engine, postgres, progress };
    let waiting = waiting::run(&ground).await?;
    let mut deployment =
        ground.deploy(&["--promote-interval", "100ms", "--admission-ttl", "2h", "--hold-ttl", "1h"]).await?;
    let watchers = watchers::run(&ground, &deployment).await?;
    // The watchers are gone. A new process starts without the memory that they left behind.
    deployment.restart().await?;
    let concerts = concerts::run(&ground, &deployment).await?;
    let stadium = stadium::run(&ground, &deployment).await?;
    ground.progress.finish_and_clear();
    Ok(GrowthReport { engine, waiting, watchers, concerts, stadium })
}
