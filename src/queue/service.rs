//! QueueService: take a token, watch the place, leave.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, stream};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};

use super::{
    admission::Admission,
    operations::{self, Issue},
    rules,
    snapshot::View,
};
use crate::{
    batch::{Lane, write_lane},
    catalogue::Catalogue,
    db::{
        Database,
        entity::queue_token::{Model as Token, State},
    },
    rpc::{
        Error, Fields,
        proto::{self, queue_service_server::QueueService},
    },
    token::{self, Bearer, KeyRing},
};

/// How often an admitted caller should ask, if it asks at all.
const ACTIVE_POLL: Duration = Duration::from_secs(5);

/// Serves queues.
pub struct QueueApi {
    catalogue: Arc<Catalogue>,
    keys: Arc<KeyRing>,
    admission: Admission,
    issue: Lane<Issue, Token>,
    leave: Lane<(i64, i64), Token>,
    stopping: CancellationToken,
}

impl QueueApi {
    /// Starts the lane of issues. `leave` is the lane in which tokens leave and what they hold is released; streams end when
    /// `stopping` is cancelled.
    pub fn new(
        db: &Database,
        catalogue: Arc<Catalogue>,
        keys: Arc<KeyRing>,
        admission: Admission,
        leave: Lane<(i64, i64), Token>,
        tasks: &TaskTracker,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            catalogue,
            keys,
            admission,
            issue: write_lane(&db, "queue.issue", tasks, |write, commands| {
                Box::pin(operations::issue(write, commands))
            }),
            leave,
            stopping,
        }
    }

    /// The bearer of a caller who asks about the own place in the own queue.
    async fn own_bearer(
        &self,
        extensions: &tonic::Extensions,
        concert_code: &str,
        user_id: &str,
    ) -> Result<Arc<Bearer>, Error> {
        let bearer = token::bearer(extensions)?;
        let mut fields = Fields::default();
        fields.concert_code("concert_code", concert_code);
        let user_id = fields.uuid("user_id", user_id);
        fields.done()?;
        bearer.require_user(user_id)?;
        let concert = self.catalogue.concert(concert_code).await?;
        bearer.require_concert(concert.concert_id)?;
        Ok(bearer)
    }
}

type Positions = Pin<Box<dyn Stream<Item = Result<proto::WatchPositionResponse, Status>> + Send>>;

#[tonic::async_trait]
impl QueueService for QueueApi {
    type WatchPositionStream = Positions;

    async fn issue_token(
        &self,
        request: Request<proto::IssueTokenRequest>,
    ) -> Result<Response<proto::IssueTokenResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        fields.concert_code("concert_code", &request.concert_code);
        let user_id = fields.uuid("user_id", &request.user_id);
        fields.done()?;
        let concert = self.catalogue.concert(&request.concert_code).await?;
        let concert_id = concert.concert_id;
        let row = self.issue.submit(concert_id, Issue { concert_id, user_id }).await?;
        let bearer =
            Bearer { user_id, concert_code: concert.concert_code.clone(), concert_id, queue_number: row.queue_number };
        Ok(Response::new(proto::IssueTokenResponse {
            token: Some(proto::QueueToken {
                token: self.keys.sign(&bearer)?,
                concert_code: bearer.concert_code,
                user_id: user_id.to_string(),
                queue_number: row.queue_number,
                state: state_to_proto(row.state).into(),
                issue_time: Some(proto::timestamp(row.issue_time)),
                expire_time: row.expire_time.map(proto::timestamp),
            }),
        }))
    }

    async fn get_position(
        &self,
        request: Request<proto::GetPositionRequest>,
    ) -> Result<Response<proto::GetPositionResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let bearer = self.own_bearer(&extensions, &request.concert_code, &request.user_id).await?;
        let view = self.admission.view(bearer.concert_id);
        let position = locate(&self.admission, &bearer, &view).await?;
        Ok(Response::new(proto::GetPositionResponse { position: Some(position) }))
    }

    async fn watch_position(
        &self,
        request: Request<proto::WatchPositionRequest>,
    ) -> Result<Response<Positions>, Status> {
        let (_, extensions, request) = request.into_parts();
        let bearer = self.own_bearer(&extensions, &request.concert_code, &request.user_id).await?;
        let watcher = Watcher {
            views: self.admission.snapshots().watch(bearer.concert_id),
            admission: self.admission.clone(),
            bearer,
            stopping: self.stopping.clone(),
            last: None,
        };
        // What is wrong with the token is said at once, not in the stream.
        let (first, watcher) = watcher.next().await?.ok_or(Error::TokenInvalid)?;
        let later = stream::try_unfold(watcher, Watcher::next);
        let all = stream::once(std::future::ready(Ok(first)));
        let all = futures::StreamExt::chain(all, later);
        let responses = futures::StreamExt::map(all, |position: Result<_, Error>| {
            let position = Some(position?);
            Ok(proto::WatchPositionResponse { position })
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn leave_queue(
        &self,
        request: Request<proto::LeaveQueueRequest>,
    ) -> Result<Response<proto::LeaveQueueResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let bearer = self.own_bearer(&extensions, &request.concert_code, &request.user_id).await?;
        let key = (bearer.concert_id, bearer.queue_number);
        self.leave.submit(bearer.concert_id, key).await?;
        // So that whoever asks here next is not told of a place that is gone.
        self.admission.snapshots().refresh().await.map_err(Error::from)?;
        Ok(Response::new(proto::LeaveQueueResponse {}))
    }
}

/// Where a token stands: from memory while it waits for sure, else from its row.
async fn locate(admission: &Admission, bearer: &Bearer, view: &View) -> Result<proto::QueuePosition, Error> {
    if view.waits(bearer.queue_number) {
        return Ok(waiting(admission, bearer, view));
    }
    let token = admission.find(bearer).await?;
    // The row may be newer than the view, so the view is read again.
    let view = admission.view(bearer.concert_id);
    Ok(match rules::state_at(&token, admission.now()) {
        State::Waiting => waiting(admission, bearer, &view),
        state => over_or_active(&token, state, &view),
    })
}

fn waiting(admission: &Admission, bearer: &Bearer, view: &View) -> proto::QueuePosition {
    let queue_number = bearer.queue_number;
    let position = view.position(queue_number);
    proto::QueuePosition {
        state: proto::QueueState::Waiting.into(),
        queue_number,
        position: Some(position),
        estimated_wait: rules::estimated_wait(position, view.admissions_per_second).map(proto::duration),
        poll_after: Some(proto::duration(admission.retry_after(bearer))),
        expire_time: None,
        unsold_seat_count: unsold(view),
    }
}

fn over_or_active(token: &Token, state: State, view: &View) -> proto::QueuePosition {
    proto::QueuePosition {
        state: state_to_proto(state).into(),
        queue_number: token.queue_number,
        position: None,
        estimated_wait: None,
        poll_after: Some(proto::duration(ACTIVE_POLL)),
        expire_time: token.expire_time.map(proto::timestamp),
        unsold_seat_count: unsold(view),
    }
}

fn unsold(view: &View) -> i32 {
    i32::try_from(view.unsold_seat_count).unwrap_or(i32::MAX)
}

fn state_to_proto(state: State) -> proto::QueueState {
    match state {
        State::Waiting => proto::QueueState::Waiting,
        State::Active => proto::QueueState::Active,
        State::Expired => proto::QueueState::Expired,
        State::Completed => proto::QueueState::Completed,
        State::Left => proto::QueueState::Left,
    }
}

/// An open WatchPosition.
struct Watcher {
    views: watch::Receiver<Arc<View>>,
    admission: Admission,
    bearer: Arc<Bearer>,
    stopping: CancellationToken,
    last: Option<Sent>,
}

/// What a watcher was told last, as far as a change of it is worth a message.
#[derive(PartialEq)]
struct Sent {
    state: i32,
    position: Option<i64>,
    sold_out: bool,
    expire_time: Option<prost_types::Timestamp>,
}

impl Sent {
    fn of(position: &proto::QueuePosition) -> Self {
        Self {
            state: position.state,
            position: position.position,
            sold_out: position.unsold_seat_count == 0,
            expire_time: position.expire_time,
        }
    }

    /// Nothing comes after these.
    fn is_final(&self) -> bool {
        let state = proto::QueueState::try_from(self.state).unwrap_or_default();
        use proto::QueueState as S;
        matches!(state, S::Expired | S::Completed | S::Left)
    }
}

impl Watcher {
    /// Waits for the next position that is worth a message; `None` after a final one.
    async fn next(mut self) -> Result<Option<(proto::QueuePosition, Self)>, Error> {
        if self.last.as_ref().is_some_and(Sent::is_final) {
            return Ok(None);
        }
        loop {
            if self.last.is_some() {
                self.wait().await?;
            }
            let view = self.views.borrow_and_update().clone();
            let position = locate(&self.admission, &self.bearer, &view).await?;
            let sent = Sent::of(&position);
            if self.last.as_ref() != Some(&sent) {
                self.last = Some(sent);
                return Ok(Some((position, self)));
            }
        }
    }

    /// Waits until the view changes or the admission ends.
    async fn wait(&mut self) -> Result<(), Error> {
        let end = self.last.as_ref().and_then(|last| last.expire_time);
        let end = end.and_then(|end| proto::from_timestamp(&end));
        tokio::select! {
            () = self.stopping.cancelled() => Err(Error::ShuttingDown),
            changed = self.views.changed() => changed.map_err(|_| Error::ShuttingDown),
            () = self.admission.sleep_until(end) => Ok(()),
        }
    }
}
