//! Spans of traced calls, for an OpenTelemetry collector.
//!
//! A call is traced if its caller says that he keeps his part of the trace: nothing begins here, and nothing is
//! sampled. Spans wait in a queue of so many, are sent by a thread of their own, and those that find the queue
//! full are left out: no call ever waits for the collector.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanLimits,
};
use palisade::{ClusterId, Error, NodeId, TraceContext};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::{Layer, Registry};

use super::trace::{TARGET, TraceParent};

/// Spans that wait to be sent.
const WAITING_MAX: usize = 2048;
/// Spans of one request to the collector.
const BATCH_MAX: usize = 512;
/// How long a span waits for others.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the collector may take for a request, and all that is left once the process ends.
const PATIENCE: Duration = Duration::from_secs(3);

/// The way of a process's spans to its collector.
pub(crate) struct Spans {
    provider: SdkTracerProvider,
}

impl Spans {
    /// To the collector at this address, as spans of this node. It need not be there yet. Only in a runtime.
    pub(crate) fn to(
        collector: SocketAddr,
        cluster: ClusterId,
        node: NodeId,
    ) -> Result<Self, Error> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(format!("http://{collector}"))
            .with_timeout(PATIENCE)
            .build()
            .map_err(|error| Error::InvalidArgument {
                what: format!("spans cannot go to traces.collector={collector}: {error}"),
            })?;
        let bounds = BatchConfigBuilder::default()
            .with_max_queue_size(WAITING_MAX)
            .with_max_export_batch_size(BATCH_MAX)
            .with_scheduled_delay(PAUSE)
            .build();
        let of = Resource::builder_empty().with_service_name("palisade").with_attributes([
            KeyValue::new("service.instance.id", node.to_string()),
            KeyValue::new("service.namespace", cluster.to_string()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ]);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(
                BatchSpanProcessor::builder(exporter).with_batch_config(bounds).build(),
            )
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)))
            .with_span_limits(SpanLimits::default())
            .with_resource(of.build())
            .build();
        Ok(Self { provider })
    }

    /// What hears of spans: of calls and records, and of nothing that is logged in them.
    pub(crate) fn layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("palisade"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|of| of.is_span() && of.target() == TARGET))
            .boxed()
    }

    /// Sends what waits. The process is about to end.
    pub(crate) fn close(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(PATIENCE) {
            tracing::warn!(%error, "the last spans did not reach their collector");
        }
    }
}

/// Makes the span of a call a part of its caller's trace.
pub(super) fn follow(span: &Span, parent: TraceParent<'_>, state: Option<&str>, path: &str) {
    let (Ok(trace), Ok(of)) =
        (TraceId::from_hex(parent.trace_id), SpanId::from_hex(parent.parent_id))
    else {
        return;
    };
    let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let state = state.and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
    let caller = SpanContext::new(trace, of, flags, true, state);
    // Without a collector nobody hears of it.
    if span.set_parent(Context::new().with_remote_span_context(caller)).is_ok() {
        span.record("otel.name", path.trim_start_matches('/'));
        span.record("otel.kind", "server");
        span.set_attribute("rpc.system", "grpc");
    }
}

/// Makes the span of an applied record a part of its caller's trace. His `tracestate` is not stored.
pub(super) fn follow_record(span: &Span, trace: &TraceContext) {
    let (id, of) = (TraceId::from_bytes(trace.trace_id()), SpanId::from_bytes(trace.span_id()));
    let flags = TraceFlags::new(trace.flags());
    let caller = SpanContext::new(id, of, flags, true, TraceState::default());
    if span.set_parent(Context::new().with_remote_span_context(caller)).is_ok() {
        span.record("otel.name", "palisade.apply");
        span.record("otel.kind", "internal");
    }
}
