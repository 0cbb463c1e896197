//! Limits on the number of calls, streams, connections, arriving requests, probes and live pages.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use metrics::{Counter, Gauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::rpc::{Error, Pressure};

/// A maximum number of permits. It refuses immediately when no permit is free.
pub struct Limit {
    free: Arc<Semaphore>,
    pressure: Pressure,
    in_flight: Gauge,
    shed: Counter,
}

/// A permit of a limit. Dropping the value releases the permit.
pub struct Permit {
    limit: Arc<Limit>,
    share: Option<Arc<Share>>,
    permit: OwnedSemaphorePermit,
}

/// Counts the permits that one holder has of a limit. A holder is a method or a connection.
#[derive(Debug, Default)]
pub struct Share(AtomicUsize);

impl Limit {
    /// Returns a limit of `max` permits. `name` is the label of the metrics `boxoffice_open` and
    /// `boxoffice_shed_total`.
    pub fn new(name: &'static str, max: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(max)),
            pressure: Pressure::new(max),
            in_flight: metrics::gauge!("boxoffice_open", "limit" => name),
            shed: metrics::counter!("boxoffice_shed_total", "limit" => name),
        })
    }

    /// Takes a permit. Fails with OVERLOADED if none is free.
    pub fn try_acquire(self: &Arc<Self>) -> Result<Permit, Error> {
        self.take(1)
    }

    fn take(self: &Arc<Self>, count: u32) -> Result<Permit, Error> {
        let permit = self.free.clone().try_acquire_many_owned(count).map_err(|_| self.refuse())?;
        self.in_flight.increment(count);
        Ok(Permit { limit: self.clone(), share: None, permit })
    }

    /// Takes a permit for the holder of `share`. Fails with OVERLOADED if the holder has at least as many permits as
    /// are free. So one holder gets at most half of the permits, rounded up.
    pub fn try_acquire_fairly(self: &Arc<Self>, share: &Arc<Share>) -> Result<Permit, Error> {
        self.try_acquire_up_to(self.free.available_permits(), share)
    }

    /// Takes a permit for the holder of `share`. Fails with OVERLOADED if the holder has `max` permits or more, or if
    /// no permit is free.
    pub fn try_acquire_up_to(self: &Arc<Self>, max: usize, share: &Arc<Share>) -> Result<Permit, Error> {
        if share.is_below(max) { self.try_acquire_many(1, share) } else { Err(self.refuse()) }
    }

    /// Takes `count` permits for the holder of `share`, or none. Fails with OVERLOADED if fewer permits are free.
    pub fn try_acquire_many(self: &Arc<Self>, count: u32, share: &Arc<Share>) -> Result<Permit, Error> {
        let mut permit = self.take(count)?;
        share.0.fetch_add(count as usize, Ordering::Relaxed);
        permit.share = Some(share.clone());
        Ok(permit)
    }

    /// Counts a refusal, and returns OVERLOADED.
    pub fn refuse(&self) -> Error {
        self.shed.increment(1);
        Error::Overloaded { retry_after: self.pressure.refuse() }
    }
}

impl Share {
    /// Tells whether the holder has fewer than `max` permits.
    pub fn is_below(&self, max: usize) -> bool {
        self.0.load(Ordering::Relaxed) < max
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let count = self.permit.num_permits();
        if let Some(share) = &self.share {
            share.0.fetch_sub(count, Ordering::Relaxed);
        }
        self.limit.in_flight.decrement(count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_is_free_again() {
        let limit = Limit::new("test", 2);
        let first = limit.try_acquire().unwrap();
        let _second = limit.try_acquire().unwrap();
        assert!(matches!(limit.try_acquire(), Err(Error::Overloaded { .. })));
        drop(first);
        limit.try_acquire().unwrap();
    }

    #[test]
    fn many_permits_are_taken_and_released_together() {
        let (limit, share) = (Limit::new("test", 10), Arc::<Share>::default());
        let first = limit.try_acquire_many(7, &share).unwrap();
        assert!(!share.is_below(7) && share.is_below(8));
        assert!(limit.try_acquire_many(4, &share).is_err());
        drop(first);
        assert!(share.is_below(1));
        limit.try_acquire_many(10, &share).unwrap();
    }

    #[test]
    fn one_holder_gets_at_most_half_of_the_free_permits() {
        let limit = Limit::new("test", 12);
        let take_all = |share: &Arc<Share>| {
            let mut permits = Vec::new();
            while let Ok(permit) = limit.try_acquire_fairly(share) {
                permits.push(permit);
            }
            permits
        };
        let greedy = Arc::<Share>::default();
        let hoard = take_all(&greedy);
        assert_eq!(hoard.len(), 6);
        assert_eq!(take_all(&Arc::default()).len(), 3);
        drop(hoard);
        assert_eq!(take_all(&greedy).len(), 6);
    }
}
