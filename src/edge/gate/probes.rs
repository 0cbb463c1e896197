//! The layer for probes: health checks, reflection, and requests for unknown paths.
//!
//! Probes need no API key. They have a separate limit, so that the server answers health checks even when it is
//! overloaded with calls. Each connection has a smaller limit, so one client cannot block the probes of other clients.

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

/// Maximum number of in-flight probes on a listener, including streams.
const MAX_PROBES: usize = 32_768;
/// Maximum number of in-flight probes on one connection. A client that watches health needs one stream.
const MAX_PROBES_PER_CONNECTION: usize = 128;

/// Limits the in-flight probes of a listener.
pub struct Probes {
    limit: Arc<Limit>,
    call_timeout: Duration,
    stopping: CancellationToken,
}

impl Probes {
    /// Returns the limit on probes. A probe fails if its response does not begin within `call_timeout`. Streams of
    /// probes end when `stopping` is cancelled.
    pub fn new(call_timeout: Duration, stopping: CancellationToken) -> Self {
        Self { limit: Limit::new("probes", MAX_PROBES), call_timeout, stopping }
    }
}

/// Returns the layer that takes a permit for each probe and then runs `inner`.
pub fn layer<S: Responds<Request<Body>, Infallible>>(
    probes: Arc<Probes>,
) -> impl Layer<S, Service = impl Responds<Request<Body>, Error>> {
    layer_fn(move |inner: S| {
        let probes = probes.clone();
        service_fn(move |request: Request<Body>| {
            let (inner, probes) = (inner.clone(), probes.clone());
            Box::pin(async move {
                let peer = Peer::of(request.extensions());
                let permit = probes.limit.try_acquire_up_to(MAX_PROBES_PER_CONNECTION, &peer.probes)?;
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

/// Returns `response` with a body that ends when the server shuts down. The body holds `permit` until it is dropped.
///
/// The streams of health and reflection need this body, because they do not react to the shutdown. The streams of
/// boxoffice react to the shutdown themselves.
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
        // The body is polled first, so that a health watcher receives NOT_SERVING before its stream ends.
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
