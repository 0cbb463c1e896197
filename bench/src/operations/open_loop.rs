//! Measures the latency of writes in an open loop. Each call starts at its planned time and does not wait for the
//! answers of other calls. The latency counts from the planned time, so a server that falls behind cannot hide it.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng, seq::SliceRandom};
use serde::Serialize;
use testkit::Failure;
use tokio::{runtime::Handle, sync::mpsc};
use tonic::transport::Channel;

use super::bench::Bench;
use crate::{
    calls::{Calls, Measure},
    load::{Call, Miss, Percentiles, Round},
    peer::Rates,
};

/// The code of the concert for the calls of the open loop.
pub const CONCERT: &str = "BENCH-OPEN";
/// The name of the venue of this concert.
pub const VENUE: &str = "bench-open";
/// The planned rates, as shares of the rate of the closed loop.
pub const SHARES: [f64; 3] = [0.25, 0.50, 0.80];
/// Maximum time after the last planned call until the last answer.
const GRACE: Duration = Duration::from_secs(30);
const ADMISSION_LIMIT: Duration = Duration::from_secs(180);

/// The results of a write at each of the rates [`SHARES`].
#[derive(Debug, Serialize)]
pub struct OpenLoop {
    /// The name of the operation.
    pub name: &'static str,
    /// The results at each rate, in ascending order of the rates.
    pub rates: Vec<OpenRate>,
}

/// The results of a write at one rate.
#[derive(Debug, Serialize)]
pub struct OpenRate {
    /// The planned rate as a share of the rate of the closed loop.
    pub share: f64,
    /// The planned number of calls per second.
    pub calls_per_second: f64,
    /// The latencies of the correct answers, from the planned time of each call.
    pub latency: Percentiles,
    /// The number of wrong, failed and missing answers.
    pub errors: u64,
}

/// Measures each write at each rate. `capacity` has the rates of the closed loop.
pub async fn run(bench: &Bench<'_>, capacity: &Rates) -> Result<Vec<OpenLoop>, Failure> {
    let users = &bench.world.users[bench.plan.open()];
    let calls = Calls::new(CONCERT, Arc::new(users.to_vec()), !bench.common.kind);
    let none = Measure::default();
    bench.world.for_users(bench.plan.open(), "OpenWallet", &bench.world.open_wallet()).await?;
    let mut writes = vec![
        write(bench, "ChargeWallet", capacity.charge_wallet, &calls.charge_wallet(&none)).await?,
        write(bench, "IssueToken", capacity.issue_token, &calls.issue_token(&none)).await?,
    ];
    bench.world.open_sale(CONCERT).await?;
    bench.world.wait_until_admitted(CONCERT, ADMISSION_LIMIT).await?;
    writes.push(write(bench, "HoldSeats", capacity.hold_seats, &calls.hold_own_seat(&none)).await?);
    writes.push(write(bench, "Pay", capacity.pay, &calls.pay(&none)).await?);
    Ok(writes)
}

/// Measures one write at each rate. `capacity` is its rate in the closed loop.
async fn write(bench: &Bench<'_>, name: &'static str, capacity: f64, call: &Call) -> Result<OpenLoop, Failure> {
    let mut order: Vec<usize> = (0..bench.plan.open().len()).collect();
    order.shuffle(&mut rand::rng());
    let mut rates = Vec::new();
    for (share, range) in SHARES.into_iter().zip(parts(order.len())) {
        bench.progress.set_message(format!("{name}, open loop at {:.0} %", share * 100.0));
        let rate = share * capacity;
        let round = offer(&bench.world.channels, order[range].to_vec(), rate, call).await?;
        let (latency, errors) = (round.percentiles(), round.errors());
        rates.push(OpenRate { share, calls_per_second: rate, latency, errors });
    }
    Ok(OpenLoop { name, rates })
}

/// Splits `count` users into one range for each rate. The sizes are proportional to the rates, so that all rates are
/// measured for the same time.
fn parts(count: usize) -> [Range<usize>; SHARES.len()] {
    let total: f64 = SHARES.iter().sum();
    let mut end = 0.0;
    SHARES.map(|share| {
        let start = end;
        end += share / total;
        (start * count as f64).round() as usize..(end * count as f64).round() as usize
    })
}

/// Makes `call` once for each item, at `rate` calls per second on average. The users are independent of each other, so
/// the times between two calls are exponentially distributed.
async fn offer(channels: &[Channel], items: Vec<usize>, rate: f64, call: &Call) -> Result<Round, Failure> {
    let (noted, mut answers) = mpsc::unbounded_channel();
    let (count, channels, call, runtime) = (items.len(), channels.to_vec(), call.clone(), Handle::current());
    let started = Instant::now();
    // The timer of tokio has a resolution of 1 ms, which is longer than some of the latencies. A thread sleeps more
    // precisely.
    let pacer = tokio::task::spawn_blocking(move || {
        let mut due = started;
        for (number, index) in items.into_iter().enumerate() {
            due += Duration::from_secs_f64(pause(rand::rng().random(), rate));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let (channel, call, noted) = (channels[number % channels.len()].clone(), call.clone(), noted.clone());
            runtime.spawn(async move {
                let answer = call.make(channel, index).await;
                // The receiver is dropped only after the time limit. The answer then counts as missing.
                let _ = noted.send((answer, due.elapsed()));
            });
        }
    });
    let mut round = Round::new()?;
    let deadline = started + Duration::from_secs_f64(2.0 * count as f64 / rate) + GRACE;
    while let Ok(Some((answer, latency))) = tokio::time::timeout_at(deadline.into(), answers.recv()).await {
        round.note(answer, latency);
    }
    pacer.await?;
    round.elapsed = started.elapsed();
    for _ in round.calls()..count as u64 {
        round.note(Err(Miss("calls without an answer".to_owned())), GRACE);
    }
    Ok(round)
}

/// Returns the seconds until the next call. `draw` is uniformly distributed from 0 (included) to 1 (excluded).
fn pause(draw: f64, rate: f64) -> f64 {
    -(1.0 - draw).ln() / rate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_users_are_split_in_proportion_to_the_rates() {
        assert_eq!(parts(155), [0..25, 25..75, 75..155]);
        assert_eq!(parts(0), [0..0, 0..0, 0..0]);
    }

    #[test]
    fn the_mean_pause_is_the_inverse_of_the_rate() {
        let draws = 100_000;
        let sum: f64 = (0..draws).map(|draw| pause(f64::from(draw) / f64::from(draws), 50.0)).sum();
        assert!((sum / f64::from(draws) * 50.0 - 1.0).abs() < 0.01);
    }
}
