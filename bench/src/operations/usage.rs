//! Measures what an operation uses: the cores, the workers of its lane, the statements, and the written bytes.

use std::time::Instant;

use serde::Serialize;
use testkit::{Engine, Failure, Postgres, usage};

use super::bench::Bench;
use crate::scrape::{Lanes, Totals};

/// Start of the names of the threads that run SQLite in the server.
const SQLITE_THREADS: &str = "sqlx-sqlite";

/// The counters of the machine, the server, the database and the client at one time.
pub struct Reading {
    at: Instant,
    server: f64,
    database: Option<f64>,
    client: f64,
    idle: Option<f64>,
    written: Option<u64>,
    lanes: Lanes,
}

/// What the rounds of an operation used in total.
#[derive(Debug, Default)]
pub struct Used {
    seconds: f64,
    server: f64,
    database: Option<f64>,
    client: f64,
    idle: Option<f64>,
    written: Option<u64>,
    lanes: Lanes,
}

/// What limits an operation. All values are means over all rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    /// The number of cores that all servers together used, without the threads of SQLite.
    pub server_cores: f64,
    /// The number of cores that the database used: the threads of SQLite, or the processes of PostgreSQL. `None` if the
    /// benchmark did not start PostgreSQL.
    pub database_cores: Option<f64>,
    /// The number of cores that this process used, which makes the calls.
    pub client_cores: f64,
    /// The number of cores that had nothing to run.
    pub idle_cores: Option<f64>,
    /// The CPU time of the server per call, in microseconds, without the threads of SQLite.
    pub server_micros: f64,
    /// The CPU time of the database per call, in microseconds.
    pub database_micros: Option<f64>,
    /// The share of the time in which each worker of the lane ran a batch. A worker without a batch is left out. With
    /// several servers, the sum of the shares of all servers.
    pub busy_shares: Vec<f64>,
    /// The number of calls per batch of the lane; `None` if the lane had no batch.
    pub calls_per_batch: Option<f64>,
    /// The number of statements per batch, including BEGIN and COMMIT; `None` for a lane that only reads.
    pub statements_per_batch: Option<f64>,
    /// The bytes that the server, or the processes of PostgreSQL, wrote per call. `None` if they cannot be read.
    pub written_per_call: Option<f64>,
}

impl Reading {
    /// Reads all counters.
    pub async fn take(bench: &Bench<'_>) -> Result<Self, Failure> {
        let lanes = Lanes::read_all(bench.deployments.iter().map(|deployment| deployment.metrics)).await?;
        let mut all = 0.0;
        for deployment in &bench.deployments {
            all += deployment.cpu_seconds()?;
        }
        // SQLite has only one server.
        let pid = bench.deployments[0].pid();
        let of_sqlite = match bench.engine {
            Engine::Sqlite => usage::threads_cpu_seconds(pid, SQLITE_THREADS),
            Engine::Postgres => None,
        };
        let postgres = bench.postgres.and_then(Postgres::postmaster);
        let children = postgres.and_then(usage::children).unwrap_or_default();
        let written = match bench.engine {
            Engine::Sqlite => usage::written_bytes(pid),
            Engine::Postgres => postgres.and(children.iter().map(|pid| usage::written_bytes(*pid)).sum()),
        };
        Ok(Self {
            at: Instant::now(),
            server: all - of_sqlite.unwrap_or_default(),
            database: of_sqlite.or(postgres.map(|_| children.into_iter().filter_map(usage::cpu_seconds).sum())),
            client: usage::cpu_seconds(std::process::id()).unwrap_or_default(),
            idle: usage::idle_seconds(),
            written,
            lanes,
        })
    }
}

impl Used {
    /// Adds the difference between two readings.
    pub fn add(&mut self, before: &Reading, after: &Reading) {
        let plus = |sum: Option<f64>, before: Option<f64>, after: Option<f64>| {
            before.zip(after).map(|(before, after)| sum.unwrap_or_default() + after - before)
        };
        self.seconds += (after.at - before.at).as_secs_f64();
        self.server += after.server - before.server;
        self.database = plus(self.database, before.database, after.database);
        self.client += after.client - before.client;
        self.idle = plus(self.idle, before.idle, after.idle);
        let written = before.written.zip(after.written).map(|(before, after)| after.saturating_sub(before));
        self.written = written.map(|written| self.written.unwrap_or_default() + written);
        self.lanes.add(after.lanes.since(&before.lanes));
    }

    /// Returns the means of `calls` calls, which `lane` ran.
    pub fn means(&self, lane: &str, calls: u64) -> Usage {
        let cores = |cpu: f64| cpu / self.seconds.max(1e-9);
        let per_call = |total: f64| total / calls.max(1) as f64;
        let batches = self.lanes.calls.get(lane).filter(|batches| batches.count > 0.0);
        let statements = self.lanes.statements.get(lane);
        Usage {
            server_cores: cores(self.server),
            database_cores: self.database.map(cores),
            client_cores: cores(self.client),
            idle_cores: self.idle.map(cores),
            server_micros: per_call(self.server * 1e6),
            database_micros: self.database.map(|cpu| per_call(cpu * 1e6)),
            busy_shares: busy_of(&self.lanes.busy, lane).map(cores).collect(),
            calls_per_batch: batches.map(|batches| batches.sum / batches.count),
            statements_per_batch: batches.zip(statements).map(|(batches, statements)| statements.sum / batches.count),
            written_per_call: self.written.map(|bytes| per_call(bytes as f64)),
        }
    }
}

/// Returns the seconds in which each worker of a lane ran batches.
fn busy_of(busy: &Totals, lane: &str) -> impl Iterator<Item = f64> {
    let is_of_lane = move |worker: &str| worker.rsplit_once('/').is_some_and(|(name, _)| name == lane);
    busy.iter().filter(move |(worker, _)| is_of_lane(worker)).map(|(_, total)| total.sum)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scrape::Total;

    fn reading(at: Instant, scale: f64) -> Reading {
        let of = |name: &str, sum: f64, count: f64| Totals::from([(name.to_owned(), Total { sum, count })]);
        let lanes = Lanes {
            calls: of("pay", 100.0 * scale, 10.0 * scale),
            busy: of("pay/0", 1.5 * scale, 10.0 * scale),
            statements: of("pay", 70.0 * scale, 0.0),
            reruns: Totals::new(),
        };
        let cpu = |seconds: f64| seconds * scale;
        Reading {
            at,
            server: cpu(1.0),
            database: Some(cpu(0.5)),
            client: cpu(0.4),
            idle: Some(cpu(0.2)),
            written: Some((5_000.0 * scale) as u64),
            lanes,
        }
    }

    #[test]
    fn cores_are_per_second_and_bytes_are_per_call() {
        let (mut used, start) = (Used::default(), Instant::now());
        used.add(&reading(start, 1.0), &reading(start + Duration::from_secs(2), 2.0));
        used.add(&reading(start, 2.0), &reading(start + Duration::from_secs(2), 3.0));
        let usage = used.means("pay", 200);
        let near = |left: f64, right: f64| (left - right).abs() < 1e-9;
        assert!(near(usage.server_cores, 0.5) && near(usage.client_cores, 0.2));
        assert!(near(usage.database_cores.unwrap(), 0.25) && near(usage.idle_cores.unwrap(), 0.1));
        assert!(near(usage.server_micros, 10_000.0) && near(usage.written_per_call.unwrap(), 50.0));
        assert!(near(usage.busy_shares[0], 0.75) && usage.busy_shares.len() == 1);
        assert!(near(usage.calls_per_batch.unwrap(), 10.0) && near(usage.statements_per_batch.unwrap(), 7.0));
        assert_eq!(used.means("other", 200).calls_per_batch, None);
    }
}
