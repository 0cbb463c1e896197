//! Measures an operation and the echo alternately. The speed of a machine varies. So each ratio compares a round of the
//! operation with the preceding round of the echo, and the result is the median of the ratios.

use std::collections::BTreeMap;

use serde::Serialize;
use testkit::{Failure, Postgres, usage};

use super::bench::Bench;
use crate::{
    calls::{Calls, Measure, Winners},
    echo,
    load::{Call, Percentiles, Round, Supply, median},
    scrape,
};

/// A function that returns the call of a round. Its second argument is 1 for the warm-up, and from 2 for the rounds.
type Rounds = Box<dyn Fn(&Calls, i32) -> Call + Send + Sync>;

/// An operation to measure, with its lane in the server and the goal for its ratio.
pub struct Spec {
    name: &'static str,
    lane: &'static str,
    goal: f64,
    is_repeatable: bool,
    call: Rounds,
    measure: Measure,
}

/// The results of an operation. A value is the median of the rounds, unless its comment says otherwise.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// The name of the operation.
    pub name: &'static str,
    /// The number of correct answers per second.
    pub calls_per_second: f64,
    /// The number of correct answers of the echo per second, with payloads of the same size.
    pub echo_per_second: f64,
    /// The rate of the operation divided by the rate of the preceding round of the echo.
    pub ratio: f64,
    /// The minimum for the ratio that the developers aim at.
    pub goal: f64,
    /// The percentiles of the latencies of the correct answers.
    pub latency: Percentiles,
    /// The number of calls in all rounds together, without the warm-up.
    pub calls: u64,
    /// The number of wrong, failed and missing answers in the warm-up and all rounds together.
    pub errors: u64,
    /// The number of wrong, failed and missing answers, by reason.
    pub misses: BTreeMap<String, u64>,
    /// CPU seconds of the server per 1,000 calls.
    pub server_cpu_per_1000: f64,
    /// CPU seconds of PostgreSQL's child processes per 1,000 calls. `None` on SQLite, and if the benchmark did not
    /// start PostgreSQL.
    pub database_cpu_per_1000: Option<f64>,
    /// The resident memory of the server after the last round, in bytes.
    pub server_rss_bytes: u64,
    /// The size of the first request with its token metadata, and the size of its answer, in bytes.
    pub message_bytes: (usize, usize),
    /// The name of the lane of the server that runs the operation.
    pub lane: &'static str,
    /// The mean number of calls in a batch of this lane, over all rounds; `None` if the lane had no batch.
    pub batch_size: Option<f64>,
    /// The mean number of calls in a batch over all rounds, for each lane that had a batch.
    pub batch_sizes: BTreeMap<String, f64>,
}

/// The results of one round.
struct Measured {
    rate: f64,
    echo_rate: f64,
    latency: Percentiles,
    server_cpu: f64,
    database_cpu: Option<f64>,
}

impl Spec {
    /// Returns an operation that each user calls once.
    pub fn once(name: &'static str, lane: &'static str, goal: f64, call: Call, measure: Measure) -> Self {
        Self { name, lane, goal, is_repeatable: false, call: Box::new(move |_, _| call.clone()), measure }
    }

    /// Returns an operation that each user may call several times.
    pub fn over(name: &'static str, lane: &'static str, goal: f64, call: Call, measure: Measure) -> Self {
        Self { is_repeatable: true, ..Self::once(name, lane, goal, call, measure) }
    }

    /// Returns an operation in which all users of a round want the same seat. Each round uses a different seat.
    pub fn contested<F>(name: &'static str, lane: &'static str, goal: f64, measure: Measure, call: F) -> Self
    where
        F: Fn(&Calls, i32) -> Call + Send + Sync + 'static,
    {
        Self { name, lane, goal, is_repeatable: false, call: Box::new(call), measure }
    }
}

/// Measures the operation `spec` and the echo alternately, after a warm-up of both. Fails if a call of the echo fails.
///
/// `winners` is for a contested seat: exactly one user of each round must get the seat.
pub async fn interleave(bench: &Bench<'_>, spec: &Spec, winners: Option<&Winners>) -> Result<Figures, Failure> {
    let plan = bench.plan;
    bench.progress.set_message(format!("{}, warm-up", spec.name));
    let order = plan.order(bench.common.kind);
    let warm_up = match spec.is_repeatable {
        true => Supply::Over(plan.crowd(), plan.time / 2),
        false => Supply::InOrder(order[..plan.warm].into()),
    };
    let mut sum = Sum::default();
    let warmed = bench.full_load(&bench.world.channels, &warm_up, &(spec.call)(&bench.calls, 1)).await?;
    sum.misses_of(&warmed, winners);
    let sizes = spec.measure.sizes().ok_or_else(|| format!("{}: the server answered no call", spec.name))?;
    let echo_call = echo::call(sizes.token, sizes.request, sizes.reply);
    let echo_supply = Supply::Over(0..1, plan.time);
    bench.full_load(&bench.echo, &Supply::Over(0..1, plan.time / 2), &echo_call).await?;
    bench.progress.inc(1);

    let mut measured = Vec::with_capacity(plan.rounds);
    for number in 0..plan.rounds {
        bench.progress.set_message(format!("{}, round {} of {}", spec.name, number + 1, plan.rounds));
        let echoed = bench.full_load(&bench.echo, &echo_supply, &echo_call).await?;
        if echoed.errors() > 0 {
            return Err(format!("the echo failed: {:?}", echoed.misses).into());
        }
        let first = plan.warm + number * plan.slice;
        let supply = match spec.is_repeatable {
            true => Supply::Over(plan.crowd(), plan.time),
            false => Supply::InOrder(order[first..first + plan.slice].into()),
        };
        measured.push(one(bench, spec, number, &supply, &echoed, winners, &mut sum).await?);
        bench.progress.inc(1);
    }
    let rss = bench.deployment.resident_bytes()?;
    Ok(sum.figures(spec, &measured, (sizes.token + sizes.request, sizes.reply), rss))
}

async fn one(
    bench: &Bench<'_>,
    spec: &Spec,
    number: usize,
    supply: &Supply,
    echoed: &Round,
    winners: Option<&Winners>,
    sum: &mut Sum,
) -> Result<Measured, Failure> {
    let call = (spec.call)(&bench.calls, number as i32 + 2);
    let postmaster = bench.postgres.and_then(Postgres::postmaster);
    let database_cpu = || postmaster.and_then(usage::children_cpu_seconds);
    let lanes = scrape::lanes(bench.deployment.metrics).await?;
    let (server_before, database_before) = (bench.deployment.cpu_seconds()?, database_cpu());
    let round = bench.full_load(&bench.world.channels, supply, &call).await?;
    let (server_after, database_after) = (bench.deployment.cpu_seconds()?, database_cpu());
    let added = scrape::added(&lanes, &scrape::lanes(bench.deployment.metrics).await?);

    sum.misses_of(&round, winners);
    sum.add(&round, added);
    let thousands = round.calls().max(1) as f64 / 1_000.0;
    Ok(Measured {
        rate: round.rate(),
        echo_rate: echoed.rate(),
        latency: round.percentiles(),
        server_cpu: (server_after - server_before) / thousands,
        database_cpu: database_before.zip(database_after).map(|(before, after)| (after - before) / thousands),
    })
}

/// The total counts of all rounds. `misses` also includes the warm-up.
#[derive(Default)]
struct Sum {
    calls: u64,
    misses: BTreeMap<String, u64>,
    lanes: scrape::Totals,
}

impl Sum {
    /// Counts the wrong, failed and missing answers of a round. With `winners`, also counts an error unless exactly one
    /// user got the seat.
    fn misses_of(&mut self, round: &Round, winners: Option<&Winners>) {
        for (reason, count) in &round.misses {
            *self.misses.entry(reason.clone()).or_default() += count;
        }
        if let Some(count) = winners.map(|winners| winners.take().len())
            && count != 1
        {
            *self.misses.entry(format!("wrong: {count} users got the one seat")).or_default() += 1;
        }
    }

    fn add(&mut self, round: &Round, added: scrape::Totals) {
        self.calls += round.calls();
        for (lane, batches) in added {
            let sum = self.lanes.entry(lane).or_default();
            sum.sum += batches.sum;
            sum.count += batches.count;
        }
    }

    fn figures(self, spec: &Spec, measured: &[Measured], message_bytes: (usize, usize), rss: u64) -> Figures {
        let of = |figure: fn(&Measured) -> f64| median(measured.iter().map(figure).collect());
        let database: Option<Vec<f64>> = measured.iter().map(|round| round.database_cpu).collect();
        let batch_sizes: BTreeMap<String, f64> =
            self.lanes.into_iter().map(|(lane, batches)| (lane, batches.sum / batches.count)).collect();
        Figures {
            name: spec.name,
            calls_per_second: of(|round| round.rate),
            echo_per_second: of(|round| round.echo_rate),
            ratio: of(|round| round.rate / round.echo_rate),
            goal: spec.goal,
            latency: Percentiles {
                p50_ms: of(|round| round.latency.p50_ms),
                p99_ms: of(|round| round.latency.p99_ms),
                p999_ms: of(|round| round.latency.p999_ms),
            },
            calls: self.calls,
            errors: self.misses.values().sum(),
            misses: self.misses,
            server_cpu_per_1000: of(|round| round.server_cpu),
            database_cpu_per_1000: database.map(median),
            server_rss_bytes: rss,
            message_bytes,
            lane: spec.lane,
            batch_size: batch_sizes.get(spec.lane).copied(),
            batch_sizes,
        }
    }
}
