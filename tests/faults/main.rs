//! What boxoffice must live through: real servers, real databases, and trouble between them.
//!
//! `cargo test --test faults` runs a short version of each experiment as a test; `make torture` runs the long ones and prints a
//! table. Chance goes by `BOXOFFICE_FAULTS_SEED`, which is printed.

mod harness;

mod crash;

use std::process::ExitCode;

use harness::{
    lab::Engine::{self, Postgres, Sqlite},
    runner::{self, Experiment},
};

const BOTH: &[Engine] = &[Sqlite, Postgres];
const POSTGRES: &[Engine] = &[Postgres];

/// Makes an experiment of the function that performs it, whose name says what is expected.
macro_rules! experiment {
    ($number:literal, $room:ident :: $name:ident, $engines:ident, $weight:literal) => {
        Experiment::new($number, stringify!($name), $engines, $weight, |lab| Box::pin($room::$name(lab)))
    };
}

const EXPERIMENTS: &[Experiment] = &[
    experiment!(1, crash::a_killed_server_serves_again_and_has_lost_nothing, BOTH, 8),
    experiment!(2, crash::a_crashed_database_is_found_again_without_a_restart, POSTGRES, 6),
];

fn main() -> ExitCode {
    runner::main(EXPERIMENTS)
}
