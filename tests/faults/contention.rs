//! An experiment with many callers that want the same seat.

use std::time::Instant;

use boxoffice::{clock::Clock, rpc::proto::Reservation};
use testkit::{Caller, invariants};
use tonic::Status;
use tonic_types::StatusExt;

use crate::{
    crash::FLAGS,
    harness::{
        book::name,
        lab::{Lab, Tally},
        site::{DATE, Site},
    },
};

const REPLICAS: usize = 3;

/// 500 callers ask three servers for one seat. One caller must get it. All other callers must receive SEAT_HELD with a
/// retry delay.
pub async fn one_of_five_hundred_callers_gets_the_seat(lab: Lab) {
    let site = Site::open(&lab, REPLICAS, FLAGS).await;
    site.concert(1_000, |_| ()).await;
    let callers = site.admitted(500).await;
    let doors = site.doors();
    let mut slowest = std::time::Duration::ZERO;
    while let Some(round) = lab.next_round(3, 100) {
        let seat = 1 + (round % 1_000) as i32;
        let started = Instant::now();
        let calls = callers.iter().enumerate().map(|(i, caller)| {
            let caller = caller.via(doors[(i + round as usize) % REPLICAS].clone());
            async move { caller.hold(DATE, &[seat]).await }
        });
        let answers = futures::future::join_all(calls).await;
        slowest = slowest.max(started.elapsed());
        let (winner, held) = the_winner(&callers, &answers);
        winner.release(&held.reservation_id).await.expect("a release");
        lab.note_tally(Tally { acknowledged: 1, refused: answers.len() as u64 - 1, ..Tally::default() });
    }
    lab.note(format!("one winner per round; a round took at most {slowest:.1?}"));
    invariants::check(&site.url, &Clock::system()).await;
}

/// Returns the caller that got the seat. Panics unless exactly one caller got the seat. Also panics if another caller
/// was refused for a different reason or without a retry delay.
fn the_winner<'a>(callers: &'a [Caller], answers: &'a [Result<Reservation, Status>]) -> (&'a Caller, &'a Reservation) {
    let mut winners = callers.iter().zip(answers).filter_map(|(caller, answer)| Some((caller, answer.as_ref().ok()?)));
    let winner = winners.next().expect("a winner");
    assert!(winners.next().is_none(), "two callers got the seat");
    for status in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(name(status), "FailedPrecondition SEAT_HELD", "{status:?}");
        assert!(status.get_details_retry_info().is_some(), "no retry delay: {status:?}");
    }
    winner
}
