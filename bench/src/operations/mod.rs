//! Measures operations under full load compared with the echo, writes at lower rates, writes by a single client on an
//! idle server, 2,000 calls within one second, and the peers.

mod bench;
mod checks;
mod idle;
mod open_loop;
mod report;
mod round;
mod runs;
mod rush;
mod text;
mod usage;

use std::{fs, time::Duration};

use testkit::{Engine, Failure, Postgres};

use crate::{
    calls::{CONTESTED_DATE, Calls, LARGE_DATE, Measure, SMALL_DATE, SMALL_SEATS, Winners},
    cli::{Common, EngineChoice, Growth},
    deployment,
    echo::EchoProcess,
    growth,
    page::Page,
    peer::{postgres, redis, single},
};
use bench::{Bench, CONCERT, Plan};
use report::{EngineReport, HOLD_OWN_SEAT, Report};
use round::{Figures, Spec};

const ADMISSION_LIMIT: Duration = Duration::from_secs(180);

/// Measures all operations on the chosen engines, and growth unless `--quick` is set. Fails if a check is false.
pub async fn run(common: &Common) -> Result<(), Failure> {
    let engines = common.engines(EngineChoice::Both);
    if common.replicas > 1 && engines.contains(&Engine::Sqlite) {
        return Err("--replicas needs --engine postgres: a SQLite file has one server".into());
    }
    let server = common.postgres(engines).await?;
    let echo = EchoProcess::start(&[])?;
    let mut report = Report::new(common);
    for number in 1..=common.runs {
        if !common.closed_loop {
            report.redis.extend(redis::measure(Plan::new(common).load(common)).await?);
        }
        for engine in engines {
            let postgres = server.as_ref().filter(|_| *engine == Engine::Postgres);
            let measured = one_run(common, *engine, postgres, &echo).await?;
            if common.runs > 1 {
                let tickets = measured.tickets().map_or(f64::NAN, |tickets| tickets.per_second);
                println!("{}, run {number} of {}: {tickets:.0} whole tickets/s", engine.name(), common.runs);
            }
            report.engines.push(measured);
        }
    }
    publish(common, &report, engines)?;
    grow(common, &mut report, engines, server.as_ref()).await?;
    if let Some(postgres) = &server {
        postgres.tidy().await?;
    }
    if let Some(file) = &common.json {
        fs::write(file, serde_json::to_string_pretty(&report)?)?;
    }
    let of_engines = report.engines.iter().flat_map(|engine| &engine.checks);
    let checks = of_engines.chain(report.redis.iter().flat_map(|redis| &redis.checks));
    match checks.filter(|check| !check.holds).count() {
        0 => Ok(()),
        count => Err(format!("{count} checks failed; the report above lists them").into()),
    }
}

async fn one_run(
    common: &Common,
    engine: Engine,
    postgres: Option<&Postgres>,
    echo: &EchoProcess,
) -> Result<EngineReport, Failure> {
    let bench = Bench::start(common, engine, postgres, echo).await?;
    let mut measured = measure(&bench, engine, common.closed_loop).await?;
    let (plan, progress) = (bench.plan, bench.progress.clone());
    drop(bench);
    if !common.closed_loop {
        progress.set_message("peers");
        peers(engine, postgres, &plan, &mut measured).await?;
    }
    progress.finish_and_clear();
    Ok(measured)
}

/// Prints the report of each engine, and writes the reports to the file of `--markdown`.
fn publish(common: &Common, report: &Report, engines: &[Engine]) -> Result<(), Failure> {
    let pages = engines.iter().map(|engine| text::page(&report.of(*engine), &report.redis));
    let pages: Vec<_> = pages.collect();
    pages.iter().for_each(|page| println!("{}", page.text()));
    if let Some(file) = &common.markdown {
        fs::write(file, pages.iter().map(Page::markdown).collect::<String>())?;
    }
    Ok(())
}

/// Measures growth on each engine, prints its report, and adds it to the last run of the engine.
async fn grow(
    common: &Common,
    report: &mut Report,
    engines: &[Engine],
    postgres: Option<&Postgres>,
) -> Result<(), Failure> {
    if common.quick {
        return Ok(());
    }
    for engine in engines {
        let growth = growth::measure(common, &Growth::default(), *engine, postgres).await?;
        println!("{}", growth::text(&growth));
        if let Some(last) = report.engines.iter_mut().rfind(|report| report.engine == *engine) {
            last.growth = Some(growth);
        }
    }
    Ok(())
}

async fn measure(bench: &Bench<'_>, engine: Engine, closed_loop: bool) -> Result<EngineReport, Failure> {
    let mut report = EngineReport::new(engine);
    report.commit_p50_ms = commit(bench, engine).await?;
    set_up(bench).await?;
    idle::fresh(bench, &mut report.idle).await?;
    money(bench, &mut report).await?;
    queue(bench, &mut report).await?;
    seats(bench, &mut report).await?;
    pay(bench, &mut report).await?;
    let capacity = report.rates().ok_or("a write was not measured")?;
    if !closed_loop {
        report.open_loop = open_loop::run(bench, &capacity).await?;
    }
    let (users, open) = (bench.plan.loners().end, bench.plan.open().start);
    report.checks = checks::run(&bench.world, &bench.calls, users, open).await?;
    bench.deployments.iter().for_each(|deployment| report.complain(&deployment.complaints()));
    Ok(report)
}

/// Measures the peers that use the same engine. No server runs during this time.
async fn peers(
    engine: Engine,
    postgres: Option<&Postgres>,
    plan: &Plan,
    report: &mut EngineReport,
) -> Result<(), Failure> {
    let database = deployment::fresh_database(engine, postgres).await?;
    report.single = Some(single::measure(&database.url, plan.peer).await?);
    if let Some(postgres) = postgres {
        report.peer_payments = postgres::payments(postgres, plan.peer).await?;
    }
    Ok(())
}

/// Measures a commit of the database without boxoffice, before any other load. Returns the median in milliseconds.
async fn commit(bench: &Bench<'_>, engine: Engine) -> Result<f64, Failure> {
    bench.progress.set_message("a commit of the database");
    postgres::commit_p50_ms(&deployment::fresh_database(engine, bench.postgres).await?.url).await
}

async fn set_up(bench: &Bench<'_>) -> Result<(), Failure> {
    bench.progress.set_message("venues and dates");
    let (world, plan) = (&bench.world, &bench.plan);
    world.create_venue("bench-large", plan.seats()).await?;
    world.create_venue("bench-small", SMALL_SEATS).await?;
    let others = [(idle::CONCERT, idle::VENUE, plan.idle), (open_loop::CONCERT, open_loop::VENUE, plan.open)];
    for (concert, venue, seats) in others {
        world.create_venue(venue, seats as u32).await?;
        world.create_concert(concert).await?;
        world.add_performance(concert, LARGE_DATE, venue).await?;
    }
    world.create_concert(CONCERT).await?;
    for (date, venue) in [(LARGE_DATE, "bench-large"), (SMALL_DATE, "bench-small"), (CONTESTED_DATE, "bench-small")] {
        world.add_performance(CONCERT, date, venue).await?;
    }
    Ok(())
}

async fn money(bench: &Bench<'_>, report: &mut EngineReport) -> Result<(), Failure> {
    bench.progress.set_message("wallets");
    let call = bench.calls.open_wallet(&Measure::default());
    bench.world.for_users(bench.plan.crowd(), "OpenWallet", &bench.world.open_wallet()).await?;
    idle::loaded(bench, &mut report.idle, "OpenWallet", &call).await?;

    let measure = Measure::default();
    let call = bench.calls.charge_wallet(&measure);
    let spec = Spec::once("ChargeWallet", "wallet.charge", 0.50, call.clone(), measure);
    report.operations.push(under_load(bench, &spec).await?);
    idle::loaded(bench, &mut report.idle, "ChargeWallet", &call).await
}

async fn queue(bench: &Bench<'_>, report: &mut EngineReport) -> Result<(), Failure> {
    let measure = Measure::default();
    let call = bench.calls.issue_token(&measure);
    let goal = if report.engine == Engine::Sqlite { 0.55 } else { 0.50 };
    let spec = Spec::once("IssueToken", "queue.issue", goal, call.clone(), measure);
    report.operations.push(under_load(bench, &spec).await?);
    idle::loaded(bench, &mut report.idle, "IssueToken", &call).await?;
    // The users whose first call failed get a token now. All other users get the same token again.
    bench.world.for_users(0..bench.plan.loners().end, "IssueToken", &call).await?;
    // GetPosition reads memory, which may be 250 ms old. All new tokens must be in memory before the next step.
    tokio::time::sleep(Duration::from_millis(500)).await;

    let measure = Measure::default();
    let call = bench.calls.get_position(&measure);
    let spec = Spec::over("GetPosition, WAITING", "queue.find", 0.90, call, measure);
    report.operations.push(under_load(bench, &spec).await?);

    bench.progress.set_message("waiting for admission");
    bench.world.open_sale(CONCERT).await?;
    bench.world.wait_until_admitted(CONCERT, ADMISSION_LIMIT).await
}

async fn seats(bench: &Bench<'_>, report: &mut EngineReport) -> Result<(), Failure> {
    let measure = Measure::default();
    let call = bench.calls.list_seats(&measure);
    let spec = Spec::over("ListSeats, 50 seats", "concert.seats", 0.60, call, measure);
    report.operations.push(under_load(bench, &spec).await?);

    let (measure, winners) = (Measure::default(), Winners::default());
    let spec = Spec::contested("HoldSeats, one seat", "reservation.hold", 0.60, measure.clone(), {
        let winners = winners.clone();
        move |calls: &Calls, seat| calls.hold_contested_seat(&measure, seat, &winners)
    });
    report.operations.push(round::interleave(bench, &spec, Some(&winners)).await?);

    let measure = Measure::default();
    let call = bench.calls.hold_own_seat(&measure);
    let spec = Spec::once(HOLD_OWN_SEAT, "reservation.hold", 0.45, call.clone(), measure);
    report.operations.push(under_load(bench, &spec).await?);
    idle::loaded(bench, &mut report.idle, "HoldSeats", &call).await?;

    // The number of held seats is at its maximum now, so the server needs the most time to count AVAILABLE seats.
    bench.progress.set_message("2,000 calls within one second");
    let call = bench.calls.list_performances(&Measure::default());
    report.rush = Some(rush::run(&bench.world, bench.plan.crowd(), &call).await?);
    Ok(())
}

async fn pay(bench: &Bench<'_>, report: &mut EngineReport) -> Result<(), Failure> {
    let measure = Measure::default();
    let call = bench.calls.pay(&measure);
    let goal = if report.engine == Engine::Sqlite { 0.30 } else { 0.40 };
    let spec = Spec::once("Pay", "payment.pay", goal, call.clone(), measure);
    report.operations.push(under_load(bench, &spec).await?);
    idle::loaded(bench, &mut report.idle, "Pay", &call).await
}

async fn under_load(bench: &Bench<'_>, spec: &Spec) -> Result<Figures, Failure> {
    round::interleave(bench, spec, None).await
}
