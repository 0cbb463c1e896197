//! The first layer of calls after `SetSensitiveRequestHeaders`: records the duration and the status code of each call,
//! in metrics and traces.
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
    edge::{
        methods::{Method, code_name},
        status,
    },
    rpc::{
        caught,
        trace::{self, Recording},
    },
};

/// Returns the layer that records each call in the metric `rpc_server_call_duration_seconds`, and a traced call also in
/// a span.
pub fn layer<S: Responds<Call, Infallible>>() -> impl Layer<S, Service = impl Responds<Call, Infallible>> {
    layer_fn(|mut inner: S| {
        service_fn(move |call: Call| {
            let (method, start) = (call.method.clone(), call.start);
            let mut span = CallSpan::start(&call);
            // tower, axum and tonic move the future of a call several times. The box keeps this future small.
            let response = Box::pin(inner.call(call));
            async move {
                let response = trace::run(span.recording(), response).await?;
                if method.opens_stream(&response) {
                    return Ok(response.map(|body| Body::new(Recorded { body, method, start, end: None, span })));
                }
                span.code = status::code(response.headers());
                method.record(span.code, start.elapsed());
                Ok(response)
            }
        })
    })
}

/// The span of a call, if it is traced.
struct CallSpan {
    recording: Option<Box<Recording>>,
    /// The status code. The first value is CANCELLED, because the caller cancelled a call that is dropped without a
    /// status.
    code: Code,
}

impl CallSpan {
    fn start(Call { request, method, .. }: &Call) -> Self {
        Self { recording: trace::call(request.headers(), request.uri(), &method.name), code: Code::Cancelled }
    }

    fn recording(&self) -> Option<&Recording> {
        self.recording.as_deref()
    }
}

impl Drop for CallSpan {
    fn drop(&mut self) {
        if let Some(recording) = &mut self.recording {
            recording.set_code(self.code, code_name(self.code));
        }
    }
}

/// The body of a stream. When the body is dropped, it records the duration and the status code of the stream.
struct Recorded {
    body: Body,
    method: Arc<Method>,
    start: Instant,
    end: Option<Code>,
    span: CallSpan,
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.end.is_some() {
            return Poll::Ready(None);
        }
        let Self { body, span, .. } = &mut *self;
        let frame = ready!(trace::enter(span.recording(), || {
            let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(cx)));
            polled.unwrap_or_else(|panic| Poll::Ready(Some(status::trailers(caught("stream", panic)))))
        }));
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
        self.span.code = self.end.unwrap_or(Code::Cancelled);
        self.method.record(self.span.code, self.start.elapsed());
    }
}
