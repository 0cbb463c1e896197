//! Whether a token is admitted, as its row says. Every call that needs an admission asks here first.

use std::{sync::Arc, time::Duration};

use futures::future::OptionFuture;
use tokio_util::task::TaskTracker;

use super::{line::Line, operations, rules, snapshot::Snapshots};
use crate::{
    batch::{Lane, read_lane, write_lane},
    clock::Micros,
    db::{Database, entity::queue_token::Model as Token},
    rpc::Error,
    token::{Bearer, TokenKey},
};

/// Looks up tokens by key. Calls that come together share a query.
#[derive(Clone)]
pub struct Admission {
    db: Database,
    snapshots: Snapshots,
    find: Lane<TokenKey, Token>,
    claim: Lane<TokenKey, Token>,
}

impl Admission {
    /// Starts the lanes of look-ups and of first uses.
    pub fn new(db: Database, snapshots: Snapshots, tasks: &TaskTracker) -> Self {
        let find = read_lane(&db, "queue.find", tasks, |db, keys| Box::pin(operations::find(db, keys)));
        let claim = write_lane(&db, "queue.claim", tasks, |write, keys| Box::pin(operations::claim(write, keys)));
        Self { db, snapshots, find, claim }
    }

    /// Returns the row of a token; TOKEN_INVALID if there is none, or if it is another user's. If this is the first use of
    /// its admission, that is written down.
    pub async fn find(&self, bearer: &Bearer) -> Result<Token, Error> {
        let token = own_row(bearer, self.find.submit((), bearer.key()).await?)?;
        match rules::claimed(&token, self.db.now()) {
            Some(_) => self.claim.submit(bearer.concert_id, bearer.key()).await,
            None => Ok(token),
        }
    }

    /// The same for a stream that is open: it waits for its turn, where a call would be refused.
    pub async fn find_patiently(&self, bearer: &Bearer) -> Result<Token, Error> {
        let token = own_row(bearer, self.find.submit_patiently((), bearer.key()).await?)?;
        match rules::claimed(&token, self.db.now()) {
            Some(_) => self.claim.submit_patiently(bearer.concert_id, bearer.key()).await,
            None => Ok(token),
        }
    }

    /// Returns the row of a token that is admitted now; refuses any other.
    pub async fn require_active(&self, bearer: &Bearer) -> Result<Token, Error> {
        let token = self.find(bearer).await?;
        rules::require_active(&token, self.db.now(), self.retry_after(bearer))?;
        Ok(token)
    }

    /// Waits until an admitted token ends, and returns how: TOKEN_EXPIRED, TOKEN_COMPLETED or TOKEN_LEFT.
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

    /// Returns when a token that waits should ask again.
    pub fn retry_after(&self, bearer: &Bearer) -> Duration {
        self.snapshots.poll_after(bearer.concert_id, bearer.queue_number)
    }

    /// Returns the queue of a concert.
    pub async fn line(&self, concert_id: i64) -> Result<Arc<Line>, Error> {
        self.snapshots.line(concert_id).await
    }

    /// The queues in memory.
    pub fn snapshots(&self) -> &Snapshots {
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

fn own_row(bearer: &Bearer, token: Token) -> Result<Token, Error> {
    if token.user_id == bearer.user_id { Ok(token) } else { Err(Error::TokenInvalid) }
}
