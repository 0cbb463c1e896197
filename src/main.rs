//! The binary: parses the command line and runs the command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use boxoffice::app::{cli::Cli, commands};
use clap::Parser;

/// The allocator. Every call makes many small allocations, and mimalloc is faster for them than the system allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    boxoffice::install_crypto();
    match commands::run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("boxoffice: {error}");
            ExitCode::FAILURE
        }
    }
}
