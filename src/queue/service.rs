//! QueueService: issues tokens, returns and streams positions, and removes tokens from their queues.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};

use super::{
    admission::Admission,
    operations::{self, Issue, Leave},
    position,
    watch::Watcher,
};
use crate::{
    batch::{WriteLane, write_lane},
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

/// Serves QueueService.
pub struct QueueApi {
    catalogue: Arc<Catalogue>,
    keys: Arc<KeyRing>,
    admission: Admission,
    issue: WriteLane<Issue, Token>,
    leave: WriteLane<Leave, Token>,
    stopping: CancellationToken,
}

impl QueueApi {
    /// Starts the lane that issues tokens. `leave` is the lane that removes tokens from their queues and releases their
    /// held seats. Streams end when `stopping` is cancelled.
    pub fn new(
        db: &Database,
        catalogue: Arc<Catalogue>,
        keys: Arc<KeyRing>,
        admission: Admission,
        leave: WriteLane<Leave, Token>,
        tasks: &TaskTracker,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            catalogue,
            keys,
            admission,
            issue: write_lane(db, "queue.issue", tasks, |write, commands| Box::pin(operations::issue(write, commands))),
            leave,
            stopping,
        }
    }

    /// Returns the bearer of the call's token, if the token is for the user and the concert in the request. Otherwise
    /// fails with TOKEN_MISSING, TOKEN_INVALID, TOKEN_USER_MISMATCH or TOKEN_CONCERT_MISMATCH. Fails with
    /// INVALID_ARGUMENT or CONCERT_NOT_FOUND if a field of the request is wrong.
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
        if row.state == State::Waiting
            && let Ok(line) = self.admission.line(concert_id).await
        {
            line.note_waiting(row.queue_number, user_id);
        }
        let bearer =
            Bearer { user_id, concert_code: concert.concert_code.clone(), concert_id, queue_number: row.queue_number };
        Ok(Response::new(proto::IssueTokenResponse {
            token: Some(proto::QueueToken {
                token: self.keys.sign(&bearer)?,
                concert_code: bearer.concert_code,
                user_id: user_id.to_string(),
                queue_number: row.queue_number,
                state: position::state_to_proto(row.state).into(),
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
        let position = position::locate(&self.admission, &bearer).await?;
        Ok(Response::new(proto::GetPositionResponse { position: Some(position) }))
    }

    async fn watch_position(
        &self,
        request: Request<proto::WatchPositionRequest>,
    ) -> Result<Response<Positions>, Status> {
        let (_, extensions, request) = request.into_parts();
        let bearer = self.own_bearer(&extensions, &request.concert_code, &request.user_id).await?;
        // If the token has no row or belongs to another user, the call fails before the stream starts.
        let (first, watcher) = Watcher::open(self.admission.clone(), bearer, self.stopping.clone()).await?;
        let later = stream::try_unfold(watcher, Watcher::next);
        let positions = stream::once(std::future::ready(Ok(first))).chain(later);
        let responses = positions.map_ok(|position| proto::WatchPositionResponse { position: Some(position) });
        Ok(Response::new(Box::pin(responses.map_err(Status::from))))
    }

    async fn leave_queue(
        &self,
        request: Request<proto::LeaveQueueRequest>,
    ) -> Result<Response<proto::LeaveQueueResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let bearer = self.own_bearer(&extensions, &request.concert_code, &request.user_id).await?;
        let leave = Leave { key: bearer.key(), user_id: bearer.user_id };
        self.leave.submit(bearer.concert_id, leave).await?;
        // After the refresh, the positions on this replica no longer count the token that left. If the refresh fails,
        // the token has left nevertheless.
        let _ = self.admission.snapshots().refresh_shared().await;
        Ok(Response::new(proto::LeaveQueueResponse {}))
    }
}
