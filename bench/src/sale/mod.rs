//! Simulates a whole flash sale. Users arrive within seconds, wait in the queue, hold seats, and pay or leave.

mod plot;
mod report;
mod sampler;
mod tally;
mod visitor;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use rand::Rng;
use testkit::{Engine, Failure, Postgres, usage, wallet};
use tokio::task::JoinSet;

use crate::{
    cli::{Common, EngineChoice, Sale},
    deployment::Deployment,
    load::{Call, Miss},
    world::{self, CHARGE, World},
};
use report::{CpuSeconds, SaleReport};
use sampler::Sampler;
use tally::Tally;
use visitor::{Habits, Stage, Visit, Visitor};

/// Simulates the sale on each chosen engine, or on the deployment of `--target`. Fails if a check is false.
pub async fn run(common: &Common, options: &Sale) -> Result<(), Failure> {
    let mut reports = Vec::new();
    if let (Some(target), Some(admin)) = (&options.target, &options.admin) {
        reports.push(play(common, options, target, admin, &options.plot, target.clone()).await?);
    } else {
        let engines = common.engines(EngineChoice::Sqlite);
        let postgres = common.postgres(engines).await?;
        for engine in engines {
            let postgres = postgres.as_ref().filter(|_| *engine == Engine::Postgres);
            let deployment = Deployment::start(*engine, postgres, &[]).await?;
            let (address, admin) = (deployment.address().to_string(), deployment.admin_address().to_string());
            let plot = if engines.len() > 1 { plot_of(&options.plot, *engine) } else { options.plot.clone() };
            let postmaster = postgres.and_then(Postgres::postmaster);
            let before = cpu(deployment.pid(), postmaster);
            let mut report = play(common, options, &address, &admin, &plot, engine.name().to_owned()).await?;
            report.spend(cpu(deployment.pid(), postmaster).zip(before).map(|(after, before)| spent(before, after)));
            report.complain(&deployment.complaints());
            reports.push(report);
        }
        if let Some(postgres) = &postgres {
            postgres.tidy().await?;
        }
    }
    for report in &reports {
        println!("{}", report.text());
    }
    if let Some(file) = &common.json {
        fs::write(file, serde_json::to_string_pretty(&reports)?)?;
    }
    if reports.iter().any(|report| report.checks.iter().any(|check| !check.holds)) {
        return Err("some checks failed; the report above lists them".into());
    }
    Ok(())
}

/// Returns the CPU time that each process has used so far; `None` if it cannot be read.
fn cpu(server: u32, postmaster: Option<u32>) -> Option<CpuSeconds> {
    Some(CpuSeconds {
        server: usage::cpu_seconds(server)?,
        database: postmaster.and_then(usage::children_cpu_seconds),
        visitors: usage::cpu_seconds(std::process::id())?,
    })
}

fn spent(before: CpuSeconds, after: CpuSeconds) -> CpuSeconds {
    CpuSeconds {
        server: after.server - before.server,
        database: before.database.zip(after.database).map(|(before, after)| after - before),
        visitors: after.visitors - before.visitors,
    }
}

/// Returns the file of the plot for one of several engines: `sale.svg` becomes `sale-sqlite.svg`.
fn plot_of(plot: &Path, engine: Engine) -> PathBuf {
    let stem = plot.file_stem().unwrap_or_default().to_string_lossy();
    plot.with_file_name(format!("{stem}-{}.svg", engine.name().to_lowercase()))
}

async fn play(
    common: &Common,
    options: &Sale,
    address: &str,
    admin: &str,
    plot: &Path,
    place: String,
) -> Result<SaleReport, Failure> {
    let seats = options.seats.unwrap_or_else(|| (options.users / 2).max(1));
    let world = World::new(address, admin, common.connections, options.users as usize).await?;
    let progress = ProgressBar::new(seats.into());
    let style = "{elapsed_precise} {bar:30} {pos} of {len} seats sold {wide_msg}";
    progress.set_style(ProgressStyle::with_template(style)?);
    progress.enable_steady_tick(Duration::from_millis(200));
    progress.set_message("(users get their wallets)");
    let concert_code = set_up(&world, seats, options.hall).await?;
    let stage = Stage {
        concert_code: concert_code.clone(),
        habits: Habits { think: options.think, watch: options.watch, best: options.best },
        tally: Tally::default(),
    };
    let stage = Arc::new(stage);

    let sampler = Sampler::start(world.admin.clone(), concert_code.clone(), progress.clone());
    world.open_sale(&concert_code).await?;
    let started = Instant::now();
    let visits = visit(&world, &stage, options, started).await;
    let samples = sampler.stop(started).await?;
    progress.finish_and_clear();
    let stats = world.stats(&concert_code).await?;
    let report = SaleReport::new(place, options, seats, visits, &stage.tally, &stats, &samples, started);
    plot::draw(plot, &samples, &report).map_err(|error| format!("{} cannot be drawn: {error}", plot.display()))?;
    Ok(SaleReport { plot: plot.display().to_string(), ..report })
}

/// Lets all users visit the sale. Returns the visits that end before the time limit `--limit`.
async fn visit(world: &World, stage: &Arc<Stage>, options: &Sale, started: Instant) -> Vec<Visit> {
    let mut visitors = JoinSet::new();
    for index in 0..world.users.len() {
        let due = started + options.arrive.mul_f64(rand::rng().random());
        let channel = world.channels[index % world.channels.len()].clone();
        let visitor = Visitor::new(&world.users[index].id, channel, stage.clone());
        visitors.spawn(visitor.visit(due));
    }
    let mut visits = Vec::with_capacity(world.users.len());
    let deadline = started + options.limit;
    while let Ok(Some(visit)) = tokio::time::timeout_at(deadline.into(), visitors.join_next()).await {
        // A visitor that panicked returns no visit, so the report counts it as not done.
        visits.extend(visit);
    }
    visits
}

/// Creates the venues, the concert and its performances. Opens and charges the wallet of each user. Returns the code of
/// the concert.
async fn set_up(world: &World, seats: u32, hall: u32) -> Result<String, Failure> {
    // The deployment of `--target` may already have other sales, so the codes are random.
    let number: u32 = rand::random();
    let (concert_code, venue) = (format!("SALE-{number:08X}"), format!("sale-{number:08x}"));
    world.create_concert(&concert_code).await?;
    let (whole, rest) = (seats / hall, seats % hall);
    if whole > 0 {
        world.create_venue(&venue, hall).await?;
    }
    for day in 0..whole {
        world.add_performance(&concert_code, &date(day), &venue).await?;
    }
    if rest > 0 {
        let small = format!("{venue}-rest");
        world.create_venue(&small, rest).await?;
        world.add_performance(&concert_code, &date(whole), &small).await?;
    }
    let all = 0..world.users.len();
    world.for_users(all.clone(), "OpenWallet", &world.open_wallet()).await?;
    world.for_users(all, "ChargeWallet", &charge(world)).await?;
    Ok(concert_code)
}

/// Returns a different date for each day. Each month has 28 days.
fn date(day: u32) -> String {
    format!("{:04}-{:02}-{:02}", 2034 + day / 336, day / 28 % 12 + 1, day % 28 + 1)
}

fn charge(world: &World) -> Call {
    let users = world.users.clone();
    // Each user has one `request_id`, so a second call for the same user does not charge the wallet again.
    let request_ids: Arc<Vec<String>> = Arc::new(users.iter().map(|_| world::request_id()).collect());
    Call::new(move |channel, index| {
        let (user, request_ids) = (users[index].clone(), request_ids.clone());
        async move {
            let charged = wallet::charge(&channel, &user.id, CHARGE, &request_ids[index]).await?;
            if charged.balance == CHARGE { Ok(()) } else { Err(Miss::wrong("the balance is not the charged amount")) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_day_has_a_different_date() {
        assert_eq!([date(0), date(28), date(336)], ["2034-01-01", "2034-02-01", "2035-01-01"]);
    }

    #[test]
    fn each_engine_has_a_separate_plot() {
        assert_eq!(plot_of(Path::new("a/sale.svg"), Engine::Sqlite), Path::new("a/sale-sqlite.svg"));
    }
}
