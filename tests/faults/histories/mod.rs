//! An experiment that records histories of concurrent calls. Each history is checked with a model that processes one
//! call after the other. A call whose answer was lost may take effect at any later time, or never.

mod model;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use boxoffice::{
    clock::Clock,
    rpc::proto::{self, SeatState},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester};
use testkit::{Caller, invariants, wallet};
use tonic::{Code, transport::Channel};
use uuid::Uuid;

use crate::harness::{
    book::is_refusal,
    lab::{Engine, Lab, Tally},
    site::{DATE, Site, until_admitted},
};
use model::{Answer, Op, PRICE, SEATS, Sale, Seat, USERS};

const FLAGS: &[&str] = &["--promote-interval", "50ms"];
/// Number of histories that are recorded at the same time.
const CONCURRENT: u64 = 8;
const THREADS: u32 = 3;
/// Number of calls of one thread. The search for an order takes exponentially longer with more calls. Most bugs appear
/// within a few calls.
const CALLS: usize = 3;

type History = LinearizabilityTester<u32, Sale>;

/// Every recorded history must be linearizable. Every history with a planted bug must be rejected.
pub async fn every_history_is_linearizable(lab: Lab) {
    planted_bugs_are_caught();
    let count = if lab.engine == Engine::Postgres { 2 } else { 1 };
    let site = Arc::new(Site::open(&lab, count, FLAGS).await);
    let (cuts, mut recorded, mut tally) = (tokio::spawn(cut(site.clone(), lab.random())), 0, Tally::default());
    let (mut corrupted, mut caught, mut repeated) = (0, 0, 0);
    while let Some(round) = lab.next_round(8, 1_000 / CONCURRENT) {
        let histories = (0..CONCURRENT).map(|i| {
            let (site, name, seed) = (&site, format!("C{round}-{i}"), lab.seed.wrapping_add(round * CONCURRENT + i));
            async move { Recording::make(site, &name, seed).await }
        });
        for recording in futures::future::join_all(histories).await {
            recorded += 1;
            tally.acknowledged += recording.answered.load(Ordering::Relaxed);
            repeated += recording.repeated.load(Ordering::Relaxed);
            tally.unknown += recording.lost.load(Ordering::Relaxed);
            let history = recording.history.into_inner().expect("a history");
            assert!(history.is_consistent(), "the history is not linearizable: {history:#?}");
            let forged = recording.forged.into_inner().expect("a history");
            corrupted += 1;
            caught += u64::from(!forged.is_consistent());
        }
    }
    cuts.abort();
    let _ = cuts.await;
    lab.note_tally(tally);
    lab.note(format!(
        "{recorded} histories accepted, {repeated} calls answered by a retry; \
         {caught} of {corrupted} forged histories rejected"
    ));
    assert_eq!(caught, corrupted, "a forged history was accepted");
    assert!(tally.acknowledged > tally.unknown, "at most half of the calls were answered: {tally:?}");
    invariants::check(&site.url, &Clock::system()).await;
}

/// Repeatedly cuts all connections of callers to a random server.
async fn cut(site: Arc<Site>, mut random: StdRng) {
    loop {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..200))).await;
        let replica = random.random_range(0..site.replicas.len());
        site.replicas[replica].door.cut_once().await;
    }
}

/// A recorded history, and a copy with a planted bug.
struct Recording {
    history: Mutex<History>,
    /// The copy, whose last answer has a balance that is 1 won too high.
    forged: Mutex<History>,
    next_thread: AtomicU32,
    answered: AtomicU64,
    /// The number of answered calls that needed a retry with the same request id.
    repeated: AtomicU64,
    lost: AtomicU64,
}

impl Recording {
    /// Records the calls of three concurrent threads for three users. The users want two seats of a separate concert.
    async fn make(site: &Site, concert_code: &str, seed: u64) -> Self {
        let recording = Self {
            history: Mutex::new(History::default()),
            forged: Mutex::new(History::default()),
            next_thread: AtomicU32::new(THREADS),
            answered: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        };
        // A server admits at most one user per unsold seat. So the concert has three seats, but the users want only two
        // of them.
        site.concert_as(concert_code, USERS as i32, |concert| concert.seats_per_user_limit = 1).await;
        let direct = site.replicas[0].direct();
        let users = futures::future::join_all((0..USERS).map(|_| admitted(&direct, concert_code))).await;
        let doors = site.doors();
        let threads = (0..THREADS).map(|thread| {
            let random = StdRng::seed_from_u64(seed ^ u64::from(thread) << 32);
            recording.run(thread, random, &users, &doors)
        });
        futures::future::join_all(threads).await;
        recording.finish(&direct, &users[0]).await;
        recording
    }

    async fn run(&self, mut thread: u32, mut random: StdRng, users: &[Caller], doors: &[Channel]) {
        for _ in 0..CALLS {
            let op = choose(&mut random);
            let door = doors.choose(&mut random).expect("a door").clone();
            let request_id = if random.random() { Uuid::from_u128(random.random()).to_string() } else { String::new() };
            let user = &users[op.user()];
            self.each(|history| history.on_invoke(thread, op).map(drop));
            let mut answer = call(op, &user.via(door), &request_id).await;
            if answer.is_none() && !request_id.is_empty() {
                // A call and its retry count as one call, which takes effect at most once. If the retry is refused, the
                // first attempt may still take effect.
                let door = doors.choose(&mut random).expect("a door").clone();
                let is_done = |answer: &Answer| !matches!(answer, Answer::Refused(_));
                answer = call(op, &user.via(door), &request_id).await.filter(is_done);
                self.repeated.fetch_add(u64::from(answer.is_some()), Ordering::Relaxed);
            }
            match answer {
                Some(answer) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    self.each(|history| history.on_return(thread, answer.clone()).map(drop));
                }
                // This call has no end in the history, so the thread continues under a new number.
                None => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    thread = self.next_thread.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Ends both histories with a call that reads a balance. The recorded history gets the real balance. The copy gets
    /// a balance that no order of the calls explains.
    async fn finish(&self, direct: &Channel, user: &Caller) {
        let thread = self.next_thread.fetch_add(1, Ordering::Relaxed);
        let op = Op::Balance { user: 0 };
        self.each(|history| history.on_invoke(thread, op).map(drop));
        let answer = call(op, &user.via(direct.clone()), "").await.expect("an answer");
        let Answer::Balance(balance) = answer else { panic!("the answer to a balance is {answer:?}") };
        let forged = Answer::Balance(balance + 1);
        self.history.lock().expect("history").on_return(thread, answer).map(drop).expect("a valid history");
        self.forged.lock().expect("history").on_return(thread, forged).map(drop).expect("a valid history");
    }

    fn each(&self, mut write: impl FnMut(&mut History) -> Result<(), String>) {
        let mut history = self.history.lock().expect("history");
        write(&mut history).expect("a valid history");
        write(&mut self.forged.lock().expect("history")).expect("a valid history");
    }
}

impl Op {
    fn user(self) -> usize {
        match self {
            Self::Charge { user, .. }
            | Self::Balance { user }
            | Self::Hold { user, .. }
            | Self::Pay { user }
            | Self::Leave { user }
            | Self::Seats { user } => user,
        }
    }
}

fn choose(random: &mut StdRng) -> Op {
    let (user, seat) = (random.random_range(0..USERS), random.random_range(0..SEATS));
    match random.random_range(0..20) {
        0..4 => Op::Charge { user, amount: PRICE * random.random_range(1..3) / 2 },
        4..7 => Op::Balance { user },
        7..13 => Op::Hold { user, seat },
        13..17 => Op::Pay { user },
        17 => Op::Leave { user },
        _ => Op::Seats { user },
    }
}

/// Makes a call, with the request id if the call accepts one. Returns `None` if the result is unknown.
async fn call(op: Op, caller: &Caller, request_id: &str) -> Option<Answer> {
    let answer = match op {
        Op::Charge { amount, .. } => wallet::charge(&caller.channel, &caller.user_id, amount, request_id)
            .await
            .map(|answer| Answer::Balance(answer.balance)),
        Op::Balance { .. } => wallet::balance(&caller.channel, &caller.user_id).await.map(Answer::Balance),
        Op::Hold { seat, .. } => caller.hold_as(DATE, &[seat as i32 + 1], request_id).await.map(|_| Answer::Done),
        Op::Pay { .. } => caller.pay_as("", request_id).await.map(|_| Answer::Done),
        Op::Leave { .. } => caller.leave().await.map(|()| Answer::Done),
        Op::Seats { .. } => caller.seats(DATE).await.map(|seats| Answer::Seats(look(&seats))),
    };
    match answer {
        Ok(answer) => Some(answer),
        Err(status) if is_refusal(&status) => Some(Answer::Refused(testkit::reason(&status).expect("a reason"))),
        Err(status) => {
            assert_ne!(status.code(), Code::Internal, "{status:?}");
            None
        }
    }
}

fn look(seats: &[proto::Seat]) -> [Seat; SEATS] {
    let states = seats.iter().take(SEATS).map(|seat| match seat.state() {
        SeatState::Available => Seat::Available,
        SeatState::Held => Seat::Held,
        SeatState::Sold => Seat::Sold,
        SeatState::Unspecified => panic!("{seat:?}"),
    });
    states.collect::<Vec<_>>().try_into().expect("every seat")
}

async fn admitted(channel: &Channel, concert_code: &str) -> Caller {
    let user_id = wallet::open_new(channel, 0).await.expect("a wallet");
    until_admitted(Caller::join(channel.clone(), concert_code, user_id).await.expect("a token")).await
}

/// Checks that the model rejects histories of servers with bugs. Also checks that the model accepts both results of a
/// call whose answer was lost.
fn planted_bugs_are_caught() {
    let (one, other) = (Op::Hold { user: 0, seat: 0 }, Op::Hold { user: 1, seat: 0 });
    let wallet = (Op::Charge { user: 0, amount: PRICE }, Op::Balance { user: 0 });
    let sold_twice = history(&[(0, one, Some(Answer::Done)), (1, other, Some(Answer::Done))]);
    let forgotten = history(&[(0, wallet.0, Some(Answer::Balance(PRICE))), (1, wallet.1, Some(Answer::Balance(0)))]);
    let done_twice = history(&[(0, wallet.0, None), (1, wallet.1, Some(Answer::Balance(2 * PRICE)))]);
    let undone = history(&[
        (0, wallet.0, None),
        (1, wallet.1, Some(Answer::Balance(PRICE))),
        (1, wallet.1, Some(Answer::Balance(0))),
    ]);
    let refused_and_done = history(&[
        (0, one, Some(Answer::Refused("SEAT_HELD".to_owned()))),
        (1, other, Some(Answer::Refused("SEAT_HELD".to_owned()))),
    ]);
    for bug in [sold_twice, forgotten, done_twice, undone, refused_and_done] {
        assert!(!bug.is_consistent(), "a planted bug was accepted: {bug:?}");
    }
    for seen in [0, PRICE] {
        let lost = history(&[(0, wallet.0, None), (1, wallet.1, Some(Answer::Balance(seen)))]);
        assert!(lost.is_consistent(), "a call with a lost answer may have taken effect or not");
    }
}

/// Returns a history of consecutive calls. A call without an answer has no end.
fn history(calls: &[(u32, Op, Option<Answer>)]) -> History {
    let mut history = History::default();
    for (thread, op, answer) in calls {
        history.on_invoke(*thread, *op).expect("a valid history");
        if let Some(answer) = answer {
            history.on_return(*thread, answer.clone()).expect("a valid history");
        }
    }
    history
}
