//! The layer that ends calls at their deadline: the caller's `grpc-timeout` or the server's call timeout, whichever is
//! earlier. After a stream has opened, only `grpc-timeout` applies to it.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Sleep, sleep_until};
use tonic::{Status, body::Body};
use tower::{Layer, layer::layer_fn, service_fn};

use super::call::{Call, Responds};
use crate::{
    edge::status,
    rpc::{self, Error},
};

/// Margin that is subtracted from the caller's timeout, so that this layer ends the call before tonic does. tonic also
/// applies `grpc-timeout`, but answers CANCELLED without details. The margin is one tick of tokio's timer.
const TONIC_MARGIN: Duration = Duration::from_millis(1);
/// Limit on the caller's timeout. The server ignores a timeout of this length or longer.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 86_400);

/// Returns the layer that fails calls with DEADLINE_EXCEEDED. A call may take at most `call_timeout`, or less if the
/// caller sets a shorter timeout. For a stream, `call_timeout` limits only the time until the stream opens. A call with
/// a malformed `grpc-timeout` fails with INVALID_ARGUMENT.
pub fn layer<S: Responds<Call, Error>>(call_timeout: Duration) -> impl Layer<S, Service = impl Responds<Call, Error>> {
    layer_fn(move |mut inner: S| {
        service_fn(move |call: Call| {
            let (method, start) = (call.method.clone(), call.start);
            let started = rpc::timeout(call.request.headers()).map(|timeout| {
                let timeout = timeout.filter(|timeout| *timeout < MAX_TIMEOUT);
                (timeout.map(|timeout| timeout.saturating_sub(TONIC_MARGIN)), inner.call(call))
            });
            async move {
                let (timeout, response) = started?;
                let deadline = start + timeout.map_or(call_timeout, |timeout| timeout.min(call_timeout));
                let response = rpc::within(deadline, response).await??;
                Ok(match timeout {
                    Some(timeout) if method.opens_stream(&response) => response.map(|body| {
                        let deadline = Box::pin(sleep_until(start + timeout));
                        Body::new(Timed { body, deadline, ended: false })
                    }),
                    _ => response,
                })
            }
        })
    })
}

/// The body of a stream. At the caller's deadline, the body ends with DEADLINE_EXCEEDED.
struct Timed {
    body: Body,
    deadline: Pin<Box<Sleep>>,
    ended: bool,
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.deadline.as_mut().poll(cx).is_ready() {
            self.ended = true;
            return Poll::Ready(Some(status::trailers(Error::DeadlineExceeded)));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}
