//! Whether a token is admitted, as its row says: what every call that needs an admitted token asks first.

use std::{sync::Arc, time::Duration};

use tokio_util::task::TaskTracker;

use super::{
    operations, rules,
    snapshot::{Snapshots, View},
};
use crate::{
    batch::{Lane, read_lane, write_lane},
    clock::Micros,
    db::{Database, entity::queue_token::Model as Token},
    rpc::Error,
    token::Bearer,
};

/// Looks up tokens by key; calls that ask at once share a query.
#[derive(Clone)]
pub struct Admission {
    db: Database,
    snapshots: Arc<Snapshots>,
    find: Lane<(i64, i64), Token>,
    claim: Lane<(i64, i64), Token>,
}

impl Admission {
    /// Starts the lane of look-ups.
    pub fn new(db: Database, snapshots: Arc<Snapshots>, tasks: &TaskTracker) -> Self {
        let find = read_lane(&db, "queue.find", tasks, |db, keys| Box::pin(operations::find(db, keys)));
        let claim = write_lane(&db, "queue.claim", tasks, |write, keys| Box::pin(operations::claim(write, keys)));
        Self { db, snapshots, find, claim }
    }

    /// The row of a token that gives a sign of life; TOKEN_INVALID if there is none, or if it is another user's. Only the first sign
    /// after the admission is written.
    pub async fn find(&self, bearer: &Bearer) -> Result<Token, Error> {
        let key = (bearer.concert_id, bearer.queue_number);
        let token = self.find.submit((), key).await?;
        if token.user_id != bearer.user_id {
            return Err(Error::TokenInvalid);
        }
        match rules::claimed(&token, self.db.now()) {
            Some(_) => self.claim.submit(key.0, key).await,
            None => Ok(token),
        }
    }

    /// The row of a token that is admitted now; refuses any other.
    pub async fn require_active(&self, bearer: &Bearer) -> Result<Token, Error> {
        let token = self.find(bearer).await?;
        rules::require_active(&token, self.db.now(), self.retry_after(bearer))?;
        Ok(token)
    }

    /// When a token should ask again, if it waits.
    pub fn retry_after(&self, bearer: &Bearer) -> Duration {
        let position = self.view(bearer.concert_id).position(bearer.queue_number);
        rules::poll_after(position, bearer.queue_number, &self.snapshots.poll_plan())
    }

    /// How far the queue of a concert has come.
    pub fn view(&self, concert_id: i64) -> Arc<View> {
        self.snapshots.view(concert_id)
    }

    /// What the views are kept in.
    pub fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    /// Now, as decisions go by.
    pub fn now(&self) -> Micros {
        self.db.now()
    }

    /// Waits until `at`; for ever without one.
    pub async fn sleep_until(&self, at: Option<Micros>) {
        match at {
            Some(at) => self.db.sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}
