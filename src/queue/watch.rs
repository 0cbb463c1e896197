//! An open WatchPosition: the positions of one token, each as soon as it is worth a message.
//!
//! A waiting user's watcher is woken by news of the queue and reads memory. An admitted user's watcher knows when its
//! admission ends; it is told when the token ends earlier, and when the concert is sold out or has seats again. Neither
//! costs a query while nothing changes. Once a stream is open, trouble with the database delays it and does not end it.

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

/// How soon a watcher asks again when the database did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// An open WatchPosition.
pub struct Watcher {
    admission: Admission,
    bearer: Arc<Bearer>,
    stopping: CancellationToken,
    line: Arc<Line>,
    stage: Stage,
    last: Option<Sent>,
}

/// What a watcher waits for.
enum Stage {
    /// The token waits: for its turn, or for a change ahead of it.
    Waiting(watch::Receiver<News>),
    /// The token is admitted: for its end.
    Admitted { token: Token, ended: Option<oneshot::Receiver<Token>>, is_sold_out: watch::Receiver<bool> },
    /// The token ended: for nothing.
    Ended(Token),
}

/// What a watcher was told last, as far as a change of it is worth a message.
#[derive(PartialEq)]
struct Sent {
    state: i32,
    position: Option<i64>,
    is_sold_out: bool,
    expire_time: Option<prost_types::Timestamp>,
}

impl Sent {
    fn of(position: &proto::QueuePosition) -> Self {
        Self {
            state: position.state,
            position: position.position,
            is_sold_out: position.unsold_seat_count == 0,
            expire_time: position.expire_time,
        }
    }

    /// Whether it is the last message of a stream.
    fn is_final(&self) -> bool {
        let state = QueueState::try_from(self.state).unwrap_or_default();
        matches!(state, QueueState::Expired | QueueState::Completed | QueueState::Left)
    }
}

impl Watcher {
    /// Opens the watcher of a token, and returns its first position. Fails if the token has no row, or another user's.
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

    /// Waits for the next position that is worth a message. Returns `None` after a final one.
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

    /// Waits until there may be something to tell.
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
                            // The sender is dropped only with the queue itself.
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

    /// The position now. It asks the database only if the token has just been admitted or has left.
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

    /// The row of the token. Trouble that may pass is waited for.
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

    /// Goes on from what the row says.
    fn take(&mut self, token: Token) -> proto::QueuePosition {
        // The row may be newer than the view that was read before.
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
