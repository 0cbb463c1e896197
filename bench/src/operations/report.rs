//! The results of the operations, in the form of the JSON file.

use serde::Serialize;
use testkit::Engine;

use super::{idle::IdleWrite, open_loop::OpenLoop, round::Figures, rush::Rush};
use crate::{
    check::Check,
    cli::Common,
    deployment::Complaints,
    growth::GrowthReport,
    peer::{Rates, postgres::PeerPayments, redis::RedisReport},
};

/// The name of HoldSeats with a different seat for each user.
pub const HOLD_OWN_SEAT: &str = "HoldSeats, own seat";

/// The results of all runs.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The number of connections of the client.
    pub connections: u16,
    /// The number of in-flight calls on each connection.
    pub in_flight: u16,
    /// The number of processors of the machine. The client, the server, the database and the echo share them.
    pub processors: usize,
    /// Whether `--quick` was set: shorter rounds, and fewer users.
    pub quick: bool,
    /// The results of each run of each engine, in the order of the measurements.
    pub engines: Vec<EngineReport>,
    /// The results of Redis in each run; empty if Redis is not installed.
    pub redis: Vec<RedisReport>,
}

/// The results of one run of one engine.
#[derive(Debug, Serialize)]
pub struct EngineReport {
    /// The engine.
    pub engine: Engine,
    /// The operations under full load.
    pub operations: Vec<Figures>,
    /// The writes in an open loop.
    pub open_loop: Vec<OpenLoop>,
    /// The writes by a single client.
    pub idle: Vec<IdleWrite>,
    /// The median time in which a single client inserts and commits one row without boxoffice, in milliseconds.
    pub commit_p50_ms: f64,
    /// The results of 2,000 ListPerformances calls within one second.
    pub rush: Option<Rush>,
    /// The writes with one command per transaction.
    pub single: Option<Rates>,
    /// The payments of pgbench; `None` on SQLite, and if pgbench is not installed.
    pub peer_payments: Option<PeerPayments>,
    /// The results of growth; `None` after a run with `--quick`, and in all runs except the last one.
    pub growth: Option<GrowthReport>,
    /// The checks after the run.
    pub checks: Vec<Check>,
    /// The number of warnings and errors in the server's log.
    pub server_complaints: u64,
    /// The first warnings and errors in the server's log, at most 10.
    pub first_complaints: Vec<String>,
}

/// The rate of whole tickets. A whole ticket is one IssueToken call, one HoldSeats call and one Pay call.
#[derive(Debug, Clone, Copy)]
pub struct Tickets {
    /// The number of whole tickets per second, computed from the rates of the three operations.
    pub per_second: f64,
    /// The rate of whole tickets divided by the rate of three calls of the echo.
    pub ratio: f64,
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
            redis: Vec::new(),
        }
    }

    /// Returns the results of all runs of an engine.
    pub fn of(&self, engine: Engine) -> Vec<&EngineReport> {
        self.engines.iter().filter(|report| report.engine == engine).collect()
    }
}

impl EngineReport {
    /// Returns a report without results.
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            operations: Vec::new(),
            open_loop: Vec::new(),
            idle: Vec::new(),
            commit_p50_ms: f64::NAN,
            rush: None,
            single: None,
            peer_payments: None,
            growth: None,
            checks: Vec::new(),
            server_complaints: 0,
            first_complaints: Vec::new(),
        }
    }

    /// Adds the warnings and errors of a server's log.
    pub fn complain(&mut self, complaints: &Complaints) {
        self.server_complaints += complaints.count;
        self.first_complaints.extend_from_slice(&complaints.first);
    }

    /// Returns the results of an operation under full load; `None` if it was not measured.
    pub fn operation(&self, name: &str) -> Option<&Figures> {
        self.operations.iter().find(|figures| figures.name == name)
    }

    /// Returns the rates of the writes under full load; `None` if one of them was not measured.
    pub fn rates(&self) -> Option<Rates> {
        self.rates_by(|figures| figures.calls_per_second)
    }

    /// Returns the rate of whole tickets; `None` if one of the writes was not measured.
    pub fn tickets(&self) -> Option<Tickets> {
        let per_second = self.rates()?.tickets();
        let echo = self.rates_by(|figures| figures.echo_per_second)?.tickets();
        Some(Tickets { per_second, ratio: per_second / echo })
    }

    fn rates_by(&self, rate: fn(&Figures) -> f64) -> Option<Rates> {
        let of = |name| self.operation(name).map(rate);
        Some(Rates {
            charge_wallet: of("ChargeWallet")?,
            issue_token: of("IssueToken")?,
            hold_seats: of(HOLD_OWN_SEAT)?,
            pay: of("Pay")?,
        })
    }
}
