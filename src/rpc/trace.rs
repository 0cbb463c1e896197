//! Traces: the OpenTelemetry spans of calls and of batches.
//!
//! Without a tracer, a call makes only some atomic reads here. With a tracer, the sampler first decides whether the
//! call is traced. A call that the sampler does not select has no span, no attributes and no trace id in its log lines.
//!
//! A stream is one span until its end, as the OpenTelemetry conventions for RPC require. Health checks and reflection
//! have no span.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, OnceLock},
};

use http::{HeaderMap, Uri};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, Span},
};
use tonic::Code;

/// The tracer of this process. It is empty until [`start`] sets it.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

tokio::task_local! {
    static CURRENT: Traced;
}

/// The ids of a span that is recorded.
pub type Traced = Arc<SpanContext>;

/// A span that is recorded. It ends when it is dropped.
pub struct Recording {
    span: Span,
    ids: Traced,
    /// Adds the trace id to log lines.
    log: tracing::Span,
}

/// Starts to record spans. Calls that have already arrived are not recorded.
pub fn start(tracer: SdkTracer) {
    // A second call would change nothing, and a process makes only one call.
    let _ = TRACER.set(tracer);
}

/// Returns the ids of the span of the current call, if there is one.
pub fn current() -> Option<Traced> {
    TRACER.get()?;
    CURRENT.try_with(Traced::clone).ok()
}

/// Starts the span of a call of `method`, a name like `SERVICE/METHOD`. Returns `None` if the call is not traced.
///
/// The headers may name the caller's span, in the format of W3C Trace Context. Then the new span is part of the
/// caller's trace.
pub fn call(headers: &HeaderMap, uri: &Uri, method: &str) -> Option<Box<Recording>> {
    let tracer = TRACER.get()?;
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
    let unnamed = SpanBuilder { span_kind: Some(SpanKind::Server), ..SpanBuilder::default() };
    let mut span = tracer.build_with_context(unnamed, &parent);
    if !span.is_recording() {
        return None;
    }
    let service = method.split_once('/').map_or(method, |(service, _)| service);
    span.update_name(method.to_owned());
    span.set_attributes([
        KeyValue::new("rpc.system.name", "grpc"),
        KeyValue::new("rpc.method", method.to_owned()),
        // Many trace viewers still read the earlier names of these attributes.
        KeyValue::new("rpc.system", "grpc"),
        KeyValue::new("rpc.service", service.to_owned()),
    ]);
    if let Some(authority) = uri.authority() {
        span.set_attribute(KeyValue::new("server.address", authority.host().to_owned()));
        span.set_attributes(authority.port_u16().map(|port| KeyValue::new("server.port", i64::from(port))));
    }
    let ids = Arc::new(span.span_context().clone());
    let log = tracing::error_span!(parent: None, "call", trace_id = %ids.trace_id());
    Some(Box::new(Recording { span, ids, log }))
}

/// Starts the span of a batch of `size` commands in the lane `lane`. `calls` has the spans of the traced calls of the
/// batch. Returns `None` if there are no traced calls.
///
/// The span links to each of these calls. It is a child of the first call. So the trace of a call that is alone in its
/// batch contains both spans.
pub fn batch(lane: &'static str, size: usize, calls: &[Traced]) -> Option<Box<Recording>> {
    let (tracer, first) = (TRACER.get()?, calls.first()?);
    let links = calls.iter().map(|call| Link::new((**call).clone(), Vec::new(), 0)).collect();
    let attributes = vec![
        KeyValue::new("boxoffice.lane", lane),
        KeyValue::new("boxoffice.batch.size", i64::try_from(size).unwrap_or(i64::MAX)),
    ];
    let builder = SpanBuilder::from_name(format!("batch {lane}")).with_attributes(attributes).with_links(links);
    let span = tracer.build_with_context(builder, &Context::new().with_remote_span_context((**first).clone()));
    let ids = Arc::new(span.span_context().clone());
    let log = tracing::error_span!(parent: None, "batch", trace_id = %ids.trace_id());
    Some(Box::new(Recording { span, ids, log }))
}

impl Recording {
    /// Records the status code of a call, with the code's name. Only codes that are the server's fault make the span an
    /// error.
    pub fn set_code(&mut self, code: Code, name: &'static str) {
        self.span.set_attribute(KeyValue::new("rpc.response.status_code", name));
        // The earlier name of this attribute.
        self.span.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(code as i32)));
        let faults = [
            Code::Unknown,
            Code::DeadlineExceeded,
            Code::Unimplemented,
            Code::Internal,
            Code::Unavailable,
            Code::DataLoss,
        ];
        if faults.contains(&code) {
            self.span.set_attribute(KeyValue::new("error.type", name));
            self.set_failed();
        }
    }

    /// Marks the span as an error.
    pub fn set_failed(&mut self) {
        self.span.set_status(Status::error(""));
    }
}

/// Runs `work` as a part of the span `recording`. If there is no span, only runs `work`.
pub fn enter<T>(recording: Option<&Recording>, work: impl FnOnce() -> T) -> T {
    match recording {
        None => work(),
        Some(Recording { ids, log, .. }) => log.in_scope(|| CURRENT.sync_scope(ids.clone(), work)),
    }
}

/// Runs the future `work` as a part of the span `recording`. If there is no span, only runs `work`.
pub async fn run<F: Future>(recording: Option<&Recording>, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| enter(recording, || work.as_mut().poll(cx))).await
}

/// Lets OpenTelemetry read the headers of a call.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
