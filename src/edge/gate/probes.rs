//! The layer for requests of other services than the listener's own: health, reflection, and unknown paths.
//!
//! These need no API key. They have a limit of their own, of which one connection gets little, so that health is
//! answered however many calls there are.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};
use tower::{Layer, ServiceExt, layer::layer_fn, service_fn};

use super::call::Responds;
use crate::{
    edge::{
        limit::{Limit, Permit},
        socket::Peer,
        status,
    },
    rpc::{self, Error},
};

/// Maximum number of probes in flight on a listener, streams among them.
const MAX_PROBES: usize = 32_768;
/// The same for one connection. A client that watches health has one.
const MAX_PROBES_PER_CONNECTION: usize = 128;

/// Limits the probes that a listener has in flight.
pub struct Probes {
    limit: Arc<Limit>,
    call_timeout: Duration,
    stopping: CancellationToken,
}

impl Probes {
    /// Returns the limit of probes. Each must be answered within `call_timeout`; their streams end when `stopping` is
    /// cancelled.
    pub fn new(call_timeout: Duration, stopping: CancellationToken) -> Self {
        Self { limit: Limit::new("probes", MAX_PROBES), call_timeout, stopping }
    }
}

/// Returns the layer that runs `inner` within the limit of probes.
pub fn layer<S: Responds<Request<Body>, Infallible>>(
    probes: Arc<Probes>,
) -> impl Layer<S, Service = impl Responds<Request<Body>, Error>> {
    layer_fn(move |inner: S| {
        let probes = probes.clone();
        service_fn(move |request: Request<Body>| {
            let (inner, probes) = (inner.clone(), probes.clone());
            Box::pin(async move {
                let share = Peer::of(request.extensions()).probes;
                let permit = probes.limit.try_acquire_up_to(MAX_PROBES_PER_CONNECTION, &share)?;
                let deadline = Instant::now() + probes.call_timeout;
                let Ok(response) = rpc::within(deadline, inner.oneshot(request)).await?;
                if status::is_failure(response.headers()) {
                    return Ok(response);
                }
                Ok(until_shutdown(response, permit, &probes.stopping))
            })
        })
    })
}

/// Ends the body of `response` when the server shuts down. Our own streams do that themselves; health and reflection do
/// not.
fn until_shutdown(response: Response<Body>, permit: Permit, stopping: &CancellationToken) -> Response<Body> {
    let stopping = Box::pin(stopping.clone().cancelled_owned());
    response.map(|body| Body::new(UntilShutdown { body, _permit: permit, stopping, ended: false }))
}

struct UntilShutdown {
    body: Body,
    _permit: Permit,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

impl http_body::Body for UntilShutdown {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        // The body comes first: a watcher of health still gets NOT_SERVING before its stream ends.
        if frame.is_pending() {
            ready!(self.stopping.as_mut().poll(cx));
            self.ended = true;
            return Poll::Ready(Some(status::trailers(Error::ShuttingDown)));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}
