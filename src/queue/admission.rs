//! Reads the token of a caller and checks that the token is admitted. Calls that only read use [`Admission`]. Calls
//! that write check the locked token instead, with `operations::lock_for_use`.

use std::{sync::Arc, time::Duration};

use futures::future::OptionFuture;
use tokio_util::task::TaskTracker;

use super::{line::Line, operations, rules, snapshot::Snapshots};
use crate::{
    batch::{Lane, WriteLane, read_lane, write_lane},
    clock::Micros,
    db::{Database, entity::queue_token::Model as Token},
    rpc::Error,
    token::{Bearer, TokenKey},
};

/// Reads tokens and checks admissions. Concurrent calls share one query.
#[derive(Clone)]
pub struct Admission {
    db: Database,
    snapshots: Snapshots,
    find: Lane<TokenKey, Token>,
    claim: WriteLane<TokenKey, Token>,
}

impl Admission {
    /// Starts the lane that reads tokens, and the lane that records the first use of admissions.
    pub fn new(db: Database, snapshots: Snapshots, tasks: &TaskTracker) -> Self {
        let find = read_lane(&db, "queue.find", tasks, |db, keys| Box::pin(operations::find(db, keys)));
        let claim = write_lane(&db, "queue.claim", tasks, |write, keys| Box::pin(operations::claim(write, keys)));
        Self { db, snapshots, find, claim }
    }

    /// Returns the row of a token. Records the first use of its admission, if the token is admitted and a first use is
    /// required.
    ///
    /// Fails with TOKEN_INVALID if the token has no row or if the row belongs to another user.
    pub async fn find(&self, bearer: &Bearer) -> Result<Token, Error> {
        let token = own_row(bearer, self.find.submit((), bearer.key()).await?)?;
        match rules::claimed(&token, self.db.now()) {
            Some(_) => self.claim.submit(bearer.concert_id, bearer.key()).await,
            None => Ok(token),
        }
    }

    /// Returns the same as [`Admission::find`], for an open stream. If the lane is full, this function waits for
    /// space. [`Admission::find`] fails with OVERLOADED instead.
    pub async fn find_patiently(&self, bearer: &Bearer) -> Result<Token, Error> {
        let token = own_row(bearer, self.find.submit_patiently((), bearer.key()).await?)?;
        match rules::claimed(&token, self.db.now()) {
            Some(_) => self.claim.submit_patiently(bearer.concert_id, bearer.key()).await,
            None => Ok(token),
        }
    }

    /// Returns the row of a token, if the token is admitted now.
    ///
    /// Fails with NOT_ADMITTED, TOKEN_EXPIRED, TOKEN_COMPLETED or TOKEN_LEFT if the token is in another state. Fails
    /// with TOKEN_INVALID as [`Admission::find`] does.
    pub async fn require_active(&self, bearer: &Bearer) -> Result<Token, Error> {
        let token = self.find(bearer).await?;
        rules::require_active(&token, self.db.now(), self.retry_after(bearer))?;
        Ok(token)
    }

    /// Waits until an admitted token ends. Returns the error for its end: TOKEN_EXPIRED, TOKEN_COMPLETED or TOKEN_LEFT.
    pub async fn end_of(&self, token: Token) -> Error {
        let ended = match self.line(token.concert_id).await {
            Ok(line) => Some(line.follow_end(token.queue_number)),
            Err(_) => None,
        };
        let token = tokio::select! {
            Some(Ok(ended)) = OptionFuture::from(ended) => ended,
            () = self.sleep_until(token.expire_time) => token,
        };
        let refused = rules::require_active(&token, self.db.now(), Duration::ZERO);
        refused.err().unwrap_or(Error::TokenExpired)
    }

    /// Returns the time after which a waiting user should call GetPosition again.
    pub fn retry_after(&self, bearer: &Bearer) -> Duration {
        self.snapshots.poll_after(bearer.concert_id, bearer.queue_number)
    }

    /// Returns the queue of a concert. If the queue is not in memory yet, reads it from the database.
    pub async fn line(&self, concert_id: i64) -> Result<Arc<Line>, Error> {
        self.snapshots.line(concert_id).await
    }

    /// Returns the queues in memory.
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Returns the current time of the clock for decisions.
    pub fn now(&self) -> Micros {
        self.db.now()
    }

    /// Waits until the clock for decisions shows `at` or later. Never returns if `at` is `None`.
    pub async fn sleep_until(&self, at: Option<Micros>) {
        match at {
            Some(at) => self.db.sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

fn own_row(bearer: &Bearer, token: Token) -> Result<Token, Error> {
    if token.user_id == bearer.user_id { Ok(token) } else { Err(Error::TokenInvalid) }
}
