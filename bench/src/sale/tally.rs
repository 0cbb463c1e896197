//! Counts the calls, refusals, retries and payments of all visitors.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

/// Counters that all visitors share.
#[derive(Default)]
pub struct Tally {
    calls: Mutex<BTreeMap<&'static str, Histogram<u64>>>,
    refused: Mutex<BTreeMap<String, u64>>,
    retried: AtomicU64,
    payments: Mutex<Vec<Payment>>,
}

/// A payment.
#[derive(Debug, Clone, Copy)]
pub struct Payment {
    /// The time when the answer arrived.
    pub at: Instant,
    /// The number of paid seats.
    pub seats: u64,
    /// The total price of the seats.
    pub price: i64,
}

impl Tally {
    /// Counts an answer to a call, including an error.
    pub fn call(&self, name: &'static str, latency: Duration) {
        let mut calls = lock(&self.calls);
        if let Some(latencies) = calls.get_mut(name) {
            latencies.saturating_record(micros(latency));
        } else if let Ok(mut latencies) = Histogram::new_with_bounds(1, 600_000_000, 3) {
            latencies.saturating_record(micros(latency));
            calls.insert(name, latencies);
        }
    }

    /// Counts a refusal.
    pub fn refuse(&self, reason: String) {
        *lock(&self.refused).entry(reason).or_default() += 1;
    }

    /// Counts a retry.
    pub fn retry(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a payment.
    pub fn pay(&self, payment: Payment) {
        lock(&self.payments).push(payment);
    }

    /// Returns the latencies of each call in microseconds.
    pub fn calls(&self) -> BTreeMap<&'static str, Histogram<u64>> {
        lock(&self.calls).clone()
    }

    /// Returns the number of refused calls, by reason.
    pub fn refused(&self) -> BTreeMap<String, u64> {
        lock(&self.refused).clone()
    }

    /// Returns the number of retries.
    pub fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }

    /// Returns all payments in the order of their answers.
    pub fn payments(&self) -> Vec<Payment> {
        let mut payments = lock(&self.payments).clone();
        payments.sort_unstable_by_key(|payment| payment.at);
        payments
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
