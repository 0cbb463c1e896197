//! The gate of a listener: the tower layers between the connections and the services.

mod answers;
mod call;
mod callers;
mod deadlines;
mod durations;
mod inbox;
mod outbox;
mod permits;
mod probes;
mod shutdown;

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::future::Either;
use http::{Request, header::AUTHORIZATION};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::{Service, ServiceBuilder, service_fn};
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;

pub use callers::CallerCheck;

use call::{Call, Responds};
use permits::Permits;
use probes::Probes;

use super::{
    credential::{API_KEY_HEADER, Group},
    methods::Methods,
    settings::Limits,
};

/// The layers of one listener, with the limits that its connections share.
#[derive(Clone)]
pub struct Gate {
    methods: Arc<Methods>,
    caller_check: CallerCheck,
    permits: Arc<Permits>,
    probes: Arc<Probes>,
    call_timeout: Duration,
    max_request_bytes: usize,
    stopping: Arc<CancellationToken>,
}

impl Gate {
    /// Returns a gate for `services`, given by their full names and their groups. The gate refuses a call of `services`
    /// if the caller fails `caller_check` or the request is larger than `max_request_bytes`. After `stopping` is
    /// cancelled, the gate refuses all calls of `services`. Health and reflection have other rules: see `probes.rs`.
    pub fn new(
        services: &[(&str, Group)],
        caller_check: CallerCheck,
        limits: &Limits,
        max_request_bytes: usize,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            methods: Arc::new(Methods::of(services)),
            caller_check,
            permits: Arc::new(Permits::new(limits, max_request_bytes, stopping.clone())),
            probes: Arc::new(Probes::new(limits.call_timeout, stopping.clone())),
            call_timeout: limits.call_timeout,
            max_request_bytes,
            stopping: Arc::new(stopping),
        }
    }

    /// Wraps `routes` in the layers of the gate.
    pub fn around<S>(&self, routes: S) -> impl Responds<Request<Body>, Infallible> + use<S>
    where
        S: Responds<Request<Body>, Infallible>,
    {
        let mut calls = ServiceBuilder::new()
            .layer(durations::layer())
            .layer(answers::layer())
            .layer(shutdown::layer(self.stopping.clone()))
            .layer(deadlines::layer(self.call_timeout))
            .layer(callers::layer(self.caller_check.clone(), self.max_request_bytes))
            .layer(permits::layer(self.permits.clone()))
            .service(routes.clone());
        let mut probes =
            ServiceBuilder::new().layer(answers::layer()).layer(probes::layer(self.probes.clone())).service(routes);
        let methods = self.methods.clone();
        let routed = service_fn(move |request: Request<Body>| match methods.find(request.uri().path()) {
            Some(method) => Either::Left(calls.call(Call { request, method, start: Instant::now() })),
            None => Either::Right(probes.call(request)),
        });
        // These headers hold secrets. The layer changes their `Debug` output to `Sensitive`.
        ServiceBuilder::new()
            .layer(SetSensitiveRequestHeadersLayer::new([AUTHORIZATION, API_KEY_HEADER]))
            .service(routed)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Ready,
        task::{Context, Poll},
    };

    use clap::Parser;
    use futures::FutureExt;
    use http::Response;
    use http_body_util::{BodyExt, Empty};
    use tonic::Code;
    use tonic_types::StatusExt;
    use tower::ServiceExt;

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
        let services = [("boxoffice.v1.QueueService", Group::Public)];
        (Gate::new(&services, CallerCheck::default(), &limits(flags), 1_000, stopping.clone()), stopping)
    }

    fn request(path: &str) -> Request<Body> {
        Request::builder().uri(path).body(Body::new(Empty::new())).unwrap()
    }

    type Part = Result<http_body::Frame<bytes::Bytes>, tonic::Status>;

    /// Returns a request whose body arrives only when the sender is dropped.
    fn half_sent(path: &str) -> (tokio::sync::mpsc::Sender<Part>, Request<Body>) {
        let (sender, body) = tokio::sync::mpsc::channel::<Part>(1);
        let body = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
        (sender, Request::builder().uri(path).body(Body::new(body)).unwrap())
    }

    /// Returns the status of a call, from its headers or its trailers.
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
        let Ok(response) = gate.around(service_fn(service)).oneshot(request(path)).await;
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
    async fn calls_that_arrive_while_the_server_stops_are_refused_and_health_is_not() {
        let (gate, stopping) = gate(&[]);
        stopping.cancel();
        assert_eq!(call(&gate, UNARY, fine).await, (Code::Unavailable, "SHUTTING_DOWN".to_owned()));
        assert_eq!(call(&gate, "/grpc.health.v1.Health/Check", fine).await.0, Code::Ok);
    }

    #[tokio::test]
    async fn calls_that_were_not_polled_yet_hold_a_permit_and_calls_that_wait_for_their_request_do_not() {
        let (gate, _) = gate(&["--max-calls", "4"]);
        let service = || gate.around(service_fn(fine));
        let waiting: Vec<_> = (0..2).map(|_| service().call(request(UNARY))).collect();
        assert_eq!(call(&gate, UNARY, fine).await, (Code::ResourceExhausted, "OVERLOADED".to_owned()));
        drop(waiting);
        let (_sender, half) = half_sent(UNARY);
        let mut half = Box::pin(service().call(half));
        assert!((&mut half).now_or_never().is_none());
        let _other = service().call(request(UNARY));
        assert_eq!(call(&gate, UNARY, fine).await.0, Code::Ok);
    }

    #[tokio::test]
    async fn callers_without_a_credential_take_no_permit() {
        let (key, line) = credential::new_key("shop", credential::Right::Public).unwrap();
        let limits = limits(&["--max-calls", "2"]);
        let check = CallerCheck::of_file(&line).unwrap();
        let services = [("boxoffice.v1.QueueService", Group::Public)];
        let gate = Gate::new(&services, check, &limits, 1_000, CancellationToken::new());
        let service = || gate.around(service_fn(fine));
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

    #[tokio::test]
    async fn the_future_of_a_call_is_small() {
        let (gate, _) = gate(&[]);
        let small = std::mem::size_of_val(&gate.around(service_fn(fine)).call(request(UNARY)));
        assert!(small <= 512, "the libraries outside of the gate move this future of {small} bytes several times");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_a_deadline_ends_after_the_servers_call_timeout() {
        let (gate, _) = gate(&["--call-timeout", "5s"]);
        let started = Instant::now();
        let answer = call(&gate, UNARY, |_| std::future::pending()).await;
        assert_eq!(answer, (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned()));
        assert!((5_000..5_100).contains(&started.elapsed().as_millis()));
    }

    #[tokio::test]
    async fn secrets_are_not_printed_with_a_request() {
        let print = async |request: Request<Body>| {
            let printed = format!("{request:?}");
            Ok::<_, Infallible>(Response::builder().header("printed", printed).body(Body::empty()).unwrap())
        };
        let (gate, _) = gate(&[]);
        let mut request = request(UNARY);
        request.headers_mut().insert("authorization", "Bearer t0ken".parse().unwrap());
        request.headers_mut().insert("x-api-key", "k3y".parse().unwrap());
        let Ok(response) = gate.around(service_fn(print)).oneshot(request).await;
        let printed = response.headers()["printed"].to_str().unwrap();
        assert!(printed.contains("Sensitive") && !printed.contains("t0ken") && !printed.contains("k3y"), "{printed}");
    }
}
