//! The innermost layer of calls: takes a permit for each call or stream, reads the request, and runs the service.

use std::{convert::Infallible, sync::Arc};

use http::Request;
use http_body_util::BodyExt;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::{Layer, ServiceExt, layer::layer_fn, service_fn};

use super::{
    call::{Call, Responds},
    inbox::Inbox,
    outbox::Outbox,
};
use crate::{
    edge::{
        limit::{Limit, Permit},
        methods::Method,
        settings::Limits,
    },
    rpc::Error,
};

/// Limits the in-flight calls and the open streams of a listener.
pub struct Permits {
    calls: Arc<Limit>,
    streams: Arc<Limit>,
    inbox: Inbox,
    outbox: Outbox,
}

impl Permits {
    /// Returns the permits that `limits` allow. A request may have at most `max_request_bytes`. When `stopping` is
    /// cancelled, the server stops waiting for requests that have not arrived completely.
    pub fn new(limits: &Limits, max_request_bytes: usize, stopping: CancellationToken) -> Self {
        Self {
            calls: Limit::new("calls", limits.max_calls),
            streams: Limit::new("streams", limits.max_streams),
            inbox: Inbox::new(max_request_bytes, stopping),
            outbox: Outbox::new(),
        }
    }

    /// Takes a permit for a call of `method`, or fails with OVERLOADED.
    ///
    /// One unary method may use at most half of the permits of calls. If calls of one method wait for a slow database,
    /// calls of other methods still get permits. The stream methods share the permits of streams without this rule.
    fn try_acquire(&self, method: &Method) -> Result<Permit, Error> {
        if method.is_stream { self.streams.try_acquire() } else { self.calls.try_acquire_fairly(&method.share) }
    }
}

/// Returns the layer that takes a permit for each call and then runs `inner`. A stream keeps its permit until it ends.
pub fn layer<S: Responds<Request<Body>, Infallible>>(
    permits: Arc<Permits>,
) -> impl Layer<S, Service = impl Responds<Call, Error>> {
    layer_fn(move |inner: S| {
        let permits = permits.clone();
        service_fn(move |Call { request, method, .. }| {
            // The permit is taken before the future is first polled, so that calls that wait for a CPU are also
            // counted.
            let permit = permits.try_acquire(&method);
            let (inner, permits) = (inner.clone(), permits.clone());
            // Without the box, each outer layer would contain a copy of this large future.
            Box::pin(async move {
                let retake = || permits.try_acquire(&method);
                let (mut request, permit) = permits.inbox.receive(request, permit, retake).await?;
                let taker = if method.is_list { Some(permits.outbox.admit(&mut request)?) } else { None };
                let Ok(response) = inner.oneshot(request).await;
                if let Some(taker) = taker {
                    return permits.outbox.hold(response, taker).await;
                }
                if !method.opens_stream(&response) {
                    return Ok(response);
                }
                Ok(response.map(|body| {
                    Body::new(body.map_frame(move |frame| {
                        let _held = &permit;
                        frame
                    }))
                }))
            })
        })
    })
}
