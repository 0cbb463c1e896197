//! Echo, operation, echo, operation: ratios from neighbours in time, medians over the rounds, since machines are noisy.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Bench,
    calls::{Calls, Measure, Winners},
    full_load,
};
use crate::{
    Failure, echo,
    load::{Call, Percentiles, Round, Supply},
    scrape, usage,
};

/// Makes the call of a round from its number.
type Rounds = Box<dyn Fn(&Calls, i32) -> Call + Send + Sync>;

/// An operation to measure.
pub struct Spec {
    name: &'static str,
    lane: &'static str,
    goal: f64,
    is_repeatable: bool,
    call: Rounds,
    measure: Measure,
}

/// What was measured of an operation.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// The operation.
    pub name: &'static str,
    /// Right answers per second; the median of the rounds, as are all figures where nothing else is said.
    pub calls_per_second: f64,
    /// The same of the echo with messages of the same size, in turns with the operation.
    pub echo_per_second: f64,
    /// The operation's rate through the echo's before it.
    pub ratio: f64,
    /// What the ratio should be.
    pub goal: f64,
    /// Latencies of right answers.
    pub latency: Percentiles,
    /// Calls in all rounds.
    pub calls: u64,
    /// Wrong, failed and missing answers in all rounds.
    pub errors: u64,
    /// What they were.
    pub misses: BTreeMap<String, u64>,
    /// CPU seconds of the server per 1,000 calls.
    pub server_cpu_per_1000: f64,
    /// CPU seconds of PostgreSQL's connections per 1,000 calls, where it runs beside.
    pub database_cpu_per_1000: Option<f64>,
    /// Resident memory of the server after the last round.
    pub server_rss_bytes: u64,
    /// Bytes of a request with its token, and of its answer.
    pub message_bytes: (usize, usize),
    /// The operation's lane in the server.
    pub lane: &'static str,
    /// Calls in one of its batches on average over all rounds; missing where the lane was not needed.
    pub batch_size: Option<f64>,
    /// The same of all lanes that had work.
    pub batch_sizes: BTreeMap<String, f64>,
}

/// Figures of one round.
struct Measured {
    rate: f64,
    echo_rate: f64,
    latency: Percentiles,
    server_cpu: f64,
    database_cpu: Option<f64>,
}

impl Spec {
    /// An operation that each user makes once.
    pub fn once(name: &'static str, lane: &'static str, goal: f64, call: Call, measure: Measure) -> Self {
        Self { name, lane, goal, is_repeatable: false, call: Box::new(move |_, _| call.clone()), measure }
    }

    /// An operation that users may repeat.
    pub fn over(name: &'static str, lane: &'static str, goal: f64, call: Call, measure: Measure) -> Self {
        Self { is_repeatable: true, ..Self::once(name, lane, goal, call, measure) }
    }

    /// An operation for which each round has a seat of its own that everybody wants.
    pub fn contested<F>(name: &'static str, lane: &'static str, goal: f64, measure: Measure, call: F) -> Self
    where
        F: Fn(&Calls, i32) -> Call + Send + Sync + 'static,
    {
        Self { name, lane, goal, is_repeatable: false, call: Box::new(call), measure }
    }
}

/// Measures `spec` in turns with the echo.
pub async fn interleave(bench: &Bench<'_>, spec: &Spec, winners: Option<&Winners>) -> Result<Figures, Failure> {
    let plan = bench.plan;
    bench.progress.set_message(format!("{}, warm-up", spec.name));
    let warm_up =
        if spec.is_repeatable { Supply::Over(plan.crowd(), plan.time / 2) } else { Supply::Once(0..plan.warm) };
    let mut sum = Sum::default();
    let warmed = full_load(bench, &bench.world.channels, &warm_up, &(spec.call)(&bench.calls, 1)).await?;
    sum.misses_of(&warmed, winners);
    let sizes = spec.measure.sizes().ok_or_else(|| format!("{}: no call was answered", spec.name))?;
    let echo_call = echo::call(sizes.request, sizes.reply);
    let echo_supply = Supply::Over(0..1, plan.time);
    full_load(bench, &bench.echo, &Supply::Over(0..1, plan.time / 2), &echo_call).await?;
    bench.progress.inc(1);

    let mut measured = Vec::with_capacity(plan.rounds);
    for number in 0..plan.rounds {
        bench.progress.set_message(format!("{}, round {} of {}", spec.name, number + 1, plan.rounds));
        let echoed = full_load(bench, &bench.echo, &echo_supply, &echo_call).await?;
        if echoed.errors() > 0 {
            return Err(format!("the echo failed: {:?}", echoed.misses).into());
        }
        let first = plan.warm + number * plan.slice;
        let supply = match spec.is_repeatable {
            true => Supply::Over(plan.crowd(), plan.time),
            false => Supply::Once(first..first + plan.slice),
        };
        measured.push(one(bench, spec, number, &supply, &echoed, winners, &mut sum).await?);
        bench.progress.inc(1);
    }
    let rss = usage::resident_bytes(bench.deployment.pid).unwrap_or_default();
    Ok(sum.figures(spec, &measured, (sizes.request, sizes.reply), rss))
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
    let postmaster = bench.postgres.and_then(|postgres| postgres.postmaster);
    let server_cpu = || usage::cpu_seconds(bench.deployment.pid).ok_or("the server is gone");
    let database_cpu = || postmaster.and_then(usage::children_cpu_seconds);
    let lanes = scrape::lanes(bench.deployment.metrics).await?;
    let (server_before, database_before) = (server_cpu()?, database_cpu());
    let round = full_load(bench, &bench.world.channels, supply, &call).await?;
    let (server_after, database_after) = (server_cpu()?, database_cpu());
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

/// What is added up over the rounds.
#[derive(Default)]
struct Sum {
    calls: u64,
    misses: BTreeMap<String, u64>,
    lanes: scrape::Totals,
}

impl Sum {
    /// Counts wrong answers, also those of the warm-up. Of a contested seat there has to be one winner.
    fn misses_of(&mut self, round: &Round, winners: Option<&Winners>) {
        for (reason, count) in &round.misses {
            *self.misses.entry(reason.clone()).or_default() += count;
        }
        if let Some(count) = winners.map(|winners| winners.take().len())
            && count != 1
        {
            *self.misses.entry(format!("wrong: {count} got the one seat")).or_default() += 1;
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

/// The middle one; of an even number the mean of the middle two.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    match (figures.len(), figures.len() / 2) {
        (0, _) => f64::NAN,
        (count, middle) if count % 2 == 1 => figures[middle],
        (_, middle) => f64::midpoint(figures[middle - 1], figures[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_round_does_not_move_the_median() {
        assert!((median(vec![3.0, 900.0, 1.0]) - 3.0).abs() < 1e-9);
        assert!((median(vec![4.0, 2.0]) - 3.0).abs() < 1e-9);
    }
}
