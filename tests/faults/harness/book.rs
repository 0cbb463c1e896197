//! The callers' own record: what they asked for by `request_id`, and what they were told.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use boxoffice::rpc::proto;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

/// A caller that hears nothing for so long gives up and does not know.
const PATIENCE: Duration = Duration::from_secs(8);

/// A change that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Charge { user_id: Uuid, amount: i64 },
    Hold { user_id: Uuid, seat_numbers: Vec<i32> },
    Pay { user_id: Uuid },
    Refund { payment_id: Uuid },
}

/// What an acknowledgement said, as far as the database has to say the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    Charged { entry_number: i64, balance_after: i64 },
    Held { reservation_id: Uuid },
    Paid { payment_id: Uuid },
    Refunded,
}

impl From<proto::ChargeWalletResponse> for Fact {
    fn from(answer: proto::ChargeWalletResponse) -> Self {
        let entry = answer.entry.expect("an entry");
        Self::Charged { entry_number: entry.entry_id, balance_after: entry.balance_after }
    }
}

impl From<proto::Reservation> for Fact {
    fn from(answer: proto::Reservation) -> Self {
        Self::Held { reservation_id: answer.reservation_id.parse().expect("a UUID") }
    }
}

impl From<proto::Payment> for Fact {
    fn from(answer: proto::Payment) -> Self {
        Self::Paid { payment_id: answer.payment_id.parse().expect("a UUID") }
    }
}

/// What was acknowledged of calls that have no `request_id`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Promise {
    Wallet { user_id: Uuid },
    Place { user_id: Uuid, queue_number: i64 },
    Released { reservation_id: Uuid },
}

/// All that was said about one `request_id`.
#[derive(Debug, Clone)]
pub struct Record {
    pub wish: Wish,
    pub fact: Option<Fact>,
    pub refusals: u64,
    pub unknown: u64,
}

/// What a caller knows in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Acknowledged(Fact),
    Refused,
    Unknown,
}

impl Record {
    /// One acknowledgement counts for good. A refusal counts only if no earlier call may still be on its way.
    pub fn fate(&self) -> Fate {
        match &self.fact {
            Some(fact) => Fate::Acknowledged(fact.clone()),
            None if self.unknown > 0 => Fate::Unknown,
            None => Fate::Refused,
        }
    }
}

/// The record of all callers of an experiment.
#[derive(Default)]
pub struct Book {
    records: Mutex<HashMap<Uuid, Record>>,
    promises: Mutex<Vec<Promise>>,
    /// Failures by code and reason.
    failures: Mutex<BTreeMap<String, u64>>,
    /// Repeats that were answered otherwise than before.
    contradictions: Mutex<Vec<String>>,
    acknowledged: AtomicU64,
    slowest_failure: Mutex<Duration>,
}

impl Book {
    /// Makes a call and writes down what came of it.
    pub async fn ask(
        &self,
        request_id: Uuid,
        wish: Wish,
        call: impl Future<Output = Result<Fact, Status>>,
    ) -> Result<Fact, Status> {
        let answer = self.look(call).await;
        let mut records = self.records();
        let record = records.entry(request_id).or_insert(Record { wish, fact: None, refusals: 0, unknown: 0 });
        match &answer {
            Ok(fact) => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                if let Some(before) = record.fact.replace(fact.clone())
                    && before != *fact
                {
                    let text = format!("{request_id} was answered {before:?}, then {fact:?}");
                    self.contradictions.lock().expect("book").push(text);
                }
            }
            Err(status) if is_refusal(status) => record.refusals += 1,
            Err(_) => record.unknown += 1,
        }
        answer
    }

    /// Makes a call whose answer is not written down.
    pub async fn look<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let asked = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, call).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the caller gave up")));
        if let Err(status) = &answer {
            *self.failures.lock().expect("book").entry(name(status)).or_default() += 1;
            let mut slowest = self.slowest_failure.lock().expect("book");
            *slowest = slowest.max(asked.elapsed());
        }
        answer
    }

    /// Writes down what was acknowledged to a caller.
    pub fn keep(&self, promise: Promise) {
        self.promises.lock().expect("book").push(promise);
    }

    /// What was acknowledged of calls that have no `request_id`.
    pub fn promises(&self) -> Vec<Promise> {
        self.promises.lock().expect("book").clone()
    }

    /// All records.
    pub fn records(&self) -> MutexGuard<'_, HashMap<Uuid, Record>> {
        self.records.lock().expect("book")
    }

    /// Repeats that were answered otherwise than before.
    pub fn contradictions(&self) -> Vec<String> {
        self.contradictions.lock().expect("book").clone()
    }

    /// How many calls were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// How many calls a second are acknowledged, measured over `span` from now.
    pub async fn rate(&self, span: Duration) -> f64 {
        let (started, before) = (Instant::now(), self.acknowledged());
        tokio::time::sleep(span).await;
        (self.acknowledged() - before) as f64 / started.elapsed().as_secs_f64()
    }

    /// The longest that a caller waited for a failure.
    pub fn slowest_failure(&self) -> Duration {
        *self.slowest_failure.lock().expect("book")
    }

    /// Failures by code and reason, and how often.
    pub fn failures(&self) -> BTreeMap<String, u64> {
        self.failures.lock().expect("book").clone()
    }

    /// Panics if a call failed otherwise than `allowed` says, by code and reason.
    pub fn assert_failures(&self, allowed: impl Fn(&str) -> bool) {
        let others: Vec<_> = self.failures().into_iter().filter(|(name, _)| !allowed(name)).collect();
        assert!(others.is_empty(), "calls failed in a way they must not: {others:?}");
    }

    /// How long it takes from now until so many more calls are acknowledged; panics after `limit`.
    pub async fn serves_again(&self, calls: u64, limit: Duration) -> Duration {
        let (started, before) = (Instant::now(), self.acknowledged());
        while self.acknowledged() < before + calls {
            assert!(started.elapsed() < limit, "it does not serve {limit:?} after: {:?}", self.failures());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        started.elapsed()
    }
}

/// Whether the failure says for sure that nothing happened.
pub fn is_refusal(status: &Status) -> bool {
    let may_have_happened = [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Unknown, Code::Internal];
    status.get_error_details().error_info().is_some() && !may_have_happened.contains(&status.code())
}

/// Code and reason, `Unavailable STORAGE_UNAVAILABLE`; what the network or the caller itself says has no reason.
pub fn name(status: &Status) -> String {
    let details = status.get_error_details();
    let reason = details.error_info().map_or("-", |info| info.reason.as_str());
    format!("{:?} {reason}", status.code())
}
