//! The report of one engine as a page of tables. With several runs, each figure is a median, and most figures
//! have a spread.

use testkit::Engine;

use super::{
    open_loop::{OpenRate, SHARES},
    report::EngineReport,
    round::Figures,
    runs::{cell, goal, middle},
    usage::Usage,
};
use crate::{
    load::median,
    page::Page,
    peer::{Rates, redis::RedisReport},
    table::Table,
};

/// The goal for the rate of whole tickets, as a share of a third of the rate of the echo.
const TICKETS_GOAL: f64 = 0.50;
/// The goal for the rate of Pay, divided by the rate of `pay()` inside PostgreSQL.
const PEER_GOAL: f64 = 1.5;

/// The runs of one engine. There is at least one run.
type Runs<'a> = &'a [&'a EngineReport];

/// Returns the report of all runs of one engine. `redis` has the results of Redis in each run.
pub fn page(runs: Runs<'_>, redis: &[RedisReport]) -> Page {
    let mut page = Page::default();
    let Some(last) = runs.last() else { return page };
    page.title(match runs.len() {
        1 => last.engine.name().to_owned(),
        count => format!("{}: median of {count} runs, with (max - min) / median in parentheses", last.engine.name()),
    });
    page.line(headline(runs));
    page.line("Each operation at full load, and the echo right before it:");
    page.table(operations(runs));
    page.line("What limits each operation:");
    page.table(usage(runs));
    if !last.open_loop.is_empty() {
        page.line("Open loop: milliseconds from the planned start of a call to its answer, p50 / p99:");
        page.table(open_loop(runs));
    }
    page.line("One client that makes one call at a time. The goal is twice the time of a commit, plus 1 ms:");
    page.table(idle(runs));
    if last.single.is_some() {
        page.line("Peers, in calls per second. Each of them acknowledges a call only after the call is on disk:");
        page.table(peers(runs, redis));
        compare(&mut page, runs, redis);
    }
    notes(&mut page, runs, redis);
    page
}

fn headline(runs: Runs<'_>) -> String {
    let of = |figure: fn(super::report::Tickets) -> f64| collect(runs, |run| run.tickets().map(figure));
    let (rates, ratios) = (of(|tickets| tickets.per_second), of(|tickets| tickets.ratio));
    format!(
        "Whole tickets (IssueToken, HoldSeats and Pay): {}/s, which is {} of a third of the echo. Goal: {}.",
        cell(&rates, 0),
        cell(&ratios, 2),
        goal(&ratios, TICKETS_GOAL, 2, f64::ge),
    )
}

/// Returns the figure of each run. Leaves out runs without this figure.
fn collect<T>(runs: &[T], figure: impl Fn(&T) -> Option<f64>) -> Vec<f64> {
    runs.iter().filter_map(figure).collect()
}

/// Returns the results of each operation in all runs, in the order of the measurements.
fn by_operation<'a>(runs: Runs<'a>) -> impl Iterator<Item = (&'static str, Vec<&'a Figures>)> {
    let names = runs.iter().flat_map(|run| &run.operations).map(|figures| figures.name);
    let mut distinct: Vec<&'static str> = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct.into_iter().map(move |name| (name, runs.iter().filter_map(|run| run.operation(name)).collect()))
}

fn operations(runs: Runs<'_>) -> Table {
    let mut table = Table::new(&["operation", "calls/s", "echo/s", "ratio", "goal", "errors"]);
    for (name, all) in by_operation(runs) {
        let of = |figure: fn(&Figures) -> f64| collect(&all, |figures| Some(figure(figures)));
        let (ratios, wanted) = (of(|f| f.ratio), all.first().map_or(f64::NAN, |f| f.goal));
        table.row([
            name.to_owned(),
            cell(&of(|f| f.calls_per_second), 0),
            cell(&of(|f| f.echo_per_second), 0),
            cell(&ratios, 2),
            goal(&ratios, wanted, 2, f64::ge),
            all.iter().map(|f| f.errors).sum::<u64>().to_string(),
        ]);
    }
    table
}

fn usage(runs: Runs<'_>) -> Table {
    let mut table = Table::new(&[
        "operation",
        "server cores",
        "database cores",
        "client cores",
        "idle cores",
        "server µs/call",
        "database µs/call",
        "workers busy",
        "calls/batch",
        "statements/batch",
        "KB written/call",
        "RSS MB",
    ]);
    for (name, all) in by_operation(runs) {
        let of = |figure: fn(&Usage) -> Option<f64>, decimals| middle(&collect(&all, |f| figure(&f.usage)), decimals);
        table.row([
            name.to_owned(),
            of(|u| Some(u.server_cores), 2),
            of(|u| u.database_cores, 2),
            of(|u| Some(u.client_cores), 2),
            of(|u| u.idle_cores, 2),
            of(|u| Some(u.server_micros), 0),
            of(|u| u.database_micros, 0),
            busy(&all),
            of(|u| u.calls_per_batch, 0),
            of(|u| u.statements_per_batch, 1),
            of(|u| u.written_per_call.map(|bytes| bytes / 1e3), 1),
            middle(&collect(&all, |f| Some(f.server_rss_bytes as f64 / 1e6)), 0),
        ]);
    }
    table
}

/// Returns the busy share of each worker of the lane, such as `97 %, 95 %`.
fn busy(all: &[&Figures]) -> String {
    let workers = all.iter().map(|figures| figures.usage.busy_shares.len()).max().unwrap_or_default();
    let share = |worker: usize| collect(all, |f| f.usage.busy_shares.get(worker).map(|share| share * 100.0));
    let cells: Vec<String> = (0..workers).map(|worker| format!("{} %", middle(&share(worker), 0))).collect();
    if cells.is_empty() { "-".to_owned() } else { cells.join(", ") }
}

fn open_loop(runs: Runs<'_>) -> Table {
    let shares = SHARES.map(|share| format!("at {:.0} % of the closed loop", share * 100.0));
    let titles: Vec<&str> =
        ["operation"].into_iter().chain(shares.iter().map(String::as_str)).chain(["errors"]).collect();
    let mut table = Table::new(&titles);
    let names = runs.first().into_iter().flat_map(|run| &run.open_loop).map(|write| write.name);
    for name in names {
        let writes = || runs.iter().flat_map(|run| &run.open_loop).filter(|write| write.name == name);
        let of = |index: usize, figure: fn(&OpenRate) -> f64| {
            let figures: Vec<f64> = writes().filter_map(|write| write.rates.get(index).map(figure)).collect();
            cell(&figures, 1)
        };
        let latency = |index| format!("{} / {}", of(index, |r| r.latency.p50_ms), of(index, |r| r.latency.p99_ms));
        let errors: u64 = writes().flat_map(|write| &write.rates).map(|rate| rate.errors).sum();
        let cells = (0..SHARES.len()).map(latency);
        table.row([name.to_owned()].into_iter().chain(cells).chain([errors.to_string()]));
    }
    table
}

fn idle(runs: Runs<'_>) -> Table {
    let commits = collect(runs, |run| Some(run.commit_p50_ms));
    let wanted = 2.0 * median(commits.clone()) + 1.0;
    let mut table = Table::new(&[
        "one client alone",
        "p50 ms, empty database",
        "goal",
        "p50 ms, beside the crowd's rows",
        "goal",
        "p99 ms, empty / beside",
        "errors",
    ]);
    table.row(["a commit of the database".to_owned(), cell(&commits, 2)]);
    let names = runs.first().into_iter().flat_map(|run| &run.idle).map(|write| write.name);
    for name in names {
        let writes: Vec<_> = runs.iter().filter_map(|run| run.idle.iter().find(|write| write.name == name)).collect();
        let (fresh, loaded) = (
            collect(&writes, |write| Some(write.fresh.p50_ms)),
            collect(&writes, |write| write.loaded.map(|loaded| loaded.p50_ms)),
        );
        let p99 = [
            cell(&collect(&writes, |write| Some(write.fresh.p99_ms)), 2),
            cell(&collect(&writes, |write| write.loaded.map(|loaded| loaded.p99_ms)), 2),
        ];
        table.row([
            name.to_owned(),
            cell(&fresh, 2),
            goal(&fresh, wanted, 2, f64::le),
            cell(&loaded, 2),
            goal(&loaded, wanted, 2, f64::le),
            p99.join(" / "),
            writes.iter().map(|write| write.errors).sum::<u64>().to_string(),
        ]);
    }
    table
}

fn peers(runs: Runs<'_>, redis: &[RedisReport]) -> Table {
    let mut table = Table::new(&["", "ChargeWallet", "IssueToken", "HoldSeats", "Pay", "whole tickets"]);
    let mut row = |name: &str, rates: Vec<Rates>| {
        let of = |rate: fn(&Rates) -> f64| cell(&collect(&rates, |rates| Some(rate(rates))), 0);
        let cells = [of(|r| r.charge_wallet), of(|r| r.issue_token), of(|r| r.hold_seats), of(|r| r.pay)];
        table.row([name.to_owned()].into_iter().chain(cells).chain([of(Rates::tickets)]));
    };
    row("boxoffice over gRPC", runs.iter().filter_map(|run| run.rates()).collect());
    row("one command per transaction, 16 connections, no gRPC", runs.iter().filter_map(|run| run.single).collect());
    row("Redis, Lua, appendfsync always, behind a bare gRPC service", redis.iter().map(|redis| redis.served).collect());
    row("Redis, Lua, appendfsync always, no gRPC", redis.iter().map(|redis| redis.direct).collect());
    let payments = collect(runs, |run| run.peer_payments.map(|payments| payments.per_second));
    if !payments.is_empty() {
        let name = "pay() in PL/pgSQL on the same schema, pgbench, 16 clients";
        table.row([
            name.to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            cell(&payments, 0),
            "-".to_owned(),
        ]);
    }
    table
}

/// Adds the errors, the checks, and the warnings and errors in the server's log.
fn notes(page: &mut Page, runs: Runs<'_>, redis: &[RedisReport]) {
    let rush = |figure: fn(&super::rush::Rush) -> f64| collect(runs, |run| run.rush.as_ref().map(figure));
    if let Some(first) = runs.first().and_then(|run| run.rush.as_ref()) {
        page.line(format!(
            "{} users within one second on ListPerformances: {} errors, p50 {} ms, p99 {} ms. Goal: 100.",
            first.users,
            runs.iter().filter_map(|run| run.rush.as_ref()).map(|rush| rush.errors).sum::<u64>(),
            cell(&rush(|rush| rush.latency.p50_ms), 1),
            cell(&rush(|rush| rush.latency.p99_ms), 1),
        ));
    }
    let promises = || redis.iter().flat_map(|redis| &redis.checks);
    let broken: Vec<_> = promises().filter(|check| !check.holds).collect();
    if promises().count() > 0 {
        page.line(format!("{} of {} checks of Redis hold", promises().count() - broken.len(), promises().count()));
    }
    broken.into_iter().for_each(|check| page.line(check.line()));
    for (number, run) in (1..).zip(runs) {
        for figures in run.operations.iter().filter(|figures| figures.errors > 0) {
            page.line(format!("Run {number}, errors of {}: {:?}", figures.name, figures.misses));
        }
        for check in run.checks.iter().filter(|check| number == runs.len() || !check.holds) {
            page.line(check.line());
        }
        if run.server_complaints > 0 {
            page.line(format!(
                "Run {number}: the server logged {} warnings and errors; the first are: {}",
                run.server_complaints,
                run.first_complaints.join("; ")
            ));
        }
    }
}

fn compare(page: &mut Page, runs: Runs<'_>, redis: &[RedisReport]) {
    let ratio = |other: fn(&EngineReport) -> Option<(f64, f64)>| {
        collect(runs, |run| other(run).map(|(ours, theirs)| ours / theirs))
    };
    let lanes = ratio(|run| Some((run.tickets()?.per_second, run.single?.tickets())));
    if !lanes.is_empty() {
        page.line(format!("Whole tickets, divided by the rate with one command per transaction: {}.", cell(&lanes, 1)));
    }
    let pays = ratio(|run| Some((run.rates()?.pay, run.peer_payments?.per_second)));
    if !pays.is_empty() {
        page.line(format!(
            "Pay over gRPC, divided by pay() in PL/pgSQL: {}. Goal: {}.",
            cell(&pays, 1),
            goal(&pays, PEER_GOAL, 1, f64::ge)
        ));
    } else if runs.iter().any(|run| run.engine == Engine::Postgres) {
        page.line("pay() in PL/pgSQL was not measured: pgbench is not installed next to initdb.");
    }
    let pairs: Vec<_> = runs.iter().zip(redis).collect();
    let redis = |rates: fn(&RedisReport) -> Rates| {
        collect(&pairs, |(run, redis)| Some(run.tickets()?.per_second / rates(redis).tickets()))
    };
    let (served, direct) = (redis(|redis| redis.served), redis(|redis| redis.direct));
    page.line(match served.is_empty() {
        true => "Redis was not measured: install it with `make redis`.".to_owned(),
        false => format!(
            "Whole tickets, divided by the rate of Redis behind gRPC: {}. Goal: {}. Without gRPC: {}. Redis flushes \
             its log once per turn of its event loop, and answers the calls of this turn after the flush. boxoffice \
             flushes once per batch.",
            cell(&served, 2),
            goal(&served, 1.0, 2, f64::ge),
            cell(&direct, 2),
        ),
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::operations::{report::HOLD_OWN_SEAT, usage::Used};

    fn run(rate: f64) -> EngineReport {
        let figures = |name| Figures {
            name,
            calls_per_second: rate,
            echo_per_second: 10.0,
            ratio: rate / 10.0,
            goal: 0.5,
            latency: crate::load::Percentiles::default(),
            calls: 0,
            errors: 0,
            misses: BTreeMap::new(),
            usage: Used::default().means("lane", 0),
            server_rss_bytes: 0,
            message_bytes: (0, 0),
            lane: "lane",
        };
        let mut report = EngineReport::new(Engine::Sqlite);
        report.operations = ["ChargeWallet", "IssueToken", HOLD_OWN_SEAT, "Pay"].map(figures).into();
        report.single = report.rates();
        report
    }

    #[test]
    fn the_headline_has_the_whole_tickets_of_all_runs_and_their_goal() {
        let runs = [run(3.0), run(4.5), run(6.0)];
        let page = page(&runs.each_ref(), &[]).text();
        assert!(page.contains("SQLite: median of 3 runs"), "{page}");
        assert!(page.contains("2 (67 %)/s, which is 0.45 (67 %) of a third of the echo. Goal: 0.50, missed by 0.05"));
        assert!(page.contains("Redis was not measured"), "{page}");
    }
}
