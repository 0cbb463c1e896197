//! The report of growth, as JSON and as text.

use serde::Serialize;
use testkit::Engine;

use super::{
    admitted::Admitted, best::Best, concerts::Concerts, crowd::Crowd, draw::Drawn, finished::Finished, history::Past,
    opening::Opening, stadium::Stadium, waiting::Waiting, watchers::Watchers,
};
use crate::table::Table;

/// The results of one engine. A part that was not measured is `None`.
#[derive(Debug, Serialize)]
pub struct GrowthReport {
    /// The engine.
    pub engine: Engine,
    /// The cost of a long queue.
    pub waiting: Option<Waiting>,
    /// The cost of waiting users that watch their position.
    pub watchers: Option<Watchers>,
    /// The cost of admitted users that watch their position.
    pub admitted: Option<Admitted>,
    /// The cost of many concerts.
    pub concerts: Option<Concerts>,
    /// The cost of listing the seats of a stadium.
    pub stadium: Option<Stadium>,
    /// The holds of the best available seats.
    pub best: Option<Best>,
    /// The holds of a crowd that wants the best available seats at the same time.
    pub crowd: Option<Crowd>,
    /// The cost of rows of past sales.
    pub history: Option<Past>,
    /// The cost of past concerts with waiting users.
    pub finished: Option<Finished>,
    /// The cost of the opening of a huge sale.
    pub opening: Option<Opening>,
    /// The cost of the opening of a sale with a draw.
    pub draw: Option<Drawn>,
}

impl GrowthReport {
    /// Returns a report without results.
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            waiting: None,
            watchers: None,
            admitted: None,
            concerts: None,
            stadium: None,
            best: None,
            crowd: None,
            history: None,
            finished: None,
            opening: None,
            draw: None,
        }
    }
}

/// The table of a report, and the lines below the table.
struct Text {
    table: Table,
    notes: Vec<String>,
}

/// Returns the report as text for a terminal.
pub fn text(report: &GrowthReport) -> String {
    let mut text = Text { table: Table::new(&["growth", "measured", "goal"]), notes: Vec::new() };
    report.waiting.iter().for_each(|part| text.waiting(part));
    report.watchers.iter().for_each(|part| text.watchers(part));
    report.admitted.iter().for_each(|part| text.admitted(part));
    report.concerts.iter().for_each(|part| text.concerts(part));
    report.stadium.iter().for_each(|part| text.stadium(part));
    report.best.iter().for_each(|part| text.best(part));
    report.crowd.iter().for_each(|part| text.crowd(part));
    report.history.iter().for_each(|part| text.history(part));
    report.finished.iter().for_each(|part| text.finished(part));
    report.opening.iter().for_each(|part| text.opening(part));
    report.draw.iter().for_each(|part| text.draw(part));
    format!("{}{}", text.table, text.notes.iter().map(|note| format!("{note}\n")).collect::<String>())
}

impl Text {
    fn row(&mut self, what: impl Into<String>, measured: impl Into<String>, goal: impl Into<String>) {
        self.table.row([what.into(), measured.into(), goal.into()]);
    }

    fn ms(&mut self, what: impl Into<String>, measured: f64, goal: &str) {
        self.row(what, format!("{measured:.0}"), goal);
    }

    fn megabytes(&mut self, what: impl Into<String>, bytes: u64, goal: &str) {
        self.row(what, format!("{:.0}", bytes as f64 / 1e6), goal);
    }

    fn waiting(&mut self, part: &Waiting) {
        let many = part.waiting;
        let ratio = |(few, many): (f64, f64)| format!("{:.2}", many / few);
        self.row(
            format!("polls/s with {many} waiting, divided by polls/s with 1,000"),
            ratio(part.polls_per_second),
            "0.80",
        );
        self.row("  the same ratio for the server's CPU time per poll", ratio(part.poll_cpu_per_1000), "1.20");
        self.megabytes(format!("server RSS with {many} waiting, MB"), part.rss_bytes, "200");
        self.megabytes("  after a restart, MB", part.restarted_rss_bytes, "200");
        self.ms(
            format!("longest promotion of {} users ({} users in total), ms", part.admitted, part.admitted_in_all),
            part.promote_ms,
            "50",
        );
        self.ms("longest expiry pass, ms", part.expire_ms, "-");
        self.ms("start of the server with these users, ms", part.start_ms, "-");
        self.errors("polls in queues", part.poll_errors);
    }

    fn watchers(&mut self, part: &Watchers) {
        self.row(
            format!("server RSS per open WatchPosition ({} open), KiB", part.streams),
            format!("{:.1}", part.bytes_per_stream / 1024.0),
            "8",
        );
        self.ms("  lag behind a promotion, p50 ms", part.lag.p50_ms, "-");
        self.ms("  lag behind a promotion, p99 ms", part.lag.p99_ms, "1000");
        self.notes.push(format!("{} streams opened at {:.0}/s", part.streams, part.opened_per_second));
        self.errors("watchers", part.errors as u64);
    }

    fn admitted(&mut self, part: &Admitted) {
        let Admitted { streams, joined, .. } = part;
        self.row(
            format!("server RSS per open WatchPosition ({streams} open, all admitted), KiB"),
            format!("{:.1}", part.bytes_per_stream / 1024.0),
            "8",
        );
        let ended: u64 = part.ended.values().sum();
        self.row(format!("  streams ended while {joined} users join"), ended.to_string(), "0");
        self.row("  calls of these users refused", part.refused.values().sum::<u64>().to_string(), "0");
        self.ms("  IssueToken of these users, p99 ms", part.issue.p99_ms, "-");
        self.row("  CPU of the server while nothing happens, cores", format!("{:.3}", part.quiet_cpu), "0.05");
        if !(part.ended.is_empty() && part.refused.is_empty()) {
            self.notes.push(format!("streams ended: {:?}; calls refused: {:?}", part.ended, part.refused));
        }
    }

    fn concerts(&mut self, part: &Concerts) {
        self.ms(format!("{} concerts on sale: longest promotion pass, ms", part.concerts), part.promote_ms, "-");
        self.ms(format!("  time until all {} are admitted, ms", part.admitted), part.admission_ms, "-");
        self.notes.push(format!(
            "one concert and {}: IssueToken {:.0}/s and {:.0}/s, GetPosition {:.0}/s and {:.0}/s",
            part.concerts,
            part.issued_per_second.0,
            part.issued_per_second.1,
            part.polls_per_second.0,
            part.polls_per_second.1,
        ));
        self.errors("many concerts", part.errors);
    }

    fn stadium(&mut self, part: &Stadium) {
        self.ms(format!("ListSeats of {} seats, p50 ms", part.seats), part.empty.p50_ms, "-");
        self.ms("  half of them held, p50 ms", part.half_held.p50_ms, "-");
        self.notes.push(format!(
            "{} seats in {} messages, {:.1} MB in total",
            part.seats,
            part.messages,
            part.bytes as f64 / 1e6,
        ));
    }

    fn best(&mut self, part: &Best) {
        self.row(
            format!("holds/s of the best of {} seats, divided by holds/s of named seats", part.seats),
            format!("{:.2}", part.best_per_second / part.named_per_second),
            "0.80",
        );
        self.ms("  latency, p99 ms", part.best.p99_ms, "-");
        self.row(format!("  seats left by {} users who want two together", part.users), part.left.to_string(), "0");
        self.row("  seats left by users who choose random pairs", part.left_at_random.to_string(), "-");
        self.notes
            .push(format!("named {:.0} holds/s, best {:.0} holds/s", part.named_per_second, part.best_per_second));
        self.errors("holds", part.errors);
    }

    fn crowd(&mut self, part: &Crowd) {
        let Crowd { users, replicas, batches, .. } = part;
        self.ms(format!("{users} users ask {replicas} servers for two seats at the same time, ms"), part.all_ms, "-");
        self.ms("  time until a user has two seats, p99 ms", part.latency.p99_ms, "-");
        self.row("  users without two seats together", part.misses.values().sum::<u64>().to_string(), "0");
        self.row(format!("  of {batches} batches, batches that ran again"), part.reruns.to_string(), "-");
        self.row("  calls refused with OVERLOADED, and repeated", part.overloaded.to_string(), "-");
        self.row("  seats left", part.left.to_string(), "0");
        self.row("  seats left by users who choose random pairs", part.left_at_random.to_string(), "-");
        if !part.misses.is_empty() {
            self.notes.push(format!("users without two seats together: {:?}", part.misses));
        }
    }

    fn history(&mut self, part: &Past) {
        let rows = part.rows;
        let goal = format!("{:.1}", 2.0 * part.fresh.p99_ms + 5.0);
        let ms = |figure: f64| format!("{figure:.1}");
        self.row("ChargeWallet by 8 callers, no history, p99 ms", ms(part.fresh.p99_ms), "-");
        self.row(
            format!("  {rows} expired, {rows} departed, {rows} reservations, p99 ms"),
            ms(part.aged.p99_ms),
            goal.as_str(),
        );
        self.row("  while this history is deleted, p99 ms", ms(part.tidying.p99_ms), goal);
        self.ms("  longest promotion pass with this history, ms", part.passes_ms.0, "-");
        self.ms("  longest expiry pass with this history, ms", part.passes_ms.1, "-");
        self.ms("  start of the server with this history, ms", part.start_ms, "-");
        self.megabytes(format!("server RSS after a start with {rows} departed, MB"), part.departed_rss_bytes, "120");
        self.ms("  that start, ms", part.departed_start_ms, "-");
        self.notes.push(format!(
            "ChargeWallet p50 {:.1}, {:.1} and {:.1} ms; {:.0} old rows deleted/s",
            part.fresh.p50_ms, part.aged.p50_ms, part.tidying.p50_ms, part.deleted_per_second,
        ));
        self.errors("ChargeWallet with and without history", part.errors);
    }

    fn finished(&mut self, part: &Finished) {
        let concerts = part.concerts;
        self.row(
            format!("{concerts} past concerts, each with a waiting user: idle CPU of the server, cores"),
            format!("{:.3}", part.idle_cpu),
            "0.05",
        );
        if let Some(cpu) = part.idle_database_cpu {
            self.row("  idle CPU of the database connections, cores", format!("{cpu:.3}"), "-");
        }
        self.ms("  IssueToken to ACTIVE for a new concert (promoting every 100 ms), ms", part.admission_ms, "1100");
        self.ms("  start of the server with these concerts, ms", part.start_ms, "-");
        self.megabytes("  server RSS, MB", part.rss_bytes, "-");
    }

    fn opening(&mut self, part: &Opening) {
        self.ms(format!("{} waiting users admitted to ten dates, ms", part.waiting), part.huge_ms, "60000");
        self.ms("  time until all users of a small concert are admitted, ms", part.small_ms, "5000");
        self.ms(format!("  longest of {} promotion transactions, ms", part.steps), part.longest_step_ms, "50");
    }

    fn draw(&mut self, part: &Drawn) {
        self.ms(
            format!("opening with a draw of {} users: first admissions, ms", part.participants),
            part.first_ms,
            "5000",
        );
        self.ms("  time until one user per seat is admitted, ms", part.all_ms, "-");
        self.ms("  longest call of one caller, ms", part.longest_call_ms, "1000");
        self.ms(format!("  opening to the first position of {} watchers, p99 ms", part.streams), part.told.p99_ms, "-");
        self.ms("  lag of their last message behind the last promotion, p99 ms", part.lag.p99_ms, "1000");
        self.errors("watchers of the draw", part.errors as u64);
        self.megabytes("  server RSS before the opening, MB", part.rss_before_bytes, "-");
        self.megabytes("  largest server RSS during the opening, MB", part.rss_peak_bytes, "-");
        self.megabytes("  server RSS after the opening, MB", part.rss_after_bytes, "200");
    }

    fn errors(&mut self, what: &str, count: u64) {
        if count > 0 {
            self.notes.push(format!("{count} ERRORS: {what}"));
        }
    }
}
