//! The report of the operations, as JSON and as text.

use std::fmt::Write;

use serde::Serialize;
use testkit::Engine;

use super::{idle::IdleWrite, round::Figures, rush::Rush};
use crate::{
    check::Check, cli::Common, deployment::Complaints, growth::GrowthReport, peer::PeerPayments, table::Table,
};

/// The results of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The number of connections of the client.
    pub connections: u16,
    /// The number of in-flight calls on each connection.
    pub in_flight: u16,
    /// The number of processors of the machine. The client, the server, the database and the echo share them.
    pub processors: usize,
    /// Whether `--quick` was set: fewer and shorter rounds, with fewer users.
    pub quick: bool,
    /// The results of each engine, in the order of the measurements.
    pub engines: Vec<EngineReport>,
}

/// The results of one engine.
#[derive(Debug, Serialize)]
pub struct EngineReport {
    /// The engine.
    pub engine: Engine,
    /// The operations under full load.
    pub operations: Vec<Figures>,
    /// The writes by a single client.
    pub idle: Vec<IdleWrite>,
    /// The median time in which a single client inserts and commits one row without boxoffice, in milliseconds.
    pub commit_p50_ms: f64,
    /// The results of 2,000 ListPerformances calls within one second.
    pub rush: Option<Rush>,
    /// The payments of pgbench; `None` on SQLite, and if pgbench is not installed.
    pub peer_payments: Option<PeerPayments>,
    /// The results of growth; `None` after a run with `--quick`.
    pub growth: Option<GrowthReport>,
    /// The checks after the run.
    pub checks: Vec<Check>,
    /// The number of warnings and errors in the server's log.
    pub server_complaints: u64,
    /// The first warnings and errors in the server's log, at most 10.
    pub first_complaints: Vec<String>,
}

impl Report {
    /// Returns a report with the options of the run and without results.
    pub fn new(common: &Common) -> Self {
        Self {
            connections: common.connections,
            in_flight: common.in_flight,
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            quick: common.quick,
            engines: Vec::new(),
        }
    }
}

impl EngineReport {
    /// Returns a report without results.
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            operations: Vec::new(),
            idle: Vec::new(),
            commit_p50_ms: f64::NAN,
            rush: None,
            peer_payments: None,
            growth: None,
            checks: Vec::new(),
            server_complaints: 0,
            first_complaints: Vec::new(),
        }
    }

    /// Sets the warnings and errors of the server's log.
    pub fn complain(&mut self, complaints: &Complaints) {
        self.server_complaints = complaints.count;
        self.first_complaints.clone_from(&complaints.first);
    }
}

/// Returns the report of one engine as text.
pub fn text(report: &EngineReport) -> String {
    let mut text = format!("\n{}\n\n{}", report.engine.name(), operations(&report.operations));
    if let Some(tickets) = tickets(&report.operations) {
        let _ = writeln!(
            text,
            "\nwhole tickets (IssueToken, HoldSeats, Pay): {:.0}/s, {:.2} of the rate of three echo calls (goal 0.50)",
            tickets.per_second, tickets.ratio
        );
    }
    for figures in report.operations.iter().filter(|figures| figures.errors > 0) {
        let _ = writeln!(text, "{} errors: {:?}", figures.name, figures.misses);
    }
    let _ = writeln!(text, "\n{}", idle(report));
    if let Some(rush) = &report.rush {
        let _ = writeln!(
            text,
            "{} users within one second on ListPerformances: {} errors, p50 {:.1} ms, p99 {:.1} ms (goal 100){}",
            rush.users,
            rush.errors,
            rush.latency.p50_ms,
            rush.latency.p99_ms,
            if rush.errors > 0 { format!(" {:?}", rush.misses) } else { String::new() }
        );
    }
    let pay = report.operations.iter().find(|figures| figures.name == "Pay");
    if let (Some(peer), Some(pay)) = (&report.peer_payments, pay) {
        let _ = writeln!(
            text,
            "pay() in PL/pgSQL on the same schema (pgbench, 16 clients): {:.0}/s, {:.1} ms on average; Pay is {:.1} x \
             that (goal 1.5)",
            peer.per_second,
            peer.average_ms,
            pay.calls_per_second / peer.per_second
        );
    }
    if report.peer_payments.is_none() && report.engine == Engine::Postgres {
        text.push_str("pay() in PL/pgSQL: not measured, because pgbench is not installed next to initdb\n");
    }
    for check in &report.checks {
        let _ = writeln!(text, "{}", check.line());
    }
    if report.server_complaints > 0 {
        let _ = writeln!(text, "the server logged {} warnings and errors; the first are:", report.server_complaints);
        report.first_complaints.iter().for_each(|complaint| text.push_str(&format!("  {complaint}\n")));
    }
    text
}

/// The rate of whole tickets. A whole ticket is one IssueToken call, one HoldSeats call and one Pay call.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Tickets {
    /// The number of whole tickets per second, computed from the rates of the three operations.
    pub per_second: f64,
    /// The rate of whole tickets divided by the rate of three calls of the echo.
    pub ratio: f64,
}

/// Returns the rate of whole tickets; `None` if one of the three operations was not measured.
///
/// This rate does not rise if one of the three operations becomes faster and another operation becomes slower by the
/// same time.
pub fn tickets(all: &[Figures]) -> Option<Tickets> {
    let of = |name: &str| all.iter().find(|figures| figures.name == name);
    let steps = [of("IssueToken")?, of("HoldSeats, own seat")?, of("Pay")?];
    let rate = |one: fn(&Figures) -> f64| 1.0 / steps.iter().map(|step| 1.0 / one(step)).sum::<f64>();
    let per_second = rate(|figures| figures.calls_per_second);
    Some(Tickets { per_second, ratio: per_second / rate(|figures| figures.echo_per_second) })
}

fn operations(all: &[Figures]) -> String {
    let titles = [
        "operation",
        "calls/s",
        "echo/s",
        "ratio",
        "goal",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "errors",
        "cpu s/1k",
        "db cpu s/1k",
        "batch",
        "RSS MB",
    ];
    let mut table = Table::new(&titles);
    for figures in all {
        table.row([
            figures.name.to_owned(),
            format!("{:.0}", figures.calls_per_second),
            format!("{:.0}", figures.echo_per_second),
            format!("{:.2}", figures.ratio),
            format!("{:.2}", figures.goal),
            format!("{:.1}", figures.latency.p50_ms),
            format!("{:.1}", figures.latency.p99_ms),
            format!("{:.1}", figures.latency.p999_ms),
            figures.errors.to_string(),
            format!("{:.3}", figures.server_cpu_per_1000),
            figures.database_cpu_per_1000.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.3}")),
            figures.batch_size.map_or_else(|| "-".to_owned(), |size| format!("{size:.0}")),
            format!("{:.0}", figures.server_rss_bytes as f64 / 1e6),
        ]);
    }
    table.to_string()
}

fn idle(report: &EngineReport) -> String {
    let goal = 2.0 * report.commit_p50_ms + 1.0;
    let titles = ["one client alone", "p50 ms, empty database", "p99 ms", "p50 ms, with the crowd's rows", "p99 ms"];
    let mut table = Table::new(&[&titles[..], &["goal", "errors"]].concat());
    table.row(["a commit of the database", &format!("{:.2}", report.commit_p50_ms)]);
    for write in &report.idle {
        table.row([
            write.name.to_owned(),
            format!("{:.2}", write.fresh.p50_ms),
            format!("{:.2}", write.fresh.p99_ms),
            format!("{:.2}", write.loaded.unwrap_or_default().p50_ms),
            format!("{:.2}", write.loaded.unwrap_or_default().p99_ms),
            format!("{goal:.2}"),
            write.errors.to_string(),
        ]);
    }
    table.to_string()
}
