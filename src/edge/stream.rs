//! The guard around an open stream: it keeps the stream's place, ends it at its deadline, and answers for a panic in it. Streams of
//! others (health, reflection) it only ends when the server stops: ours do so themselves.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status, body::Body};

use super::{limit::Permit, methods::Method, status};
use crate::rpc::{Error, caught};

/// Marks answers whose end the guard records.
#[derive(Clone)]
struct Guarded;

/// Guards the stream of an answer, which has `place` until it ends.
pub fn guard(
    response: Response<Body>,
    place: Permit,
    deadline: Option<Instant>,
    started: Instant,
    method: Arc<Method>,
) -> Response<Body> {
    let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
    let mut response =
        response.map(|body| Body::new(Guard { body, _place: place, deadline, started, method, ended: None }));
    response.extensions_mut().insert(Guarded);
    response
}

/// Whether an answer is a guarded stream.
pub fn is_guarded(response: &Response<Body>) -> bool {
    response.extensions().get::<Guarded>().is_some()
}

struct Guard {
    body: Body,
    _place: Permit,
    deadline: Option<Pin<Box<Sleep>>>,
    started: Instant,
    method: Arc<Method>,
    ended: Option<Code>,
}

impl Guard {
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(failure(Error::DeadlineExceeded));
        }
        let body = Pin::new(&mut self.body);
        catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx)))
            .unwrap_or_else(|panic| Poll::Ready(failure(caught("stream", panic))))
    }
}

/// The end of a stream that failed.
fn failure(error: Error) -> Option<Result<Frame<Bytes>, Status>> {
    let mut trailers = HeaderMap::new();
    Some(Status::from(error).add_header(&mut trailers).map(|()| Frame::trailers(trailers)))
}

impl http_body::Body for Guard {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended.is_some() {
            return Poll::Ready(None);
        }
        let frame = ready!(self.poll_body(cx));
        self.ended = match &frame {
            Some(Ok(frame)) => frame.trailers_ref().map(status::code),
            Some(Err(status)) => Some(status.code()),
            None => Some(Code::Ok),
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended.is_some()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // One that did not end was left by its caller.
        self.method.record(self.ended.unwrap_or(Code::Cancelled), self.started.elapsed());
    }
}

/// Guards a stream that is not ours, which has `place` until it ends: when `stopping` is cancelled and it has nothing more to say it is
/// ended, since nobody else would.
pub fn until(response: Response<Body>, place: Permit, stopping: CancellationToken) -> Response<Body> {
    let stopping = Box::pin(stopping.cancelled_owned());
    response.map(|body| Body::new(Until { body, _place: place, stopping, ended: false }))
}

struct Until {
    body: Body,
    _place: Permit,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

impl http_body::Body for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending() {
            ready!(self.stopping.as_mut().poll(cx));
            self.ended = true;
            return Poll::Ready(failure(Error::ShuttingDown));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}
