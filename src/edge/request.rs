//! Reads requests whole before anything is done about them: each is one small message.
//!
//! A call whose request is still on its way gives its place among the calls back, so that a slow or silent sender keeps nobody out. It
//! counts among those that arrive, of which no connection may have more than it leaves to the others. Also what is refused is read
//! first: h2 counts what comes after an answer as an error, and closes a connection that makes many.

use std::{pin::pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use super::{
    limit::{Limit, Permit},
    socket::Peer,
};
use crate::rpc::Error;

/// Calls of a listener whose requests are on their way at once; each takes about 10 KiB.
const MAX_ARRIVING: usize = 65_536;
/// How long a request may be on its way.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Before each message gRPC has a flag and a length.
const FRAME_HEADER_BYTES: usize = 5;

/// Where requests arrive.
pub struct Inbox {
    arriving: Arc<Limit>,
    max_bytes: usize,
    stopping: CancellationToken,
}

impl Inbox {
    /// Takes requests of at most `max_bytes`, and waits for none once `stopping` is cancelled.
    pub fn new(max_bytes: usize, stopping: CancellationToken) -> Self {
        Self { arriving: Limit::new("arriving", MAX_ARRIVING), max_bytes, stopping }
    }

    /// The request with its message in memory, and the place it has; `enter` takes another when the first was given back. Fails with
    /// INVALID_ARGUMENT, DEADLINE_EXCEEDED, OVERLOADED, SHUTTING_DOWN, or as `place` did.
    pub async fn receive(
        &self,
        request: Request<Body>,
        place: Result<Permit, Error>,
        enter: impl Fn() -> Result<Permit, Error>,
    ) -> Result<(Request<Body>, Permit), Error> {
        let (parts, body) = request.into_parts();
        let mut message = pin!(self.read(body));
        if let Poll::Ready(message) = futures::poll!(message.as_mut()) {
            let place = place?;
            return Ok((Request::from_parts(parts, Body::new(Full::new(message?))), place));
        }
        if let Err(error) = &place
            && !matches!(error, Error::Overloaded { .. })
        {
            // Nobody waits for what a stranger has to say.
            return Err(error.clone());
        }
        drop(place);
        let share = Peer::of(&parts.extensions).arriving;
        let _slot = self.arriving.enter_fairly(&share)?;
        let message = tokio::select! {
            biased;
            message = message => message?,
            () = self.stopping.cancelled() => return Err(Error::ShuttingDown),
            () = tokio::time::sleep(ARRIVAL_TIMEOUT) => return Err(Error::DeadlineExceeded),
        };
        let place = enter()?;
        Ok((Request::from_parts(parts, Body::new(Full::new(message))), place))
    }

    async fn read(&self, body: Body) -> Result<Bytes, Error> {
        let read = Limited::new(body, self.max_bytes + FRAME_HEADER_BYTES).collect().await;
        read.map(http_body_util::Collected::to_bytes).map_err(|error| {
            let large = error.is::<LengthLimitError>();
            let expected = if large {
                format!("must have at most {} bytes", self.max_bytes)
            } else {
                "must come whole".to_owned()
            };
            Error::invalid("request", expected)
        })
    }
}
