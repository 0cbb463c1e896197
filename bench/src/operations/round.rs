//! Measures an operation and the echo alternately. The speed of a machine varies. So each ratio compares a round of the
//! operation with the preceding round of the echo, and the result is the median of the ratios.

use std::collections::BTreeMap;

use serde::Serialize;
use testkit::Failure;

use super::{
    bench::Bench,
    usage::{Reading, Usage, Used},
};
use crate::{
    calls::{Calls, Measure, Winners},
    echo,
    load::{Call, Percentiles, Round, Supply, median},
};

/// A function that returns the call of a round. Its second argument is a seat number: 1 in the warm-up, 2 in the first
/// round, 3 in the second round, and so on.
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
    /// The use of cores, workers, statements and storage.
    pub usage: Usage,
    /// The resident memory of the server after the last round, in bytes. With several servers, the largest value.
    pub server_rss_bytes: u64,
    /// The size of the first request with its token metadata, and the size of its answer, in bytes.
    pub message_bytes: (usize, usize),
    /// The name of the lane of the server that runs the operation.
    pub lane: &'static str,
}

/// The results of one round.
struct Measured {
    rate: f64,
    echo_rate: f64,
    latency: Percentiles,
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

/// Warms up the operation `spec` and the echo, then measures the echo and the operation alternately. Fails if a call of
/// the echo fails in a measured round.
///
/// `winners` is for a contested seat: exactly one user of the warm-up and of each round must get the seat.
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
    let mut rss = 0;
    for deployment in &bench.deployments {
        rss = deployment.resident_bytes()?.max(rss);
    }
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
    let before = Reading::take(bench).await?;
    let round = bench.full_load(&bench.world.channels, supply, &call).await?;
    let after = Reading::take(bench).await?;

    sum.misses_of(&round, winners);
    sum.calls += round.calls();
    sum.used.add(&before, &after);
    Ok(Measured { rate: round.rate(), echo_rate: echoed.rate(), latency: round.percentiles() })
}

/// The total counts of all rounds. `misses` also includes the warm-up.
#[derive(Default)]
struct Sum {
    calls: u64,
    misses: BTreeMap<String, u64>,
    used: Used,
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

    fn figures(self, spec: &Spec, measured: &[Measured], message_bytes: (usize, usize), rss: u64) -> Figures {
        let of = |figure: fn(&Measured) -> f64| median(measured.iter().map(figure).collect());
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
            usage: self.used.means(spec.lane, self.calls),
            server_rss_bytes: rss,
            message_bytes,
            lane: spec.lane,
        }
    }
}
