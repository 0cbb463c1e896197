//! What every call passes before it reaches its service, and what its answer passes on the way back: one tower layer around all routes
//! of a listener.
//!
//! In this order: what the caller has to show ([`Guard`]), a place among the calls or streams at once ([`Limit`]), the caller's
//! deadline, the request read whole, the service, and for streams a guard around what follows. Whatever goes wrong on the way, a panic
//! too, is answered with a status that carries its details. Calls that no service of ours has (health, reflection, what is unknown) ask for no key, and have a limit of their own, of
//! which one connection gets little: however many calls there are, health is answered.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::{Layer, Service};

use super::{
    credential::Guard,
    limit::{Limit, Permit},
    methods::{Method, Methods},
    request::Inbox,
    settings::Limits,
    socket::Peer,
    status, stream,
};
use crate::rpc::{self, Error, caught};

/// tonic watches the caller's deadline, too, and answers CANCELLED without details: it comes so much after ours, which is a tick of
/// tokio's timer.
const TONIC_AFTER: Duration = Duration::from_millis(1);
/// Calls of health and reflection at once, streams among them: all, and those of one connection. A client that follows health has one.
const MAX_PROBES: usize = 32_768;
const MAX_PROBES_OF_ONE: usize = 128;
/// Deadlines further off than this are as good as none.
const FAR: Duration = Duration::from_secs(365 * 86_400);

/// The gate of one listener; clones are the same gate.
#[derive(Clone)]
pub struct Gate(Arc<Shared>);

struct Shared {
    methods: Methods,
    guard: Guard,
    calls: Arc<Limit>,
    streams: Arc<Limit>,
    probes: Arc<Limit>,
    inbox: Inbox,
    call_timeout: Duration,
    stopping: CancellationToken,
}

impl Gate {
    /// A gate before `services`. Refused are callers whom `guard` does not admit, requests of more than `max_request_bytes`, and all
    /// calls once `stopping` is cancelled.
    pub fn new(
        services: &[&str],
        guard: Guard,
        limits: &Limits,
        max_request_bytes: usize,
        stopping: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared {
            methods: Methods::of(services),
            guard,
            calls: Limit::new("calls", limits.max_calls),
            streams: Limit::new("streams", limits.max_streams),
            probes: Limit::new("probes", MAX_PROBES),
            inbox: Inbox::new(max_request_bytes, stopping.clone()),
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
            return Box::pin(async move { Ok(answer(caught_as("call", gate.pass_by(service, request)).await)) });
        };
        // Counted here and not when the call is first run, so that calls which wait for a processor count too.
        let place = gate.guard.admit(request.headers(), request.extensions()).and_then(|()| gate.enter(&method));
        let visit = Visit { started: Instant::now(), place, method };
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
    /// A place for a call. No method takes more of them than it leaves to the others, so that what is answered from memory goes on
    /// while what needs the database waits for it.
    fn enter(&self, method: &Method) -> Result<Permit, Error> {
        if method.is_stream { self.streams.enter() } else { self.calls.enter_fairly(&method.share) }
    }

    async fn pass<S>(&self, mut service: S, request: Request<Body>, visit: Visit) -> Result<Response<Body>, Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        if self.stopping.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let timeout = rpc::timeout(request.headers())?.filter(|timeout| *timeout < FAR);
        let timeout = timeout.map(|timeout| timeout.saturating_sub(TONIC_AFTER));
        let deadline = visit.started + timeout.map_or(self.call_timeout, |timeout| timeout.min(self.call_timeout));
        let enter = || self.enter(&visit.method);
        let (request, place) = rpc::within(deadline, self.inbox.receive(request, visit.place, enter)).await??;
        let Ok(response) = rpc::within(deadline, service.call(request)).await?;
        if !visit.method.is_stream || status::is_failure(response.headers()) {
            return Ok(response);
        }
        let deadline = timeout.map(|timeout| visit.started + timeout);
        Ok(stream::guard(response, place, deadline, visit.started, visit.method))
    }

    async fn pass_by<S>(&self, mut service: S, request: Request<Body>) -> Result<Response<Body>, Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let place = self.probes.enter_up_to(MAX_PROBES_OF_ONE, &Peer::of(request.extensions()).probes)?;
        let deadline = Instant::now() + self.call_timeout;
        let Ok(response) = rpc::within(deadline, service.call(request)).await?;
        Ok(if status::is_failure(response.headers()) {
            response
        } else {
            stream::until(response, place, self.stopping.clone())
        })
    }
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
mod tests {
    use std::future::Ready;

    use clap::Parser;
    use http_body_util::{BodyExt, Empty};
    use tonic::Code;
    use tonic_types::StatusExt;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::edge::credential;

    const UNARY: &str = "/boxoffice.v1.QueueService/GetPosition";
    const STREAM: &str = "/boxoffice.v1.QueueService/WatchPosition";

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        limits: Limits,
    }

    fn limits(flags: &[&str]) -> Limits {
        Flags::parse_from(["boxoffice"].iter().chain(flags)).limits
    }

    fn gate(flags: &[&str]) -> (Gate, CancellationToken) {
        let stopping = CancellationToken::new();
        let services = ["boxoffice.v1.QueueService"];
        (Gate::new(&services, Guard::default(), &limits(flags), 1_000, stopping.clone()), stopping)
    }

    fn request(path: &str) -> Request<Body> {
        Request::builder().uri(path).body(Body::new(Empty::new())).unwrap()
    }

    type Part = Result<http_body::Frame<bytes::Bytes>, tonic::Status>;

    /// A request whose body does not come while the sender lives.
    fn half_sent(path: &str) -> (tokio::sync::mpsc::Sender<Part>, Request<Body>) {
        let (sender, body) = tokio::sync::mpsc::channel::<Part>(1);
        let body = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
        (sender, Request::builder().uri(path).body(Body::new(body)).unwrap())
    }

    /// The status that a call ends with, in its headers or in its trailers.
    async fn end(response: Response<Body>) -> tonic::Status {
        if let Some(status) = tonic::Status::from_header_map(response.headers()) {
            return status;
        }
        let trailers = response.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
        tonic::Status::from_header_map(&trailers).unwrap_or_else(|| tonic::Status::ok(""))
    }

    async fn call<F>(gate: &Gate, path: &str, service: fn(Request<Body>) -> F) -> (Code, String)
    where
        F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
    {
        let Ok(response) = gate.layer(service_fn(service)).oneshot(request(path)).await;
        let status = end(response).await;
        let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
        (status.code(), reason.unwrap_or_default())
    }

    fn fine(_: Request<Body>) -> Ready<Result<Response<Body>, Infallible>> {
        std::future::ready(Ok(Response::default()))
    }

    struct Panics;

    impl http_body::Body for Panics {
        type Data = bytes::Bytes;
        type Error = tonic::Status;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, tonic::Status>>> {
            panic!("planted")
        }
    }

    #[tokio::test]
    async fn a_panic_of_a_call_or_a_stream_is_answered_with_internal() {
        let (gate, _) = gate(&[]);
        for path in [UNARY, STREAM, "/grpc.health.v1.Health/Check"] {
            let answer = call(&gate, path, |_| async { panic!("planted") }).await;
            assert_eq!(answer, (Code::Internal, "INTERNAL".to_owned()), "{path}");
        }
        let answer = call(&gate, STREAM, |_| async { Ok(Response::new(Body::new(Panics))) }).await;
        assert_eq!(answer, (Code::Internal, "INTERNAL".to_owned()));
        assert_eq!(call(&gate, UNARY, fine).await.0, Code::Ok);
    }

    #[tokio::test]
    async fn calls_that_come_while_stopping_are_refused_and_health_is_not() {
        let (gate, stopping) = gate(&[]);
        stopping.cancel();
        assert_eq!(call(&gate, UNARY, fine).await, (Code::Unavailable, "SHUTTING_DOWN".to_owned()));
        assert_eq!(call(&gate, "/grpc.health.v1.Health/Check", fine).await.0, Code::Ok);
    }

    #[tokio::test]
    async fn calls_that_were_not_run_yet_count_and_those_that_wait_for_their_request_do_not() {
        let (gate, _) = gate(&["--max-calls", "4"]);
        let service = || gate.layer(service_fn(fine));
        let waiting: Vec<_> = (0..2).map(|_| service().call(request(UNARY))).collect();
        assert_eq!(call(&gate, UNARY, fine).await, (Code::ResourceExhausted, "OVERLOADED".to_owned()));
        drop(waiting);
        let (_sender, half) = half_sent(UNARY);
        let mut half = service().call(half);
        assert!((&mut half).now_or_never().is_none());
        let _other = service().call(request(UNARY));
        assert_eq!(call(&gate, UNARY, fine).await.0, Code::Ok);
    }

    #[tokio::test]
    async fn strangers_take_no_place() {
        let (key, line) = credential::new_key("shop", false).unwrap();
        let limits = limits(&["--max-calls", "2"]);
        let guard = Guard::of_file(&line).unwrap();
        let gate = Gate::new(&["boxoffice.v1.QueueService"], guard, &limits, 1_000, CancellationToken::new());
        let service = || gate.layer(service_fn(fine));
        let _strangers: Vec<_> = (0..10).map(|_| service().call(request(UNARY))).collect();
        assert_eq!(call(&gate, UNARY, fine).await, (Code::Unauthenticated, "CREDENTIAL_MISSING".to_owned()));
        let (_sender, half) = half_sent(UNARY);
        let Ok(refused) = service().call(half).now_or_never().unwrap();
        assert_eq!(end(refused).await.code(), Code::Unauthenticated);
        let mut known = request(UNARY);
        known.headers_mut().insert(credential::API_KEY_HEADER, key.parse().unwrap());
        let Ok(response) = service().oneshot(known).await;
        assert_eq!(end(response).await.code(), Code::Ok);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_a_deadline_of_its_own_ends_when_the_server_says() {
        let (gate, _) = gate(&["--call-timeout", "5s"]);
        let started = Instant::now();
        let answer = call(&gate, UNARY, |_| std::future::pending()).await;
        assert_eq!(answer, (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned()));
        assert!((5_000..5_100).contains(&started.elapsed().as_millis()));
    }
}
