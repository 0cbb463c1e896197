//! The report of growth, for machines and for people.

use std::fmt::Write;

use serde::Serialize;
use testkit::Engine;

use super::{concerts::Concerts, stadium::Stadium, waiting::Waiting, watchers::Watchers};
use crate::table::Table;

/// The figures of one engine.
#[derive(Debug, Serialize)]
pub struct GrowthReport {
    /// The engine.
    pub engine: Engine,
    /// A long queue.
    pub waiting: Waiting,
    /// Many watchers.
    pub watchers: Watchers,
    /// Many concerts.
    pub concerts: Concerts,
    /// Many seats.
    pub stadium: Stadium,
}

/// Returns the report for people.
pub fn text(report: &GrowthReport) -> String {
    let mut text = table(report).to_string();
    let (watchers, concerts, stadium) = (&report.watchers, &report.concerts, &report.stadium);
    let wrong = report.waiting.poll_errors + watchers.errors as u64 + concerts.errors;
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "{} streams opened at {:.0}/s; one concert and {}: IssueToken {:.0}/s and {:.0}/s, \
         GetPosition {:.0}/s and {:.0}/s; \
         {} seats in {} messages, {:.1} MB in all; {wrong} errors",
        watchers.streams,
        watchers.opened_per_second,
        concerts.concerts,
        concerts.issued_per_second.0,
        concerts.issued_per_second.1,
        concerts.polls_per_second.0,
        concerts.polls_per_second.1,
        stadium.seats,
        stadium.messages,
        stadium.bytes as f64 / 1e6,
    );
    text
}

fn table(report: &GrowthReport) -> Table {
    let GrowthReport { waiting, watchers, concerts, stadium, .. } = report;
    let mut table = Table::new(&["growth", "measured", "goal"]);
    let many = waiting.waiting;
    let mut row = |what: String, measured: String, goal: &str| table.row([what, measured, goal.to_owned()]);
    row(
        format!("polls/s with {many} waiting, divided by polls/s with 1,000"),
        format!("{:.2}", waiting.polls_per_second.1 / waiting.polls_per_second.0),
        "0.80",
    );
    row(
        "  the same ratio for the server's CPU time per poll".to_owned(),
        format!("{:.2}", waiting.poll_cpu_per_1000.1 / waiting.poll_cpu_per_1000.0),
        "1.20",
    );
    row(format!("server RSS with {many} waiting, MB"), format!("{:.0}", waiting.rss_bytes as f64 / 1e6), "200");
    row("  after a restart, MB".to_owned(), format!("{:.0}", waiting.restarted_rss_bytes as f64 / 1e6), "200");
    row(
        format!("longest promotion of {} users ({} in all), ms", waiting.admitted, waiting.admitted_in_all),
        format!("{:.0}", waiting.promote_ms),
        "50",
    );
    row("longest expiry of as many admissions, ms".to_owned(), format!("{:.0}", waiting.expire_ms), "-");
    row("start of the server with all of them, ms".to_owned(), format!("{:.0}", waiting.start_ms), "-");
    row(
        format!("server RSS per open WatchPosition ({} open), KiB", watchers.streams),
        format!("{:.1}", watchers.bytes_per_stream / 1024.0),
        "8",
    );
    row("  lag behind a promotion, p50 ms".to_owned(), format!("{:.0}", watchers.lag.p50_ms), "-");
    row("  lag behind a promotion, p99 ms".to_owned(), format!("{:.0}", watchers.lag.p99_ms), "1000");
    row(
        format!("{} concerts on sale: longest promotion pass, ms", concerts.concerts),
        format!("{:.0}", concerts.promote_ms),
        "-",
    );
    row(
        format!("  time until all {} are admitted, ms", concerts.admitted),
        format!("{:.0}", concerts.admission_ms),
        "-",
    );
    row(format!("ListSeats of {} seats, p50 ms", stadium.seats), format!("{:.0}", stadium.empty.p50_ms), "-");
    row("  half of them held, p50 ms".to_owned(), format!("{:.0}", stadium.half_held.p50_ms), "-");
    table
}
