//! Counts the calls, failed calls, retries and payments of all visitors.

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

/// A successful call of Pay.
#[derive(Debug, Clone, Copy)]
pub struct Payment {
    /// The time at which the answer arrived.
    pub at: Instant,
    /// The number of paid seats.
    pub seats: u64,
    /// The total price of the seats, in the smallest unit of the currency.
    pub price: i64,
}

impl Tally {
    /// Counts an answer to a call of the RPC `name`, even if the answer is an error.
    pub fn call(&self, name: &'static str, latency: Duration) {
        let mut calls = lock(&self.calls);
        if let Some(latencies) = calls.get_mut(name) {
            latencies.saturating_record(micros(latency));
        } else if let Ok(mut latencies) = Histogram::new_with_bounds(1, 600_000_000, 3) {
            latencies.saturating_record(micros(latency));
            calls.insert(name, latencies);
        }
    }

    /// Counts a failed call by its reason.
    pub fn refuse(&self, reason: String) {
        *lock(&self.refused).entry(reason).or_default() += 1;
    }

    /// Counts a repeated call, a reopened stream, or a new choice of seats.
    pub fn retry(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    /// Records a payment.
    pub fn pay(&self, payment: Payment) {
        lock(&self.payments).push(payment);
    }

    /// Returns the latencies of each RPC in microseconds, by the name of the RPC.
    pub fn calls(&self) -> BTreeMap<&'static str, Histogram<u64>> {
        lock(&self.calls).clone()
    }

    /// Returns the number of failed calls, by reason.
    pub fn refused(&self) -> BTreeMap<String, u64> {
        lock(&self.refused).clone()
    }

    /// Returns the number of repeated calls, reopened streams and new choices of seats.
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
