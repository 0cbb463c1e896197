//! The answers to callers: by `request_id`, or as promises if the call has no `request_id`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::Future,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use boxoffice::rpc::proto;
use tonic::{Code, Status};
use uuid::Uuid;

/// Time after which a caller stops waiting. The result of the call is then unknown.
const PATIENCE: Duration = Duration::from_secs(8);

/// A requested change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Charge { user_id: Uuid, amount: i64 },
    Hold { user_id: Uuid, seat_numbers: Vec<i32> },
    Pay { user_id: Uuid },
    Refund { payment_id: Uuid },
}

/// The parts of a successful answer that the database must confirm.
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

/// The successful answer to a call that has no `request_id`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Promise {
    Wallet { user_id: Uuid },
    Place { user_id: Uuid, queue_number: i64 },
    Released { reservation_id: Uuid },
}

/// All answers to one `request_id`.
#[derive(Debug, Clone)]
pub struct Record {
    pub wish: Wish,
    pub fact: Option<Fact>,
    pub refusals: u64,
    pub unknown: u64,
}

/// The result of a request, as far as its caller knows it at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Acknowledged(Fact),
    Refused,
    Unknown,
}

impl Record {
    /// Returns the result of the request, as far as its caller knows it. One successful call makes the result
    /// `Acknowledged`. The result is `Refused` only if every recorded call was refused.
    pub fn fate(&self) -> Fate {
        match &self.fact {
            Some(fact) => Fate::Acknowledged(fact.clone()),
            None if self.unknown > 0 => Fate::Unknown,
            None => Fate::Refused,
        }
    }
}

/// The requests that were acknowledged up to some moment.
pub struct SoFar {
    request_ids: HashSet<Uuid>,
    promises: Vec<Promise>,
}

/// The answers to a group of callers in an experiment.
#[derive(Default)]
pub struct Book {
    records: Mutex<HashMap<Uuid, Record>>,
    promises: Mutex<Vec<Promise>>,
    /// The number of failures by code and reason.
    failures: Mutex<BTreeMap<String, u64>>,
    /// The retries whose answer differs from an earlier answer.
    contradictions: Mutex<Vec<String>>,
    acknowledged: AtomicU64,
    slowest_failure: Mutex<Duration>,
    /// The end and the duration of each call.
    calls: Mutex<Vec<(Instant, Duration)>>,
}

impl Book {
    /// Makes a call and records its answer under `request_id`.
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

    /// Makes a call. Counts a failure, but records no success. The caller gives up after 8 seconds.
    pub async fn look<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let asked = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, call).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the caller gave up")));
        self.calls.lock().expect("book").push((Instant::now(), asked.elapsed()));
        if let Err(status) = &answer {
            *self.failures.lock().expect("book").entry(name(status)).or_default() += 1;
            let mut slowest = self.slowest_failure.lock().expect("book");
            *slowest = slowest.max(asked.elapsed());
        }
        answer
    }

    /// Records the successful answer to a call that has no `request_id`.
    pub fn keep(&self, promise: Promise) {
        self.promises.lock().expect("book").push(promise);
    }

    /// Returns the successful answers to calls that have no `request_id`.
    pub fn promises(&self) -> Vec<Promise> {
        self.promises.lock().expect("book").clone()
    }

    /// Returns all records by `request_id`, locked until the guard is dropped.
    pub fn records(&self) -> MutexGuard<'_, HashMap<Uuid, Record>> {
        self.records.lock().expect("book")
    }

    /// Returns the requests that have been acknowledged so far.
    pub fn so_far(&self) -> SoFar {
        let records = self.records();
        let acknowledged = records.iter().filter(|(_, record)| record.fact.is_some());
        SoFar { request_ids: acknowledged.map(|(id, _)| *id).collect(), promises: self.promises() }
    }

    /// Returns a copy of the book in which only `so_far` is acknowledged. Later requests may have happened or not.
    pub fn as_of(&self, so_far: &SoFar) -> Self {
        let mut records = self.records().clone();
        for (_, record) in records.iter_mut().filter(|(id, _)| !so_far.request_ids.contains(id)) {
            record.unknown += u64::from(record.fact.take().is_some());
        }
        Self { records: Mutex::new(records), promises: Mutex::new(so_far.promises.clone()), ..Self::default() }
    }

    /// Returns the retries whose answer differs from an earlier answer.
    pub fn contradictions(&self) -> Vec<String> {
        self.contradictions.lock().expect("book").clone()
    }

    /// Returns the number of successful calls with a `request_id` so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for `span`. Returns the number of successful calls with a `request_id` per second in this time.
    pub async fn rate(&self, span: Duration) -> f64 {
        let (started, before) = (Instant::now(), self.acknowledged());
        tokio::time::sleep(span).await;
        (self.acknowledged() - before) as f64 / started.elapsed().as_secs_f64()
    }

    /// Returns the longest time that a caller waited for a failure.
    pub fn slowest_failure(&self) -> Duration {
        *self.slowest_failure.lock().expect("book")
    }

    /// Returns the 99th percentile of the duration of all calls that ended after `start`, successful or not.
    pub fn p99_since(&self, start: Instant) -> Duration {
        let calls = self.calls.lock().expect("book");
        let mut durations: Vec<_> = calls.iter().filter(|(end, _)| *end > start).map(|(_, took)| *took).collect();
        durations.sort_unstable();
        durations.get(durations.len() * 99 / 100).copied().unwrap_or_default()
    }

    /// Returns the number of failures by code and reason.
    pub fn failures(&self) -> BTreeMap<String, u64> {
        self.failures.lock().expect("book").clone()
    }

    /// Panics if a call failed with a code and reason that `allowed` does not accept.
    pub fn assert_failures(&self, allowed: impl Fn(&str) -> bool) {
        let others: Vec<_> = self.failures().into_iter().filter(|(name, _)| !allowed(name)).collect();
        assert!(others.is_empty(), "calls failed with codes and reasons that are not allowed: {others:?}");
    }

    /// Waits until `calls` further calls with a `request_id` have succeeded, and returns the waiting time. Panics if
    /// this takes longer than `limit`.
    pub async fn serves_again(&self, calls: u64, limit: Duration) -> Duration {
        let (started, before) = (Instant::now(), self.acknowledged());
        while self.acknowledged() < before + calls {
            assert!(
                started.elapsed() < limit,
                "fewer than {calls} calls succeeded within {limit:?}; all failures so far: {:?}",
                self.failures()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        started.elapsed()
    }
}

/// Returns whether the failure means that the request had no effect.
pub fn is_refusal(status: &Status) -> bool {
    let may_have_happened = [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Unknown, Code::Internal];
    testkit::reason(status).is_some() && !may_have_happened.contains(&status.code())
}

/// Returns the code and the reason, for example `Unavailable STORAGE_UNAVAILABLE`. A failure that the server did not
/// report has `-` as its reason.
pub fn name(status: &Status) -> String {
    format!("{:?} {}", status.code(), testkit::reason(status).unwrap_or_else(|| "-".to_owned()))
}
