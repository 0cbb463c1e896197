//! Replays of requests. A retry with the same `request_id` gets the first answer and has no second effect.

use std::collections::HashMap;

use uuid::Uuid;

use crate::rpc::Error;

/// Holds the answers to earlier requests of one RPC, by `request_id`. The caller adds each accepted request of a batch,
/// so a request and its retry may be in the same batch.
pub struct Replays<A>(HashMap<Uuid, A>);

impl<A> Replays<A> {
    /// Returns replays with the answers to requests that were accepted before this batch. Skips requests without an id.
    pub fn new(accepted: impl IntoIterator<Item = (Option<Uuid>, A)>) -> Self {
        Self(accepted.into_iter().filter_map(|(request_id, answer)| Some((request_id?, answer))).collect())
    }

    /// Returns the first answer to a request, or `None` if the request is new or has no id.
    ///
    /// `replay` creates the answer from the record of the first request. It returns `None` if the first request was
    /// different. The result is then REQUEST_ID_CONFLICT.
    pub fn find<R>(&self, request_id: Option<Uuid>, replay: impl FnOnce(&A) -> Option<R>) -> Option<Result<R, Error>> {
        let request_id = request_id?;
        let first = self.0.get(&request_id)?;
        Some(replay(first).ok_or_else(|| Error::RequestIdConflict { request_id: request_id.to_string() }))
    }

    /// Adds the answer to an accepted request. Does nothing if the request has no id.
    pub fn remember(&mut self, request_id: Option<Uuid>, answer: A) {
        self.0.extend(request_id.map(|request_id| (request_id, answer)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_new_a_replay_or_a_conflict() {
        let (first, other) = (Some(Uuid::from_u128(1)), Some(Uuid::from_u128(2)));
        let mut replays = Replays::new([(first, 10), (None, 99)]);
        let find = |replays: &Replays<i32>, id, amount| replays.find(id, |known| (*known == amount).then_some(*known));
        assert_eq!(find(&replays, first, 10).unwrap().unwrap(), 10);
        assert!(matches!(find(&replays, first, 11), Some(Err(Error::RequestIdConflict { .. }))));
        assert!(find(&replays, other, 20).is_none() && find(&replays, None, 99).is_none());
        replays.remember(other, 20);
        replays.remember(None, 30);
        assert_eq!(find(&replays, other, 20).unwrap().unwrap(), 20);
        assert!(find(&replays, None, 30).is_none());
    }
}
