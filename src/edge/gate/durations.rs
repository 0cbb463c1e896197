//! The first layer of calls after `SetSensitiveRequestHeaders`: records the duration and the status code of each call.
//!
//! The duration of a stream includes its body. So this layer wraps the body of a stream. The wrapper also catches the
//! panics of the body.

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Frame;
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::{Layer, layer::layer_fn, service_fn};

use super::call::{Call, Responds};
use crate::{
    edge::{methods::Method, status},
    rpc::caught,
};

/// Returns the layer that records calls in the metric `rpc_server_call_duration_seconds`.
pub fn layer<S: Responds<Call, Infallible>>() -> impl Layer<S, Service = impl Responds<Call, Infallible>> {
    layer_fn(|mut inner: S| {
        service_fn(move |call: Call| {
            let (method, start) = (call.method.clone(), call.start);
            let response = inner.call(call);
            async move {
                let response = response.await?;
                if method.opens_stream(&response) {
                    return Ok(response.map(|body| Body::new(Recorded { body, method, start, end: None })));
                }
                method.record(status::code(response.headers()), start.elapsed());
                Ok(response)
            }
        })
    })
}

/// The body of a stream. It records the duration and the status code of the stream when it is dropped.
struct Recorded {
    body: Body,
    method: Arc<Method>,
    start: Instant,
    end: Option<Code>,
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.end.is_some() {
            return Poll::Ready(None);
        }
        let body = Pin::new(&mut self.body);
        let polled = catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx)));
        let frame = ready!(polled.unwrap_or_else(|panic| Poll::Ready(Some(status::trailers(caught("stream", panic))))));
        self.end = match &frame {
            Some(Ok(frame)) => frame.trailers_ref().map(status::code),
            Some(Err(status)) => Some(status.code()),
            None => Some(Code::Ok),
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.end.is_some()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // Without a status, the caller cancelled the stream or the connection broke.
        self.method.record(self.end.unwrap_or(Code::Cancelled), self.start.elapsed());
    }
}
