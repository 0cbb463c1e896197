//! Runs the experiments: the short versions as tests, or the long versions one after the other, with a table at the
//! end.

use std::{
    env,
    panic::AssertUnwindSafe,
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use futures::{FutureExt, future::LocalBoxFuture};
use libtest_mimic::{Arguments, Failed, Trial};

use super::lab::{Engine, Lab, Notes};

/// Environment variable for the total duration of a long run, in seconds. Without this variable, the short experiments
/// run as tests.
const SECONDS_VARIABLE: &str = "BOXOFFICE_TORTURE_SECONDS";
/// Environment variable for the seed of all random choices. The default is the current time in microseconds.
const SEED_VARIABLE: &str = "BOXOFFICE_FAULTS_SEED";
/// Maximum duration of a short experiment. A long experiment may take twice its share of the time, and this duration.
const SHORT_LIMIT: Duration = Duration::from_secs(240);

/// An experiment.
#[derive(Clone)]
pub struct Experiment {
    number: u32,
    name: &'static str,
    engines: &'static [Engine],
    /// The share of the experiment in the duration of a long run, relative to the weights of the other experiments.
    weight: u32,
    /// Whether only a long run includes the experiment, because even its short version would take minutes.
    is_long_only: bool,
    run: fn(Lab) -> LocalBoxFuture<'static, ()>,
}

impl Experiment {
    /// Returns an experiment. It fails if `run` panics.
    pub const fn new(
        number: u32,
        name: &'static str,
        engines: &'static [Engine],
        weight: u32,
        run: fn(Lab) -> LocalBoxFuture<'static, ()>,
    ) -> Self {
        Self { number, name, engines, weight, is_long_only: false, run }
    }

    /// Leaves the experiment out of short runs.
    pub const fn only_in_long_runs(self) -> Self {
        Self { is_long_only: true, ..self }
    }

    fn title(&self, engine: Engine) -> String {
        format!("{:02}::{}::{}", self.number, self.name, format!("{engine:?}").to_lowercase())
    }
}

/// Runs the experiments that the command line and the environment select.
pub fn main(experiments: &[Experiment]) -> ExitCode {
    boxoffice::install_crypto();
    let arguments = Arguments::from_args();
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let clock = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros() as u64;
    let seed = number(SEED_VARIABLE).unwrap_or(clock);
    let runs =
        experiments.iter().flat_map(|experiment| experiment.engines.iter().map(move |engine| (experiment, *engine)));
    match number(SECONDS_VARIABLE) {
        Some(seconds) => {
            println!("{SEED_VARIABLE}={seed} {SECONDS_VARIABLE}={seconds}");
            let dummy = |name| Trial::test(name, || Ok(()));
            let chosen =
                runs.filter(|(experiment, engine)| !arguments.is_filtered_out(&dummy(experiment.title(*engine))));
            torture(&chosen.collect::<Vec<_>>(), Duration::from_secs(seconds), seed)
        }
        None => {
            if !arguments.list {
                println!("{SEED_VARIABLE}={seed}");
            }
            let trials = runs.filter(|(experiment, _)| !experiment.is_long_only).map(|(experiment, engine)| {
                let (experiment, lab) = (experiment.clone(), move || Lab::short(engine, seed));
                Trial::test(experiment.title(engine), move || {
                    perform(&experiment, &lab(), SHORT_LIMIT).map_err(Failed::from)
                })
            });
            libtest_mimic::run(&arguments, trials.collect()).exit_code()
        }
    }
}

/// Runs the experiments one after the other, even after a failure. Prints the result of each experiment when it ends,
/// and a table of all results at the end.
fn torture(runs: &[(&Experiment, Engine)], total: Duration, seed: u64) -> ExitCode {
    let weights: u32 = runs.iter().map(|(experiment, _)| experiment.weight).sum();
    let mut rows = Vec::new();
    for (experiment, engine) in runs {
        let share = total * experiment.weight / weights.max(1);
        println!("{} ...", experiment.title(*engine));
        let (lab, started) = (Lab::long(*engine, seed, share), Instant::now());
        let outcome = perform(experiment, &lab, share * 2 + SHORT_LIMIT);
        let (notes, took) = (lab.take_notes(), started.elapsed());
        let outcome = outcome.and_then(|()| notes.enough());
        let row = Row { experiment, engine: *engine, notes, took, outcome };
        println!("{row}");
        rows.push(row);
    }
    let heads = ["rounds", "acknowledged", "refused", "unknown", "lost", "took"];
    println!("\nBOXOFFICE_FAULTS_SEED={seed}\n");
    println!("| experiment | engine | {} | verdict | results |", heads.join(" | "));
    println!("|---|---|{}---|---|", "---:|".repeat(heads.len()));
    rows.iter().for_each(|row| println!("{row}"));
    let failed = rows.iter().filter(|row| row.outcome.is_err()).count();
    println!("\n{} experiments, {failed} failed", rows.len());
    if failed == 0 && !rows.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs an experiment. Fails with the message of its panic, or if the experiment does not end within `limit`.
fn perform(experiment: &Experiment, lab: &Lab, limit: Duration) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let run = AssertUnwindSafe((experiment.run)(lab.clone())).catch_unwind();
    let outcome = runtime.block_on(async {
        match tokio::time::timeout(limit, run).await {
            Ok(ended) => ended.map_err(|panic| message(panic.as_ref())),
            Err(_) => Err(format!("the experiment did not end within {limit:?}")),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    outcome
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("the experiment panicked without a message")
        .to_owned()
}

/// A row of the table.
struct Row<'a> {
    experiment: &'a Experiment,
    engine: Engine,
    notes: Notes,
    took: Duration,
    outcome: Result<(), String>,
}

impl std::fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Notes { rounds, tally, key, .. } = &self.notes;
        let verdict = if self.outcome.is_ok() { "pass" } else { "FAIL" };
        let why = self.outcome.as_ref().err().map(|why| why.split_whitespace().collect::<Vec<_>>().join(" "));
        write!(
            f,
            "| {} {} | {:?} | {rounds} | {} | {} | {} | {} | {} s | {verdict} | {} |",
            self.experiment.number,
            self.experiment.name.replace('_', " "),
            self.engine,
            tally.acknowledged,
            tally.refused,
            tally.unknown,
            tally.lost,
            self.took.as_secs(),
            [Some(key.clone()).filter(|key| !key.is_empty()), why].into_iter().flatten().collect::<Vec<_>>().join("; "),
        )
    }
}
