//! The report of a sale, as JSON and as text.

use std::{collections::BTreeMap, fmt::Write, time::Instant};

use boxoffice::rpc::proto::SaleStats;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    sampler::Sample,
    tally::{Payment, Tally},
    visitor::{Outcome, Visit},
};
use crate::{
    check::Check,
    cli::Sale,
    deployment::Complaints,
    load::{self, Percentiles},
    table::Table,
};

/// The results of a sale.
#[derive(Debug, Serialize)]
pub struct SaleReport {
    /// The name of the engine, or the address of the deployment.
    pub place: String,
    /// The number of users.
    pub users: u32,
    /// The seconds within which all users arrived.
    pub arrive_seconds: f64,
    /// Whether users watched their position instead of polling it.
    pub watch: bool,
    /// The number of seats on all dates together.
    pub seats: u32,
    /// The number of paid seats in the answers of Pay.
    pub sold: u64,
    /// The seconds from the opening until the last seat was sold; `None` if not all seats were sold.
    pub sold_out_seconds: Option<f64>,
    /// The number of seats sold per second, from the opening to the last payment.
    pub tickets_per_second: f64,
    /// The largest number of seats that were sold within one second. The first second starts at the opening.
    pub peak_tickets_per_second: u64,
    /// The number of visits with each outcome.
    pub outcomes: Outcomes,
    /// The number of users for which HoldSeats failed at least once, because another user had taken a chosen seat.
    pub chose_again: u64,
    /// The seconds from the arrival of a user to the admission.
    pub waited: Spread,
    /// The seconds from the admission of a user to the payment.
    pub shopped: Spread,
    /// The calls, by the name of the RPC.
    pub calls: BTreeMap<&'static str, Calls>,
    /// The number of calls per second, from the opening to the last sample.
    pub calls_per_second: f64,
    /// The number of failed calls, by reason.
    pub refused: BTreeMap<String, u64>,
    /// The number of repeated calls, reopened streams and new choices of seats.
    pub retried: u64,
    /// The CPU time of the sale; `None` if `--target` names the deployment, or if the CPU time cannot be read.
    pub cpu: Option<CpuSeconds>,
    /// The checks after the sale.
    pub checks: Vec<Check>,
    /// The first warnings and errors in the server's log, at most 10.
    pub server_complaints: Vec<String>,
    /// The path of the plot.
    pub plot: String,
    /// The counts of the sale over time, in the order of the samples.
    pub samples: Vec<Point>,
}

/// The number of visits with each outcome.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "as in visitor.rs")]
pub struct Outcomes {
    pub bought: u64,
    pub left: u64,
    pub walked_away: u64,
    pub too_late: u64,
    pub failed: u64,
    pub not_done: u64,
}

/// The CPU seconds that a sale and its preparation used.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CpuSeconds {
    /// The CPU seconds of the server.
    pub server: f64,
    /// The CPU seconds of PostgreSQL's child processes. `None` on SQLite, and if the benchmark did not start
    /// PostgreSQL.
    pub database: Option<f64>,
    /// The CPU seconds of this process, which simulates all visitors.
    pub visitors: f64,
}

/// The percentiles of a time, in seconds.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "percentiles")]
pub struct Spread {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

/// The calls of one RPC.
#[derive(Debug, Serialize)]
pub struct Calls {
    /// The number of calls.
    pub count: u64,
    /// The percentiles of the latencies of all answers, including errors.
    pub latency: Percentiles,
}

/// The counts of the sale at one time, in the report.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "as in SaleStats")]
pub struct Point {
    pub seconds: f64,
    pub waiting: i64,
    pub active: i64,
    pub held: i32,
    pub sold: i32,
}

impl SaleReport {
    /// Returns the report of a sale that was opened at `opened`. The CPU time, the log and the plot are added later.
    #[allow(clippy::too_many_arguments, reason = "it is called once, with all data of a sale")]
    pub fn new(
        place: String,
        options: &Sale,
        seats: u32,
        visits: Vec<Visit>,
        tally: &Tally,
        stats: &SaleStats,
        samples: &[Sample],
        opened: Instant,
    ) -> Self {
        let payments = tally.payments();
        let sold: u64 = payments.iter().map(|payment| payment.seats).sum();
        let last = payments.last().map_or(0.0, |payment| (payment.at - opened).as_secs_f64());
        let calls: BTreeMap<_, _> = tally
            .calls()
            .into_iter()
            .map(|(name, latencies)| (name, Calls { count: latencies.len(), latency: load::percentiles(&latencies) }))
            .collect();
        let seconds = samples.last().map_or(1.0, |sample| sample.seconds.max(0.001));
        Self {
            place,
            users: options.users,
            arrive_seconds: options.arrive.as_secs_f64(),
            watch: options.watch,
            seats,
            sold,
            sold_out_seconds: (sold == u64::from(seats)).then_some(last),
            tickets_per_second: sold as f64 / last.max(0.001),
            peak_tickets_per_second: peak(&payments, opened),
            outcomes: Outcomes::of(&visits, options.users),
            chose_again: visits.iter().filter(|visit| visit.chose_again).count() as u64,
            waited: Spread::of(visits.iter().filter_map(|visit| visit.waited)),
            shopped: Spread::of(visits.iter().filter_map(|visit| visit.shopped)),
            calls_per_second: calls.values().map(|calls| calls.count).sum::<u64>() as f64 / seconds,
            calls,
            refused: tally.refused(),
            retried: tally.retried(),
            cpu: None,
            checks: checks(&payments, stats, seats),
            server_complaints: Vec::new(),
            plot: String::new(),
            samples: samples.iter().map(Point::of).collect(),
        }
    }

    /// Sets the first warnings and errors of the server's log.
    pub fn complain(&mut self, complaints: &Complaints) {
        self.server_complaints.clone_from(&complaints.first);
    }

    /// Sets the CPU time.
    pub fn spend(&mut self, cpu: Option<CpuSeconds>) {
        self.cpu = cpu;
    }

    /// Returns a description of the sale in one line.
    pub fn title(&self) -> String {
        let Self { users, arrive_seconds, seats, place, watch, .. } = self;
        let way = if *watch { "watching" } else { "polling" };
        format!("{users} users within {arrive_seconds:.0} s for {seats} seats on {place}, {way}")
    }

    /// Returns the report as text for a terminal.
    pub fn text(&self) -> String {
        let sold_out = match self.sold_out_seconds {
            Some(seconds) => format!("{seconds:.1} s"),
            None => format!("never: {} seats left", u64::from(self.seats).saturating_sub(self.sold)),
        };
        let mut text = format!("\n{}\n\n", self.title());
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<22} {value}");
        };
        line("sold out after", sold_out);
        line("tickets per second", format!("{:.0}, at most {}", self.tickets_per_second, self.peak_tickets_per_second));
        line("waiting for admission", self.waited.text());
        line("admission to payment", self.shopped.text());
        let Outcomes { bought, left, walked_away, too_late, failed, not_done } = self.outcomes;
        line(
            "users",
            format!(
                "{bought} bought, {too_late} came too late, {left} left the queue, {walked_away} left held seats, \
                 {failed} failed, {not_done} not done"
            ),
        );
        line("chose other seats", format!("{} users", self.chose_again));
        line("calls per second", format!("{:.0}", self.calls_per_second));
        let refused: Vec<String> = self.refused.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        line("refused calls", if refused.is_empty() { "none".to_owned() } else { refused.join(", ") });
        line("retries", self.retried.to_string());
        if let Some(cpu) = &self.cpu {
            let CpuSeconds { server, visitors, .. } = cpu;
            let database = cpu.database.map(|database| format!(", database {database:.1}")).unwrap_or_default();
            line("CPU seconds", format!("server {server:.1}{database}, visitors {visitors:.1}"));
        }
        line("drawn in", self.plot.clone());
        let _ = writeln!(text, "\n{}", self.calls_table());
        for check in &self.checks {
            let _ = writeln!(text, "{}", check.line());
        }
        for complaint in &self.server_complaints {
            let _ = writeln!(text, "the server logged: {complaint}");
        }
        text
    }

    fn calls_table(&self) -> String {
        let mut table = Table::new(&["call", "count", "p50 ms", "p99 ms", "p99.9 ms"]);
        for (name, calls) in &self.calls {
            let Percentiles { p50_ms, p99_ms, p999_ms } = calls.latency;
            table.row([
                (*name).to_owned(),
                calls.count.to_string(),
                format!("{p50_ms:.1}"),
                format!("{p99_ms:.1}"),
                format!("{p999_ms:.1}"),
            ]);
        }
        table.to_string()
    }
}

impl Outcomes {
    fn of(visits: &[Visit], users: u32) -> Self {
        let mut outcomes = Self { not_done: u64::from(users).saturating_sub(visits.len() as u64), ..Self::default() };
        for visit in visits {
            *match visit.outcome {
                Outcome::Bought => &mut outcomes.bought,
                Outcome::Left => &mut outcomes.left,
                Outcome::WalkedAway => &mut outcomes.walked_away,
                Outcome::TooLate => &mut outcomes.too_late,
                Outcome::Failed => &mut outcomes.failed,
            } += 1;
        }
        outcomes
    }
}

impl Spread {
    fn of(spans: impl Iterator<Item = std::time::Duration>) -> Self {
        let Ok(mut histogram) = Histogram::<u64>::new_with_bounds(1, 86_400_000, 3) else { return Self::default() };
        for span in spans {
            histogram.saturating_record(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
    }

    fn text(&self) -> String {
        let Self { p50, p90, p99, max } = self;
        format!("p50 {p50:.1} s, p90 {p90:.1} s, p99 {p99:.1} s, at most {max:.1} s")
    }
}

impl Point {
    fn of(sample: &Sample) -> Self {
        let stats = &sample.stats;
        Self {
            seconds: sample.seconds,
            waiting: stats.waiting_count,
            active: stats.active_count,
            held: stats.held_seat_count,
            sold: stats.sold_seat_count,
        }
    }
}

/// Returns the largest number of seats that were sold within one second. The first second starts at `opened`.
fn peak(payments: &[Payment], opened: Instant) -> u64 {
    let mut by_second = BTreeMap::<u64, u64>::new();
    for payment in payments {
        *by_second.entry((payment.at - opened).as_secs()).or_default() += payment.seats;
    }
    by_second.into_values().max().unwrap_or_default()
}

fn checks(payments: &[Payment], stats: &SaleStats, seats: u32) -> Vec<Check> {
    let paid: u64 = payments.iter().map(|payment| payment.seats).sum();
    let money: i64 = payments.iter().map(|payment| payment.price).sum();
    let (sold, unsold) = (stats.sold_seat_count, stats.unsold_seat_count);
    vec![
        Check::new(format!("{sold} seats sold, {paid} paid for"), sold as u64 == paid),
        Check::new(
            format!("{sold} sold and {unsold} unsold are {seats} seats"),
            (sold + unsold) as u64 == u64::from(seats),
        ),
        Check::new(format!("revenue {}, payments {money}", stats.revenue), stats.revenue == money),
        Check::new(
            format!("{} tokens completed, {} payments", stats.completed_count, payments.len()),
            stats.completed_count as usize == payments.len(),
        ),
    ]
}
