//! Experiments with faults: real servers, real databases, and failures of both and of the network between them.
//!
//! `cargo test --test faults` runs a short version of each experiment as a test. `make torture` runs the long versions
//! and prints a table. Each run prints its seed. `BOXOFFICE_FAULTS_SEED` repeats the random choices of a run.

mod harness;

mod abuse;
mod clocks;
mod contention;
mod crash;
mod disk;
mod histories;
mod history;
mod network;
mod overload;
mod promotion;
mod restarts;
mod retries;
mod tokens;
mod watchers;

use std::process::ExitCode;

use harness::{
    lab::Engine::{self, Postgres, Sqlite},
    runner::{self, Experiment},
};

const BOTH: &[Engine] = &[Sqlite, Postgres];
const SQLITE: &[Engine] = &[Sqlite];
const POSTGRES: &[Engine] = &[Postgres];

/// Returns the experiment that a function performs. The name of the function states the expected result.
macro_rules! experiment {
    ($number:literal, $room:ident :: $name:ident, $engines:ident, $weight:literal) => {
        Experiment::new($number, stringify!($name), $engines, $weight, |lab| Box::pin($room::$name(lab)))
    };
}

const EXPERIMENTS: &[Experiment] = &[
    experiment!(1, crash::a_killed_server_serves_again_and_has_lost_nothing, BOTH, 8),
    experiment!(2, crash::a_crashed_database_is_found_again_without_a_restart, POSTGRES, 6),
    experiment!(3, retries::an_answer_that_was_lost_is_given_again, BOTH, 3),
    experiment!(4, retries::a_request_id_with_other_contents_is_refused, BOTH, 1),
    experiment!(5, contention::one_of_five_hundred_callers_gets_the_seat, POSTGRES, 4),
    experiment!(6, histories::every_history_is_linearizable, BOTH, 8),
    experiment!(7, network::callers_that_give_up_leave_no_transaction_open, POSTGRES, 4),
    experiment!(8, promotion::promotion_goes_on_when_the_promoting_server_does_not, POSTGRES, 6),
    experiment!(8, promotion::promotion_never_exceeds_the_capacity_while_servers_are_struck, POSTGRES, 3),
    experiment!(9, network::a_server_that_is_cut_off_says_so_and_comes_back, POSTGRES, 10),
    experiment!(10, clocks::wrong_clocks_expire_nothing_early_or_late, POSTGRES, 3),
    experiment!(11, network::waiting_users_are_answered_while_the_database_is_silent, POSTGRES, 4),
    experiment!(12, overload::overload_is_refused_and_goodput_stays, BOTH, 6),
    experiment!(13, restarts::a_rolling_restart_fails_no_call, POSTGRES, 4),
    experiment!(14, abuse::abuse_of_the_protocol_does_not_hurt_others, BOTH, 4),
    experiment!(16, tokens::a_wrong_token_is_refused_without_effect, BOTH, 1),
    experiment!(17, disk::a_full_disk_refuses_writes_and_loses_none, SQLITE, 2),
    experiment!(17, disk::a_torn_log_is_opened_with_all_that_was_acknowledged, SQLITE, 3),
    experiment!(18, history::history_slows_neither_starts_nor_passes_nor_writes, BOTH, 6),
    experiment!(19, watchers::admitted_watchers_stay_while_thousands_leave, BOTH, 4),
];

fn main() -> ExitCode {
    runner::main(EXPERIMENTS)
}
