//! Reads each request completely before the service handles it. A request is one message of limited size.
//!
//! A call holds no permit while its request arrives, so that slow clients do not block other calls. Arriving requests
//! have a separate limit. One connection may use at most half of that limit.
//!
//! If a request is refused for its credential or for a limit, the data that has arrived is read and discarded.
//! Otherwise h2 counts data after the response as an error of the client, and closes connections with many such errors.

use std::{pin::pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use crate::{
    edge::{
        limit::{Limit, Permit},
        socket::Peer,
    },
    rpc::Error,
};

/// Maximum number of arriving requests on a listener. Each arriving request takes about 10 KiB of memory.
const MAX_ARRIVING: usize = 65_536;
/// Maximum time for a request to arrive.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Number of bytes that gRPC sends before each message: the compression flag and the length of the message.
const FRAME_HEADER_BYTES: usize = 5;

/// Receives the requests of a listener, and limits the number of requests that have not arrived completely.
pub struct Inbox {
    arriving: Arc<Limit>,
    max_bytes: usize,
    stopping: CancellationToken,
}

impl Inbox {
    /// Returns an inbox for requests of at most `max_bytes`. It stops waiting for requests when `stopping` is
    /// cancelled.
    pub fn new(max_bytes: usize, stopping: CancellationToken) -> Self {
        Self { arriving: Limit::new("arriving", MAX_ARRIVING), max_bytes, stopping }
    }

    /// Waits for the message of a request. Returns the request with its message in memory, and the permit of the call.
    ///
    /// `permit` counts only if the message has already arrived. Otherwise this function drops `permit`, waits for the
    /// message, and then takes a permit with `retake`. Fails with INVALID_ARGUMENT, DEADLINE_EXCEEDED, OVERLOADED or
    /// SHUTTING_DOWN.
    pub async fn receive(
        &self,
        request: Request<Body>,
        permit: Result<Permit, Error>,
        retake: impl Fn() -> Result<Permit, Error>,
    ) -> Result<(Request<Body>, Permit), Error> {
        let (parts, body) = request.into_parts();
        let mut message = pin!(read(body, self.max_bytes));
        if let Poll::Ready(message) = futures::poll!(message.as_mut()) {
            let permit = permit?;
            return Ok((Request::from_parts(parts, Body::new(Full::new(message?))), permit));
        }
        drop(permit);
        let peer = Peer::of(&parts.extensions);
        let _arriving = self.arriving.try_acquire_fairly(&peer.arriving)?;
        let message = tokio::select! {
            biased;
            message = message => message?,
            () = self.stopping.cancelled() => return Err(Error::ShuttingDown),
            () = tokio::time::sleep(ARRIVAL_TIMEOUT) => return Err(Error::DeadlineExceeded),
        };
        let permit = retake()?;
        Ok((Request::from_parts(parts, Body::new(Full::new(message))), permit))
    }
}

/// Discards the part of a refused request that has already arrived, up to `max_bytes`. Does not wait for the rest.
pub async fn discard(body: Body, max_bytes: usize) {
    let _ = futures::poll!(pin!(read(body, max_bytes)));
}

async fn read(body: Body, max_bytes: usize) -> Result<Bytes, Error> {
    let message = Limited::new(body, max_bytes + FRAME_HEADER_BYTES).collect().await;
    message.map(http_body_util::Collected::to_bytes).map_err(|error| {
        let expected = if error.is::<LengthLimitError>() {
            format!("must have at most {max_bytes} bytes")
        } else {
            "must arrive completely".to_owned()
        };
        Error::invalid("request", expected)
    })
}
