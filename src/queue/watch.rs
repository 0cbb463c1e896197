//! An open WatchPosition stream, which sends the position of one token after each change.
//!
//! The watcher of a waiting user wakes up when the queue changes, and reads memory. The watcher of an admitted user
//! wakes up at the expiry of the admission, or when the token ends earlier. This watcher also wakes up when the concert
//! sells out, or when seats become free again. No watcher makes a query while nothing changes. If the database is
//! unavailable, an open stream sends its messages late but does not end.

use std::{sync::Arc, time::Duration};

use futures::future::OptionFuture;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    admission::Admission,
    line::{Line, News},
    position, rules,
};
use crate::{
    db::entity::queue_token::{Model as Token, State},
    rpc::{
        Error,
        proto::{self, QueueState},
    },
    token::Bearer,
};

/// Pause before the row of a token is read again, after the read failed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Holds the state of an open WatchPosition stream.
pub struct Watcher {
    admission: Admission,
    bearer: Arc<Bearer>,
    stopping: CancellationToken,
    line: Arc<Line>,
    stage: Stage,
    last: Option<Sent>,
}

/// The event that a watcher waits for.
enum Stage {
    /// The token waits, so the watcher waits for news of the queue.
    Waiting(watch::Receiver<News>),
    /// The token is admitted, so the watcher waits for the end of the token and for a change of "sold out".
    Admitted { token: Token, ended: Option<oneshot::Receiver<Token>>, is_sold_out: watch::Receiver<bool> },
    /// The token has ended, so the watcher waits for nothing.
    Ended(Token),
}

/// The parts of the last message that the watcher compares with the current position. A difference causes a new
/// message.
#[derive(PartialEq)]
struct Sent {
    state: i32,
    position: Option<i64>,
    is_sold_out: bool,
    expire_time: Option<prost_types::Timestamp>,
    draw_time: Option<prost_types::Timestamp>,
}

impl Sent {
    fn of(position: &proto::QueuePosition) -> Self {
        Self {
            state: position.state,
            position: position.position,
            is_sold_out: position.unsold_seat_count == 0,
            expire_time: position.expire_time,
            draw_time: position.draw_time,
        }
    }

    /// Tells whether this message is the last message of the stream.
    fn is_final(&self) -> bool {
        let state = QueueState::try_from(self.state).unwrap_or_default();
        matches!(state, QueueState::Expired | QueueState::Completed | QueueState::Left)
    }
}

impl Watcher {
    /// Returns the first position of a token, and a watcher for the later positions.
    ///
    /// Fails with TOKEN_INVALID if the token has no row or if the row belongs to another user.
    pub async fn open(
        admission: Admission,
        bearer: Arc<Bearer>,
        stopping: CancellationToken,
    ) -> Result<(proto::QueuePosition, Self), Error> {
        let line = admission.line(bearer.concert_id).await?;
        let news = line.follow_news();
        let mut watcher = Self { admission, bearer, stopping, line, stage: Stage::Waiting(news), last: None };
        let first = match watcher.position_in_memory() {
            Some(position) => position,
            None => {
                let token = watcher.admission.find(&watcher.bearer).await?;
                watcher.take(token)
            }
        };
        watcher.last = Some(Sent::of(&first));
        Ok((first, watcher))
    }

    /// Waits for a position that differs from the last message. Returns `None` if the last message had a final state.
    ///
    /// Fails with SHUTTING_DOWN when the server shuts down.
    pub async fn next(mut self) -> Result<Option<(proto::QueuePosition, Self)>, Error> {
        loop {
            if self.last.as_ref().is_some_and(Sent::is_final) {
                return Ok(None);
            }
            self.wait().await?;
            let position = self.position().await?;
            let sent = Sent::of(&position);
            if self.last.as_ref() != Some(&sent) {
                self.last = Some(sent);
                return Ok(Some((position, self)));
            }
        }
    }

    /// Waits until the position may have changed.
    async fn wait(&mut self) -> Result<(), Error> {
        let stopping = self.stopping.clone();
        let change = async {
            match &mut self.stage {
                Stage::Waiting(news) => drop(news.changed().await),
                Stage::Admitted { token, ended, is_sold_out } => {
                    let end = self.admission.sleep_until(token.expire_time);
                    tokio::select! {
                        Some(row) = OptionFuture::from(ended.as_mut()) => {
                            *ended = None;
                            // The channel closes without a row only if the queue was removed from memory.
                            *token = row.unwrap_or_else(|_| token.clone());
                        }
                        _ = is_sold_out.changed() => {}
                        () = end => {}
                    }
                }
                Stage::Ended(_) => {}
            }
        };
        tokio::select! {
            () = stopping.cancelled() => Err(Error::ShuttingDown),
            () = change => Ok(()),
        }
    }

    /// Returns the current position. The row of the token is read only if the token waited and memory no longer shows
    /// that it waits.
    async fn position(&mut self) -> Result<proto::QueuePosition, Error> {
        if let Stage::Waiting(_) = &self.stage {
            if let Some(position) = self.position_in_memory() {
                return Ok(position);
            }
            let token = self.row().await?;
            return Ok(self.take(token));
        }
        Ok(match &self.stage {
            Stage::Admitted { token, .. } | Stage::Ended(token) => {
                let state = rules::state_at(token, self.admission.now());
                position::over_or_active(token, state, &self.line.view())
            }
            Stage::Waiting(_) => position::waiting(&self.admission, &self.bearer, &self.line.view()),
        })
    }

    fn position_in_memory(&self) -> Option<proto::QueuePosition> {
        position::in_memory(&self.admission, &self.bearer, &self.line)
    }

    /// Returns the row of the token. Retries while the database is unavailable or a lane refuses the command.
    async fn row(&self) -> Result<Token, Error> {
        loop {
            match self.admission.find_patiently(&self.bearer).await {
                Err(Error::StorageUnavailable | Error::OutcomeUnknown { .. } | Error::Overloaded { .. }) => {}
                answered => return answered,
            }
            tokio::select! {
                () = self.stopping.cancelled() => return Err(Error::ShuttingDown),
                () = tokio::time::sleep(RETRY_PAUSE) => {}
            }
        }
    }

    /// Sets the stage that matches the row of the token, and returns the position.
    fn take(&mut self, token: Token) -> proto::QueuePosition {
        // The row may be newer than a view that was read before, so the view is read now.
        let view = self.line.view();
        let state = rules::state_at(&token, self.admission.now());
        if state == State::Waiting {
            self.line.note_waiting(token.queue_number, token.user_id);
            return position::waiting(&self.admission, &self.bearer, &view);
        }
        let position = position::over_or_active(&token, state, &view);
        self.stage = match state {
            State::Active => Stage::Admitted {
                ended: Some(self.line.follow_end(token.queue_number)),
                is_sold_out: self.line.follow_sold_out(),
                token,
            },
            _ => Stage::Ended(token),
        };
        position
    }
}
