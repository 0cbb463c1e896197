//! The binary: parses the command line, starts the logs and runs the command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use boxoffice::app::{
    cli::{Cli, Command},
    commands as run, telemetry,
};
use clap::Parser;

/// The allocator. Every call makes many small allocations, and mimalloc is faster for them than the system allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { command, settings } = Cli::parse();
    let done = async {
        boxoffice::install_crypto();
        telemetry::start_logs(&settings)?;
        match command {
            None => run::serve(settings, None).await,
            Some(Command::Serve { demo, demo_crowd }) => run::serve(settings, demo.then_some(demo_crowd)).await,
            Some(Command::Migrate) => run::migrate(settings).await,
            Some(Command::Health(options)) => run::health(settings, options).await,
            Some(Command::ApiKey { command }) => run::api_key(command),
            Some(Command::SigningKey { command }) => run::signing_key(settings, command).await,
        }
    };
    match done.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("boxoffice: {error}");
            ExitCode::FAILURE
        }
    }
}
