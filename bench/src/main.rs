//! Measures boxoffice: each operation against a bare echo in the same run, and whole flash sales.
//!
//! | module | |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`operations`] | each operation under full load, alone, and in the rush of the first second |
//! | [`sale`] | a whole flash sale, from the queue to the last seat |
//! | [`load`] | the closed loop: so many calls in flight, every answer checked |
//! | [`world`] | users, concerts and the calls that prepare them |
//! | [`deployment`] | the server as a process of its own |
//! | [`echo`] | what everything is compared with |
//! | [`postgres`], [`naive`] | a throwaway PostgreSQL; what a database does without boxoffice |
//! | [`process`], [`usage`], [`scrape`] | child processes, what they use, what they tell |
//! | [`table`] | output for people |

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod cli;
mod deployment;
mod echo;
mod growth;
mod load;
mod naive;
mod operations;
mod postgres;
mod process;
mod sale;
mod scrape;
mod table;
mod usage;
mod world;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use cli::{Cli, Command};

/// Why the benchmark could not go on, in a sentence for whoever started it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The server's own, so that the echo is compared on equal terms.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // PostgreSQL may be spoken to over TLS.
    boxoffice::install_crypto();
    // Whatever was started is owned by the future that is dropped here, and ends with it.
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
        Some(Command::Echo { listen }) => echo::serve(listen).await,
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
