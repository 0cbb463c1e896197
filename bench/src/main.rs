//! Measures boxoffice: each operation compared with a bare echo in the same run, the cost of growth, and whole flash
//! sales.
//!
//! | module | |
//! |---|---|
//! | [`cli`] | the commands and their options |
//! | [`operations`] | operations under full load, at lower rates and by a single client, and the tables of the report |
//! | [`growth`] | long queues, many watchers, many concerts, a stadium, rows of past sales, a huge opening, a draw |
//! | [`sale`] | a whole flash sale, from the queue to the last seat |
//! | [`calls`], [`load`] | the measured calls, and the closed loop of callers that make these calls |
//! | [`world`] | the users and concerts of a run, and the calls that prepare them |
//! | [`deployment`] | the server under test, in a separate process |
//! | [`echo`], [`peer`] | the references for comparison: a bare echo, transactions of one command, pgbench, and Redis |
//! | [`scrape`] | the metrics of the server's lanes and passes |
//! | [`check`], [`page`], [`table`] | the checks, pages and tables of reports |

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod calls;
mod check;
mod cli;
mod deployment;
mod echo;
mod growth;
mod load;
mod operations;
mod page;
mod peer;
mod sale;
mod scrape;
mod table;
mod world;

use std::process::ExitCode;

use clap::Parser;
use testkit::Failure;
use tokio::signal::unix::{SignalKind, signal};

use cli::{Cli, Command};

/// The allocator of the echo and of the benchmark. The server uses the same allocator, so the comparison is fair.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // The PostgreSQL server of `--postgres-url` may require TLS.
    boxoffice::install_crypto();
    // The future of `run` owns all processes that it started. A signal drops this future, which ends the processes.
    let done = tokio::select! {
        done = run(cli) => done,
        stopped = stopped() => stopped,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("boxoffice-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        None => operations::run(&cli.common).await,
        Some(Command::Sale(options)) => sale::run(&cli.common, &options).await,
        Some(Command::Growth(options)) => growth::run(&cli.common, &options).await,
        Some(Command::Echo { listen, redis: Some(port) }) => peer::redis::serve(listen, port).await,
        Some(Command::Echo { listen, redis: None }) => echo::serve(listen, echo::Echo::default()).await,
    }
}

async fn stopped() -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Err("stopped".into())
}
