//! Sends traces to an OpenTelemetry collector. The standard `OTEL_*` variables configure the sending.

use std::{
    env,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::{self, SdkTracerProvider, SpanData},
};
use tonic::transport::{Certificate, ClientTlsConfig};

use crate::{batch::WIDTH, rpc};

/// Sends the spans of this process. `None` means that traces are off.
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Starts to trace calls, if the environment names a collector. Fails with a message for the operator.
    ///
    /// The SDK itself reads the other variables: the variables of the sampler, of the batches and of the exporter.
    pub fn start() -> Result<Self, String> {
        let endpoint = either("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT");
        let is_disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || variable("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter == "none");
        if is_disabled || endpoint.is_none() {
            return Ok(Self(None));
        }
        if let Some((name, protocol)) = either("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
            && protocol != "grpc"
        {
            return Err(format!("{name} is {protocol}, but traces are sent only with gRPC: set it to grpc"));
        }
        let exporter = SpanExporter::builder().with_tonic().with_tls_config(tls()?).build();
        let exporter =
            exporter.map_err(|error| format!("traces cannot be sent: {error}; check OTEL_EXPORTER_OTLP_*"))?;
        let reported = Reported { exporter, fails: AtomicBool::new(false) };
        let mut provider = SdkTracerProvider::builder().with_batch_exporter(reported).with_resource(resource());
        if variable("OTEL_SPAN_LINK_COUNT_LIMIT").is_none() {
            provider = provider.with_max_links_per_span(WIDTH as u32);
        }
        let provider = provider.build();
        rpc::trace::start(provider.tracer(env!("CARGO_PKG_NAME")));
        tracing::info!("calls are traced");
        Ok(Self(Some(provider)))
    }

    /// Sends the remaining spans. Gives up after `limit`.
    pub async fn flush(self, limit: Duration) {
        let Some(provider) = self.0 else { return };
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(limit)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("the collector did not take the last traces in time");
        }
    }
}

/// Returns the value of an environment variable, unless it is empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the name and the value of the variable for traces. If this variable is not set, returns the name and the
/// value of the variable for all signals.
fn either(traces: &'static str, all: &'static str) -> Option<(&'static str, String)> {
    variable(traces).map(|value| (traces, value)).or_else(|| variable(all).map(|value| (all, value)))
}

/// Returns the attributes of this process. The attributes in environment variables take precedence.
fn resource() -> Resource {
    let name = |name: String| KeyValue::new("service.name", name);
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes([
            name(env!("CARGO_PKG_NAME").to_owned()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .with_detector(Box::new(EnvResourceDetector::new()))
        .with_attributes(variable("OTEL_SERVICE_NAME").map(name))
        .build()
}

/// Returns the TLS settings for a collector with an `https` address. Default: the public CAs are trusted.
fn tls() -> Result<ClientTlsConfig, String> {
    let tls = ClientTlsConfig::new();
    match either("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE") {
        None => Ok(tls.with_webpki_roots()),
        Some((name, file)) => match std::fs::read(&file) {
            Ok(ca) => Ok(tls.ca_certificate(Certificate::from_pem(ca))),
            Err(error) => Err(format!("{name} names {file}, which cannot be read: {error}")),
        },
    }
}

/// An exporter that logs only the first failure after a success, and the first success after a failure.
#[derive(Debug)]
struct Reported {
    exporter: SpanExporter,
    fails: AtomicBool,
}

impl trace::SpanExporter for Reported {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(spans).await;
        match (&sent, self.fails.swap(sent.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(%error, "the collector does not take traces; they are dropped until it does");
            }
            (Ok(()), true) => tracing::info!("the collector takes traces again"),
            _ => {}
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
