//! The binary: parses the command line, starts telemetry and runs the command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use boxoffice::app::{
    cli::{Cli, Command},
    commands as run, telemetry,
};
use clap::Parser;

/// Every call makes many small allocations, which mimalloc serves faster than the system allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { command, settings } = Cli::parse();
    let done = async {
        boxoffice::install_crypto();
        telemetry::start(&settings)?;
        match command.unwrap_or(Command::Serve { demo: false }) {
            Command::Serve { demo } => run::serve(settings, demo).await,
            Command::Migrate => run::migrate(settings).await,
            Command::Health(options) => run::health(settings, options).await,
            Command::ApiKey { command } => run::api_key(command),
            Command::SigningKey { command } => run::signing_key(settings, command).await,
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
