//! What every call passes before it reaches its service, and what its answer passes on the way back: one tower layer around all routes
//! of a listener.
//!
//! In this order: a place among the calls or streams at once ([`Limit`]), the caller's deadline, the request read whole, the service,
//! and for streams a guard around what follows. Whatever goes wrong on the way, a panic too, is answered with a status that carries its
//! details. Calls that no service of ours has (health, reflection, what is unknown) are let through: who asks for health is never shed.

mod deadline;
mod limit;
mod methods;
mod panics;
mod pressure;
mod request;
mod settings;
mod socket;
mod status;
mod stream;

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::{Layer, Service};

pub use deadline::{remaining, within};
pub use limit::Limit;
pub use panics::caught;
pub use pressure::Pressure;
pub use settings::Limits;
pub use socket::incoming;

use crate::error::Error;
use limit::Permit;
use methods::{Method, Methods};
use request::Inbox;

/// Deadlines further off than this are as good as none.
const FAR: Duration = Duration::from_secs(365 * 86_400);

/// The gate of one listener; clones are the same gate.
#[derive(Clone)]
pub struct Gate(Arc<Shared>);

struct Shared {
    methods: Methods,
    calls: Arc<Limit>,
    streams: Arc<Limit>,
    inbox: Inbox,
    call_timeout: Duration,
    stopping: CancellationToken,
}

impl Gate {
    /// A gate before `services`. Requests of more than `max_request_bytes` are refused, and all calls once `stopping` is cancelled.
    pub fn new(services: &[&str], limits: &Limits, max_request_bytes: usize, stopping: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            methods: Methods::of(services),
            calls: Limit::new("calls", limits.max_calls),
            streams: Limit::new("streams", limits.max_streams),
            inbox: Inbox::new(max_request_bytes),
            call_timeout: limits.call_timeout,
            stopping,
        }))
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, service: S) -> Gated<S> {
        Gated { service, gate: self.0.clone() }
    }
}

/// A service behind a gate.
#[derive(Clone)]
pub struct Gated<S> {
    service: S,
    gate: Arc<Shared>,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let other = self.service.clone();
        // The one that was polled is the one that is ready.
        let service = std::mem::replace(&mut self.service, other);
        let gate = self.gate.clone();
        let Some(method) = gate.methods.find(request.uri().path()) else {
            return Box::pin(async move { Ok(answer(caught_as("call", pass_by(service, request)).await)) });
        };
        // Counted here and not when the call is first run, so that calls which wait for a processor count too.
        let visit = Visit { started: Instant::now(), place: gate.limit(&method).enter(), method };
        Box::pin(async move {
            let (method, started) = (visit.method.clone(), visit.started);
            let response = answer(caught_as("call", gate.pass(service, request, visit)).await);
            if !stream::is_guarded(&response) {
                method.record(status::code(response.headers()), started.elapsed());
            }
            Ok(response)
        })
    }
}

/// A call on its way through the gate.
struct Visit {
    started: Instant,
    place: Result<Permit, Error>,
    method: Arc<Method>,
}

impl Shared {
    fn limit(&self, method: &Method) -> &Arc<Limit> {
        if method.is_stream { &self.streams } else { &self.calls }
    }

    async fn pass<S>(&self, mut service: S, request: Request<Body>, visit: Visit) -> Result<Response<Body>, Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        if self.stopping.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let timeout = deadline::timeout(request.headers())?.filter(|timeout| *timeout < FAR);
        let deadline = visit.started + timeout.map_or(self.call_timeout, |timeout| timeout.min(self.call_timeout));
        let enter = || self.limit(&visit.method).enter();
        let (request, place) = deadline::within(deadline, self.inbox.receive(request, visit.place, enter)).await??;
        let Ok(response) = deadline::within(deadline, service.call(request)).await?;
        if !visit.method.is_stream || status::is_failure(response.headers()) {
            return Ok(response);
        }
        let deadline = timeout.map(|timeout| visit.started + timeout);
        Ok(stream::guard(response, place, deadline, visit.started, visit.method))
    }
}

async fn pass_by<S>(mut service: S, request: Request<Body>) -> Result<Response<Body>, Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let Ok(response) = service.call(request).await;
    Ok(response)
}

async fn caught_as<T>(place: &'static str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| Err(caught(place, panic)))
}

/// What goes back to the caller: every failure with its details.
fn answer(response: Result<Response<Body>, Error>) -> Response<Body> {
    match response {
        Ok(response) => status::complete(response),
        Err(error) => status::refusal(error),
    }
}

#[cfg(test)]
mod tests;
