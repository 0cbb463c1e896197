//! At most so many of something at once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use metrics::{Counter, Gauge};
use tokio::sync::Semaphore;

use crate::rpc::{Error, Pressure};

/// A limit that refuses at once and never makes anybody wait.
pub struct Limit {
    free: Semaphore,
    pressure: Pressure,
    open: Gauge,
    shed: Counter,
}

/// A place within a limit, free again when it is dropped.
pub struct Permit {
    limit: Arc<Limit>,
    share: Option<Arc<Share>>,
}

/// How many places one of those who share a limit has.
#[derive(Debug, Default)]
pub struct Share(AtomicUsize);

impl Limit {
    /// At most `max` at once. `name` labels the metrics `boxoffice_open` and `boxoffice_shed_total`.
    pub fn new(name: &'static str, max: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Semaphore::new(max),
            pressure: Pressure::new(max),
            open: metrics::gauge!("boxoffice_open", "limit" => name),
            shed: metrics::counter!("boxoffice_shed_total", "limit" => name),
        })
    }

    /// Takes a place; fails with OVERLOADED if there is none.
    pub fn enter(self: &Arc<Self>) -> Result<Permit, Error> {
        let Ok(permit) = self.free.try_acquire() else {
            return Err(self.refuse());
        };
        permit.forget();
        self.open.increment(1);
        Ok(Permit { limit: self.clone(), share: None })
    }

    /// The same, for one of many who share the limit: nobody takes more places than are left for the others.
    pub fn enter_fairly(self: &Arc<Self>, share: &Arc<Share>) -> Result<Permit, Error> {
        self.enter_up_to(self.free.available_permits(), share)
    }

    /// The same, for one of many of whom nobody takes more than `most` places.
    pub fn enter_up_to(self: &Arc<Self>, most: usize, share: &Arc<Share>) -> Result<Permit, Error> {
        if share.0.load(Ordering::Relaxed) >= most {
            return Err(self.refuse());
        }
        let mut permit = self.enter()?;
        share.0.fetch_add(1, Ordering::Relaxed);
        permit.share = Some(share.clone());
        Ok(permit)
    }

    fn refuse(&self) -> Error {
        self.shed.increment(1);
        Error::Overloaded { retry_after: self.pressure.refuse() }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(share) = &self.share {
            share.0.fetch_sub(1, Ordering::Relaxed);
        }
        self.limit.free.add_permits(1);
        self.limit.open.decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_permit_is_dropped() {
        let limit = Limit::new("test", 2);
        let first = limit.enter().unwrap();
        let _second = limit.enter().unwrap();
        assert!(matches!(limit.enter(), Err(Error::Overloaded { .. })));
        drop(first);
        limit.enter().unwrap();
    }

    #[test]
    fn nobody_takes_more_of_a_shared_limit_than_is_left_for_the_others() {
        let limit = Limit::new("test", 12);
        let take_all = |share: &Arc<Share>| {
            let mut permits = Vec::new();
            while let Ok(permit) = limit.enter_fairly(share) {
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
