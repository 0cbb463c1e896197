//! A whole flash sale: users arrive within seconds, queue, are admitted, choose, pay, leave, or come too late.

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

use boxoffice::rpc::proto;
use indicatif::{ProgressBar, ProgressStyle};
use rand::Rng;
use tokio::task::JoinSet;

use crate::{
    Failure,
    cli::{Common, Engine, EngineChoice, Sale},
    deployment::Deployment,
    load::{Call, Miss},
    postgres::Postgres,
    usage,
    world::{self, CHARGE, World},
};
use report::{CpuSeconds, SaleReport};
use sampler::Sampler;
use tally::Tally;
use visitor::{Habits, Visit, Visitor};

/// What all visitors know of the sale.
pub struct Stage {
    /// The concert.
    pub concert_code: String,
    /// How visitors behave.
    pub habits: Habits,
    /// What is counted.
    pub tally: Tally,
}

/// Plays the sale on each chosen engine, or against the deployment that is named.
pub async fn run(common: &Common, options: &Sale) -> Result<(), Failure> {
    let mut reports = Vec::new();
    if let (Some(target), Some(admin)) = (&options.target, &options.admin) {
        reports.push(play(common, options, target, admin, &options.plot, target.clone()).await?);
    } else {
        let engines = common.engine.unwrap_or(EngineChoice::Sqlite).engines();
        let postgres = match engines.contains(&Engine::Postgres) {
            true => Some(Postgres::start(common.postgres_url.as_deref()).await?),
            false => None,
        };
        for engine in engines {
            let deployment = Deployment::start(*engine, postgres.as_ref(), &[]).await?;
            let (address, admin) = (deployment.address.to_string(), deployment.admin.to_string());
            let plot = if engines.len() > 1 { plot_of(&options.plot, *engine) } else { options.plot.clone() };
            let postmaster = postgres.as_ref().and_then(|postgres| postgres.postmaster);
            let before = cpu(deployment.pid, postmaster);
            let mut report = play(common, options, &address, &admin, &plot, engine.name().to_owned()).await?;
            report.spend(cpu(deployment.pid, postmaster).zip(before).map(|(after, before)| spent(before, after)));
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
        return Err("not all checks hold, see above".into());
    }
    Ok(())
}

/// What was used so far, the preparation included.
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

/// `sale.svg` becomes `sale-sqlite.svg`.
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
        habits: Habits { think: options.think, watch: options.watch },
        tally: Tally::default(),
    };
    let stage = Arc::new(stage);

    let sampler = Sampler::start(world.admin(), concert_code.clone(), progress.clone());
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

/// Lets everybody come, and waits until all have gone or time is up.
async fn visit(world: &World, stage: &Arc<Stage>, options: &Sale, started: Instant) -> Vec<Visit> {
    let mut visitors = JoinSet::new();
    for index in 0..world.users.len() {
        let due = started + options.arrive.mul_f64(rand::rng().random());
        let channel = world.channels[index % world.channels.len()].clone();
        let visitor = Visitor::new(world.users.clone(), index, channel, stage.clone());
        visitors.spawn(visitor.visit(due));
    }
    let mut visits = Vec::with_capacity(world.users.len());
    let deadline = started + options.limit;
    while let Ok(Some(visit)) = tokio::time::timeout_at(deadline.into(), visitors.join_next()).await {
        // Whoever is missing at the end is counted as not done.
        visits.extend(visit);
    }
    visits
}

/// Sets the concert up, and gives everybody a wallet with money in it.
async fn set_up(world: &World, seats: u32, hall: u32) -> Result<String, Failure> {
    // A deployment that is running may have had sales before.
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
    let everybody = 0..world.users.len();
    world.for_users(everybody.clone(), "OpenWallet", &world.open_wallet()).await?;
    world.for_users(everybody, "ChargeWallet", &charge(world)).await?;
    Ok(concert_code)
}

/// A date of its own for each day, 28 in each month.
fn date(day: u32) -> String {
    format!("{:04}-{:02}-{:02}", 2034 + day / 336, day / 28 % 12 + 1, day % 28 + 1)
}

fn charge(world: &World) -> Call {
    let users = world.users.clone();
    // The same ids when it has to be repeated.
    let request_ids: Arc<Vec<String>> = Arc::new(users.iter().map(|_| world::request_id()).collect());
    Call::new(move |channel, index| {
        let request = proto::ChargeWalletRequest {
            user_id: users[index].id.clone(),
            amount: CHARGE,
            request_id: request_ids[index].clone(),
        };
        async move {
            let answer = world::wallets(channel).charge_wallet(request).await?;
            if answer.get_ref().balance == CHARGE { Ok(()) } else { Err(Miss::wrong("another balance")) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_day_has_a_date_of_its_own() {
        assert_eq!([date(0), date(28), date(336)], ["2034-01-01", "2034-02-01", "2035-01-01"]);
    }

    #[test]
    fn each_engine_has_a_plot_of_its_own() {
        assert_eq!(plot_of(Path::new("a/sale.svg"), Engine::Sqlite), Path::new("a/sale-sqlite.svg"));
    }
}
