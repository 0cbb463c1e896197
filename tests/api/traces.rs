//! Tests the traces that a collector receives from the server.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use boxoffice::rpc::proto;
use futures::{StreamExt, TryStreamExt, stream};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use parking_lot::Mutex;
use sea_orm::ConnectionTrait;
use testkit::{ServerProcess, catalogue, net, process::Signal, wallet};
use tokio::net::TcpListener;
use tonic::{
    Code, Request, Response, Status,
    codec::CompressionEncoding,
    transport::{Channel, Server, server::TcpIncoming},
};
use uuid::Uuid;

use crate::{
    harness::{Caller, Engine, FreshDatabase, World, connect, eventually, on_both_engines},
    running,
};

on_both_engines!(
    a_call_is_a_span_of_the_callers_trace_and_its_batch_links_to_it,
    log_lines_of_a_call_carry_its_trace_id,
);

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT_ID: &str = "00f067aa0ba902b7";
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The requests that a collector received.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts a collector. Returns the collector and its address.
    async fn start() -> (Self, String) {
        let (collector, listener) = (Self::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(collector.clone()).accept_compressed(CompressionEncoding::Gzip);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)));
        (collector, endpoint)
    }

    fn spans(&self) -> Vec<Span> {
        let resources = self.0.lock().iter().flat_map(|request| request.resource_spans.clone()).collect::<Vec<_>>();
        let scopes = resources.into_iter().flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// Returns the only span with this name.
    #[track_caller]
    fn span(&self, name: &str) -> Span {
        let named = self.spans().into_iter().filter(|span| span.name == name).collect::<Vec<_>>();
        let [span] = &named[..] else { panic!("{} spans {name}", named.len()) };
        span.clone()
    }
}

/// Starts the binary with these environment variables.
async fn serve(url: &str, variables: &[(&str, &str)]) -> ServerProcess {
    let mut command = running::binary(url);
    command.envs(variables.iter().copied());
    let mut process =
        ServerProcess::start(command, ["--lame-duck", "0s", "--drain-timeout", "3s"]).await.expect("the binary");
    process.ready().await.expect("ready");
    process
}

/// Opens a wallet, as a part of the trace that `traceparent` names.
async fn open_wallet(channel: &Channel, user_id: Uuid, traceparent: &str) -> Result<(), Status> {
    let mut request = Request::new(proto::OpenWalletRequest { user_id: user_id.to_string() });
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    request.metadata_mut().insert("tracestate", "shop=1".parse().unwrap());
    proto::wallet_service_client::WalletServiceClient::new(channel.clone()).open_wallet(request).await.map(drop)
}

fn from_caller(flags: &str) -> String {
    format!("00-{TRACE_ID}-{PARENT_ID}-{flags}")
}

fn texts(attributes: &[KeyValue]) -> HashMap<&str, String> {
    let text = |attribute: &KeyValue| match attribute.value.clone().and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.as_str(), text(attribute))).collect()
}

fn status(span: &Span) -> StatusCode {
    span.status.clone().unwrap_or_default().code()
}

async fn a_call_is_a_span_of_the_callers_trace_and_its_batch_links_to_it(world: World) {
    let database = FreshDatabase::new(world.engine).await;
    let (collector, endpoint) = Collector::start().await;
    let variables = [(ENDPOINT, &*endpoint), ("OTEL_SERVICE_NAME", "seats"), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    let mut process = serve(&database.url, &variables).await;
    let (channel, admin) = (connect(process.address).await, connect(process.admin_address).await);
    let user_id = Uuid::now_v7();
    open_wallet(&channel, user_id, &from_caller("01")).await.unwrap();
    wallet::balance(&channel, user_id).await.unwrap();
    assert_eq!(wallet::charge(&channel, Uuid::now_v7(), 1, "").await.unwrap_err().code(), Code::NotFound);
    catalogue::create_concert(&admin, "IU", |_| ()).await.unwrap();
    let caller = Caller::join(channel, "IU", user_id).await.unwrap();
    let mut watched = caller.watch().await.unwrap();
    watched.message().await.unwrap().unwrap();
    drop((watched, caller));
    // A server that stops ends an open stream with another code.
    let has_ended = async || collector.spans().iter().any(|span| span.name.ends_with("WatchPosition"));
    eventually("the stream has ended", has_ended).await;
    running::stop(&mut process).await;

    let call = collector.span("boxoffice.v1.WalletService/OpenWallet");
    assert_eq!((hex::encode(&call.trace_id), hex::encode(&call.parent_span_id)), (TRACE_ID.into(), PARENT_ID.into()));
    assert_eq!(
        (call.kind(), call.trace_state.as_str(), status(&call)),
        (SpanKind::Server, "shop=1", StatusCode::Unset)
    );
    assert!(call.start_time_unix_nano < call.end_time_unix_nano);
    let port = process.address.port().to_string();
    let expected = [
        ("rpc.system.name", "grpc"),
        ("rpc.method", "boxoffice.v1.WalletService/OpenWallet"),
        ("rpc.response.status_code", "OK"),
        ("rpc.system", "grpc"),
        ("rpc.service", "boxoffice.v1.WalletService"),
        ("rpc.grpc.status_code", "0"),
        ("server.address", "127.0.0.1"),
        ("server.port", &port),
    ];
    assert_eq!(texts(&call.attributes), expected.map(|(name, value)| (name, value.to_owned())).into());

    let batch = collector.span("batch wallet.open");
    assert_eq!((&batch.trace_id, &batch.parent_span_id), (&call.trace_id, &call.span_id));
    assert_eq!((&batch.links[0].trace_id, &batch.links[0].span_id), (&call.trace_id, &call.span_id));
    assert_eq!((batch.links.len(), batch.kind()), (1, SpanKind::Internal));
    let size = [("boxoffice.lane", "wallet.open".to_owned()), ("boxoffice.batch.size", "1".to_owned())];
    assert_eq!(texts(&batch.attributes), size.into());

    let refused = collector.span("boxoffice.v1.WalletService/ChargeWallet");
    assert_eq!(texts(&refused.attributes)["rpc.response.status_code"], "NOT_FOUND");
    assert_eq!((status(&refused), refused.parent_span_id.len()), (StatusCode::Unset, 0));
    let stream = collector.span("boxoffice.v1.QueueService/WatchPosition");
    assert_eq!(texts(&stream.attributes)["rpc.response.status_code"], "CANCELLED");
    collector.span("boxoffice.v1.AdminService/CreateConcert");
    let resource = collector.0.lock()[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(texts(&resource.attributes)["service.name"], "seats");
}

async fn log_lines_of_a_call_carry_its_trace_id(world: World) {
    let database = FreshDatabase::new(world.engine).await;
    let (collector, endpoint) = Collector::start().await;
    let traces = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    let quiet = ("BOXOFFICE_LOG", "boxoffice::rpc=error,boxoffice::app=info");
    let mut process =
        serve(&database.url, &[(traces, &endpoint), ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"), quiet]).await;
    let channel = connect(process.address).await;
    let db = sea_orm::Database::connect(&database.url).await.unwrap();
    db.execute_unprepared("ALTER TABLE wallet RENAME TO hidden").await.unwrap();
    let failed = open_wallet(&channel, Uuid::now_v7(), &from_caller("01")).await;
    assert_eq!(failed.unwrap_err().code(), Code::Internal);
    running::stop(&mut process).await;
    let lines = process.log_lines();
    let line = lines.iter().find(|line| line.contains("internal error in a call")).expect("a line");
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["span"]["name"], &line["span"]["trace_id"]), (&"call".into(), &TRACE_ID.into()));
    let span = collector.span("boxoffice.v1.WalletService/OpenWallet");
    assert_eq!((status(&span), texts(&span.attributes)["error.type"].as_str()), (StatusCode::Error, "INTERNAL"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_linked_by_exactly_one_batch() {
    let database = FreshDatabase::new(Engine::Sqlite).await;
    let (collector, endpoint) = Collector::start().await;
    let mut process = serve(&database.url, &[(ENDPOINT, &endpoint)]).await;
    let channel = connect(process.address).await;
    let calls = (0..200).map(|_| wallet::open(&channel, Uuid::now_v7()));
    futures::future::try_join_all(calls).await.unwrap();
    running::stop(&mut process).await;
    let (batches, calls): (Vec<_>, Vec<_>) =
        collector.spans().into_iter().partition(|span| span.name == "batch wallet.open");
    let mut linked = batches.iter().flat_map(|batch| &batch.links).map(|link| link.span_id.clone()).collect::<Vec<_>>();
    let mut called = calls.iter().map(|call| call.span_id.clone()).collect::<Vec<_>>();
    linked.sort();
    called.sort();
    assert_eq!((called.len(), linked == called), (200, true));
    let sizes = batches.iter().map(|batch| texts(&batch.attributes)["boxoffice.batch.size"].parse::<usize>().unwrap());
    assert_eq!(sizes.sum::<usize>(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sampler_decides_which_calls_are_traced() {
    let database = FreshDatabase::new(Engine::Sqlite).await;
    let (collector, endpoint) = Collector::start().await;
    let sampler = [("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0")];
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test");
    let mut process = serve(&database.url, &[(ENDPOINT, endpoint.as_str()), attributes, sampler[0], sampler[1]]).await;
    let channel = connect(process.address).await;
    for traceparent in [&from_caller("01"), &from_caller("00"), "nonsense", ""] {
        open_wallet(&channel, Uuid::now_v7(), traceparent).await.unwrap();
    }
    running::stop(&mut process).await;
    // One call and its batch.
    assert_eq!(collector.spans().len(), 2);
    let call = collector.span("boxoffice.v1.WalletService/OpenWallet");
    assert_eq!(hex::encode(call.parent_span_id), PARENT_ID);
    let resource = collector.0.lock()[0].resource_spans[0].resource.clone().unwrap();
    let resource = texts(&resource.attributes);
    assert_eq!((&*resource["service.name"], &*resource["deployment.environment.name"]), ("boxoffice", "test"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_unless_the_environment_names_a_collector_and_does_not_disable_it() {
    let (collector, endpoint) = Collector::start().await;
    for variables in [
        &[(ENDPOINT, endpoint.as_str()), ("OTEL_SDK_DISABLED", "True")][..],
        &[(ENDPOINT, &endpoint), ("OTEL_TRACES_EXPORTER", "none")],
        &[(ENDPOINT, ""), ("OTEL_SERVICE_NAME", "seats")],
    ] {
        let database = FreshDatabase::new(Engine::Sqlite).await;
        let mut process = serve(&database.url, variables).await;
        let channel = connect(process.address).await;
        open_wallet(&channel, Uuid::now_v7(), &from_caller("01")).await.unwrap();
        running::stop(&mut process).await;
        assert!(!process.log_lines().join("\n").contains("traced"), "{variables:?}");
    }
    assert_eq!(collector.spans().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_that_the_collector_is_sent_is_not_logged() {
    let database = FreshDatabase::new(Engine::Sqlite).await;
    let (collector, endpoint) = Collector::start().await;
    let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=opensesame-4711");
    let mut process = serve(&database.url, &[(ENDPOINT, endpoint.as_str()), headers, ("BOXOFFICE_LOG", "trace")]).await;
    wallet::open(&connect(process.address).await, Uuid::now_v7()).await.unwrap();
    running::stop(&mut process).await;
    collector.span("boxoffice.v1.WalletService/OpenWallet");
    let log = process.log_lines().join("\n");
    assert!(log.contains("TRACE") && !log.contains("opensesame"), "the secret was logged");
}

/// Makes calls and stops the server. Returns the duration of the calls, the duration of the shutdown, and the log.
async fn calls_with_a_collector_at(endpoint: &str) -> (Duration, Duration, String) {
    let database = FreshDatabase::new(Engine::Sqlite).await;
    let mut process = serve(&database.url, &[(ENDPOINT, endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "50")]).await;
    let channel = connect(process.address).await;
    let user_id = wallet::open_new(&channel, 0).await.unwrap();
    let started = Instant::now();
    // These calls have more spans than the queue of unsent spans can hold.
    let calls = (0..4_000).map(|_| wallet::balance(&channel, user_id));
    stream::iter(calls).buffer_unordered(200).try_collect::<Vec<_>>().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    wallet::balance(&channel, user_id).await.unwrap();
    let (called, stopping) = (started.elapsed(), Instant::now());
    process.signal(Signal::SIGTERM);
    assert!(process.ended(Duration::from_secs(60)).await.expect("its end").success());
    (called, stopping.elapsed(), process.log_lines().join("\n"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_or_hangs_neither_fails_calls_nor_delays_the_end_beyond_the_drain_timeout() {
    let nobody = net::free_address().unwrap();
    // This collector accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for address in [nobody, silent.local_addr().unwrap()] {
        let (called, stopped, log) = calls_with_a_collector_at(&format!("http://{address}")).await;
        assert!(called < Duration::from_secs(20), "{called:?} of calls with {address}");
        assert!(stopped < Duration::from_secs(6), "{stopped:?} to stop with {address}");
        let complaints = log.matches("the collector does not take traces").count();
        assert!(complaints <= 1 && log.contains("collector"), "{log}");
    }
    drop(silent);
}

#[test]
fn a_setting_of_the_exporter_that_cannot_work_is_refused_with_a_sentence() {
    for (name, value, said) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "set it to grpc"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere", "cannot be read"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", ""),
    ] {
        let mut command = running::binary("sqlite::memory:");
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.env(ENDPOINT, "not an address").env(name, value);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("OTEL_EXPORTER_OTLP") && text.contains(said), "{text}");
    }
}
