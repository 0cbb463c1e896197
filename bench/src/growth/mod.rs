//! Measures the cost of growth: a long queue, many watchers, many concerts, a stadium, the best seats of a hall,
//! a crowd that wants them at the same time, rows of past sales, and the openings of a huge sale and of a sale with a
//! draw.

mod admitted;
mod best;
mod concerts;
mod crowd;
mod draw;
mod finished;
mod ground;
mod history;
mod opening;
mod pairs;
mod passes;
mod report;
mod stadium;
mod waiting;
mod watchers;

use std::{fs, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use testkit::{Engine, Failure, Postgres};

pub use report::{GrowthReport, text};

use crate::cli::{Common, EngineChoice, Growth, Part};
use ground::Ground;

/// Measures growth on the chosen engines and prints the reports. With `--json`, also writes the reports to that file.
pub async fn run(common: &Common, options: &Growth) -> Result<(), Failure> {
    let engines = common.engines(EngineChoice::Both);
    let postgres = common.postgres(engines).await?;
    let options = &if common.quick { options.tenth() } else { options.clone() };
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

/// Measures the chosen parts of growth on one engine.
pub async fn measure(
    common: &Common,
    options: &Growth,
    engine: Engine,
    postgres: Option<&Postgres>,
) -> Result<GrowthReport, Failure> {
    let style = ProgressStyle::with_template("{prefix:<10} {elapsed_precise} {wide_msg}")?;
    let progress = ProgressBar::new_spinner().with_style(style).with_prefix(engine.name());
    progress.enable_steady_tick(Duration::from_millis(200));
    let postgres = postgres.filter(|_| engine == Engine::Postgres);
    let ground = Ground { common, options, engine, postgres, progress };
    let mut report = GrowthReport::new(engine);
    if options.includes(Part::Waiting) {
        report.waiting = Some(waiting::run(&ground).await?);
    }
    on_sale(&ground, &mut report).await?;
    if options.includes(Part::Crowd) {
        report.crowd = Some(crowd::run(&ground).await?);
    }
    if options.includes(Part::History) {
        report.history = Some(history::run(&ground).await?);
    }
    if options.includes(Part::Finished) {
        report.finished = Some(finished::run(&ground).await?);
    }
    if options.includes(Part::Opening) {
        report.opening = Some(opening::run(&ground).await?);
    }
    if options.includes(Part::Draw) {
        report.draw = Some(draw::run(&ground).await?);
    }
    ground.progress.finish_and_clear();
    Ok(report)
}

/// Measures the chosen parts among watchers, admitted users, concerts, stadium and best seats. These parts share a
/// database, and each part uses different concerts.
async fn on_sale(ground: &Ground<'_>, report: &mut GrowthReport) -> Result<(), Failure> {
    let parts = [Part::Watchers, Part::Admitted, Part::Concerts, Part::Stadium, Part::Best];
    if !parts.into_iter().any(|part| ground.options.includes(part)) {
        return Ok(());
    }
    let mut deployment =
        ground.deploy(&["--promote-interval", "100ms", "--admission-ttl", "2h", "--hold-ttl", "1h"]).await?;
    if ground.options.includes(Part::Watchers) {
        report.watchers = Some(watchers::run(ground, &deployment).await?);
        // The memory of the old process includes memory of the closed streams. A new process starts without it.
        deployment.restart().await?;
    }
    if ground.options.includes(Part::Admitted) {
        report.admitted = Some(admitted::run(ground, &deployment).await?);
        deployment.restart().await?;
    }
    if ground.options.includes(Part::Concerts) {
        report.concerts = Some(concerts::run(ground, &deployment).await?);
    }
    if ground.options.includes(Part::Stadium) {
        report.stadium = Some(stadium::run(ground, &deployment).await?);
    }
    if ground.options.includes(Part::Best) {
        report.best = Some(best::run(ground, &deployment).await?);
    }
    Ok(())
}
