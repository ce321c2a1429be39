//! Spans by OTLP, when an endpoint is configured. A sampled request gets one span per proxy; its parent is whoever
//! the `traceparent` names, and the next hop's parent is this span.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor as _},
};
use rand::Rng as _;
use reeve_core::{
    UnixTime,
    model::{TracingConfig, WorkloadConfig},
};

use crate::trace::{Root, TraceContext, new_span};

/// Samples are counted out of this many.
const SAMPLING_SCALE: u16 = 10_000;
/// How long the last spans may take to leave when the exporter changes or ends.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Where spans go at present.
#[derive(Debug, Default)]
pub(crate) struct Spans(ArcSwapOption<Export>);

/// One exporter.
#[derive(Debug)]
struct Export {
    config: TracingConfig,
    processor: BatchSpanProcessor,
}

/// A request's span: what is known of it at its start.
#[derive(Debug)]
pub(crate) struct OpenSpan {
    trace: TraceId,
    id: SpanId,
    parent: SpanId,
    export: Arc<Export>,
}

/// What is known at its end.
#[derive(Debug)]
pub(crate) struct SpanEnd {
    pub(crate) name: String,
    pub(crate) inbound: bool,
    pub(crate) started: UnixTime,
    pub(crate) duration: Duration,
    pub(crate) failed: bool,
    pub(crate) attributes: Vec<KeyValue>,
}

impl Spans {
    /// Exports to what `workload` says from now on. Must be called within a tokio runtime.
    pub(crate) fn configure(&self, workload: &WorkloadConfig) {
        let present = self.0.load();
        if present.as_ref().map(|export| &export.config) == workload.tracing.as_ref() {
            return;
        }
        let config = workload.tracing.as_ref();
        let export = config.and_then(|config| Export::open(config, workload));
        let old = self.0.swap(export);
        if let Some(old) = old {
            // The thread ends the exporter once the last open span has gone.
            std::thread::spawn(move || old.close());
        }
    }

    /// Whether a request that carries no decision of its caller is sampled.
    pub(crate) fn sample(&self) -> bool {
        let present = self.0.load();
        let per_10k = present
            .as_ref()
            .map_or(0, |export| export.config.sampling_per_10k);
        per_10k > 0 && rand::rng().random_range(0..SAMPLING_SCALE) < per_10k
    }

    /// Begins the span of a request with this context, and puts the span in the context as the next hop's parent.
    pub(crate) fn begin(&self, context: &mut TraceContext, root: Root) -> Option<OpenSpan> {
        let export = self.0.load_full().filter(|_| context.sampled)?;
        let id = new_span();
        let span = OpenSpan {
            trace: TraceId::from(context.trace),
            parent: match root {
                Root::Yes => SpanId::INVALID,
                Root::No => SpanId::from(context.parent),
            },
            id: SpanId::from(id),
            export,
        };
        context.parent = id;
        Some(span)
    }

    /// Sends what is left.
    pub(crate) fn flush(&self) {
        if let Some(export) = self.0.swap(None) {
            export.close();
        }
    }
}

/// Gathers a span's attributes; what is not known is left out.
#[derive(Debug, Default)]
pub(crate) struct Attributes(pub(crate) Vec<KeyValue>);

impl Attributes {
    /// Notes a text that is not empty.
    pub(crate) fn text(&mut self, name: &'static str, text: &str) {
        if !text.is_empty() {
            self.0.push(KeyValue::new(name, text.to_owned()));
        }
    }

    /// Notes a text that may not be known.
    pub(crate) fn known(&mut self, name: &'static str, text: Option<&str>) {
        self.text(name, text.unwrap_or_default());
    }

    /// Notes a number.
    pub(crate) fn number(&mut self, name: &'static str, number: u64) {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.0.push(KeyValue::new(name, number));
    }
}

impl Export {
    fn open(config: &TracingConfig, workload: &WorkloadConfig) -> Option<Arc<Self>> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(config.otlp_endpoint.clone())
            .build();
        let exporter = match exporter {
            Ok(exporter) => exporter,
            Err(error) => {
                tracing::warn!(%error, endpoint = %config.otlp_endpoint, "no spans are exported");
                return None;
            }
        };
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        let app = workload
            .labels
            .get("app")
            .map_or(workload.workload.as_str(), String::as_str);
        let resource = Resource::builder()
            .with_service_name(format!("{app}.{}", workload.namespace))
            .with_attribute(KeyValue::new(
                "service.instance.id",
                workload.instance.to_string(),
            ))
            .build();
        processor.set_resource(&resource);
        Some(Arc::new(Self {
            config: config.clone(),
            processor,
        }))
    }

    fn close(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::debug!(%error, "the last spans were not exported");
        }
    }
}

impl OpenSpan {
    /// Ends the span; it is exported in the background, or dropped when too many wait.
    pub(crate) fn end(self, end: SpanEnd) {
        let context =
            |id| SpanContext::new(self.trace, id, TraceFlags::SAMPLED, false, TraceState::NONE);
        let start = time(end.started);
        self.export.processor.on_end(SpanData {
            span_context: context(self.id),
            parent_span_id: self.parent,
            parent_span_is_remote: true,
            span_kind: if end.inbound {
                SpanKind::Server
            } else {
                SpanKind::Client
            },
            name: end.name.into(),
            start_time: start,
            end_time: start + end.duration,
            attributes: end.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: if end.failed {
                Status::error("failed")
            } else {
                Status::Unset
            },
            instrumentation_scope: InstrumentationScope::builder("reeve-proxy").build(),
        });
    }
}

fn time(at: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(at.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(sampled: bool) -> TraceContext {
        TraceContext {
            trace: 1,
            parent: 2,
            sampled,
        }
    }

    #[test]
    fn without_an_endpoint_nothing_is_sampled_and_the_context_stays() {
        let spans = Spans::default();
        assert!(!spans.sample());
        let mut given = context(true);
        let before = given;
        assert!(spans.begin(&mut given, Root::No).is_none());
        assert_eq!(given, before);
    }
}
