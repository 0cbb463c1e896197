//! Experiments with faults. They run real servers on real databases, and inject failures of servers, databases and the
//! network.
//!
//! `cargo test --test faults` runs a short version of each experiment as a test. `make torture` runs the long versions
//! and prints a table. Each run prints its seed. A run with this seed in `BOXOFFICE_FAULTS_SEED` makes the same random
//! choices.

mod harness;

mod abuse;
mod backup;
mod clocks;
mod contention;
mod crash;
mod disk;
mod draw;
mod failover;
mod feed;
mod histories;
mod history;
mod network;
mod overload;
mod pooled;
mod promotion;
mod readers;
mod restarts;
mod retries;
mod tokens;
mod vanished;
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
    experiment!(2, crash::servers_recover_from_a_database_crash_without_a_restart, POSTGRES, 6),
    experiment!(3, retries::a_retry_after_a_lost_answer_returns_this_answer, BOTH, 3),
    experiment!(4, retries::a_request_id_with_other_contents_is_refused, BOTH, 1),
    experiment!(5, contention::one_of_five_hundred_callers_gets_the_seat, POSTGRES, 4),
    experiment!(6, histories::every_history_is_linearizable, BOTH, 8),
    experiment!(7, network::callers_that_give_up_leave_no_transaction_open, POSTGRES, 4),
    experiment!(8, promotion::promotion_continues_when_the_promoting_server_stops, POSTGRES, 6),
    experiment!(8, promotion::promotion_never_exceeds_the_capacity_while_servers_are_killed, POSTGRES, 3),
    experiment!(9, network::a_server_that_is_cut_off_answers_unavailable_and_recovers, POSTGRES, 10),
    experiment!(10, clocks::wrong_clocks_expire_nothing_early_or_late, POSTGRES, 3),
    experiment!(11, network::waiting_users_are_answered_while_the_database_is_silent, POSTGRES, 4),
    experiment!(12, overload::overload_is_refused_and_goodput_stays, BOTH, 6),
    experiment!(13, restarts::a_rolling_restart_fails_no_call, POSTGRES, 4),
    experiment!(14, abuse::abuse_of_the_protocol_does_not_slow_other_callers, BOTH, 4),
    experiment!(16, tokens::a_wrong_token_is_refused_without_effect, BOTH, 1),
    experiment!(17, disk::a_full_disk_refuses_writes_and_loses_none, SQLITE, 2),
    experiment!(17, disk::a_damaged_log_is_opened_with_all_acknowledged_writes, SQLITE, 3),
    experiment!(18, history::history_slows_neither_starts_nor_passes_nor_writes, BOTH, 6),
    experiment!(19, watchers::admitted_watchers_stay_while_thousands_leave, BOTH, 4),
    experiment!(20, failover::a_failover_is_followed_and_loses_nothing, POSTGRES, 8),
    experiment!(20, failover::a_failover_by_patroni_is_followed_and_loses_nothing, POSTGRES, 14).only_in_long_runs(),
    experiment!(20, failover::a_name_whose_address_changes_is_followed, POSTGRES, 1),
    experiment!(21, vanished::a_server_recovers_when_its_database_vanishes_without_a_packet, POSTGRES, 4),
    experiment!(22, pooled::a_sale_through_pgbouncer_loses_nothing, POSTGRES, 6),
    experiment!(23, feed::every_event_reaches_the_sinks_while_all_processes_are_killed, BOTH, 8),
    experiment!(24, draw::a_draw_has_one_outcome_if_the_server_that_opens_the_sale_is_killed, POSTGRES, 10),
    experiment!(25, readers::callers_that_read_nothing_neither_fill_the_memory_nor_slow_others, BOTH, 3),
    experiment!(26, backup::a_backup_during_a_sale_has_all_that_was_acknowledged, SQLITE, 3),
];

fn main() -> ExitCode {
    runner::main(EXPERIMENTS)
}
