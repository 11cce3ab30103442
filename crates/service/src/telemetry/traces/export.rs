//! How spans leave: a bounded queue, and one task that sends what has gathered. A collector that is slow or away
//! costs spans, which are counted, and never a request.

use crate::config::TraceTarget;
use crate::telemetry::metrics::Register;
use crate::telemetry::repeats::Repeats;
use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::KeyValue;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    Protocol, SpanExporter, WithExportConfig, WithHttpConfig, OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT,
};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use opentelemetry_sdk::Resource;
use prometheus::IntCounter;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Most spans that wait to be sent; about 1 KiB each.
const MAX_WAITING: usize = 8_192;
/// Most spans of one message.
const MAX_BATCH: usize = 512;
/// How long a span waits for others.
const PAUSE: Duration = Duration::from_secs(1);
/// The name that the program has in traces, unless `OTEL_SERVICE_NAME` says another one.
const SERVICE: &str = "idempotencyd";

/// What became of spans.
#[derive(Clone)]
pub(super) struct Counts {
    exported: IntCounter,
    failed: IntCounter,
    dropped: IntCounter,
}

impl Counts {
    pub(super) fn new(make: &Register<'_>) -> Counts {
        let help = "Spans by what became of them: exported, failed (the collector did not take them), dropped (too many waited).";
        let of = make.counters("trace_spans_total", help, &["result"]);
        Counts {
            exported: of.with_label_values(&["exported"]),
            failed: of.with_label_values(&["failed"]),
            dropped: of.with_label_values(&["dropped"]),
        }
    }
}

/// Where spans are put.
pub(super) struct Queue {
    waiting: mpsc::Sender<SpanData>,
    counts: Counts,
    full: Repeats,
}

impl Queue {
    /// A queue, and what sends its spans; that ends when the queue is gone and all is sent.
    pub(super) fn new(
        target: &TraceTarget,
        counts: Counts,
    ) -> Result<(Queue, impl std::future::Future<Output = ()>), String> {
        let collector = Arc::new(Collector {
            client: HyperClient::with_default_connector(OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, None),
            refused: Mutex::default(),
        });
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collected(collector.clone()))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&target.endpoint)
            .build()
            .map_err(|error| error.to_string())?;
        exporter.set_resource(&resource());
        let (waiting, spans) = mpsc::channel(MAX_WAITING);
        let endpoint = target.endpoint.clone();
        let sending = send(spans, exporter, collector, endpoint, counts.clone());
        let queue = Queue {
            waiting,
            counts,
            full: Repeats::default(),
        };
        Ok((queue, sending))
    }

    /// Takes a span, if there is room.
    pub(super) fn put(&self, span: SpanData) {
        if self.waiting.try_send(span).is_err() {
            self.counts.dropped.inc();
            if let Some(unsaid) = self.full.say("full") {
                let most = MAX_WAITING;
                tracing::warn!(
                    most,
                    unsaid,
                    "spans dropped: too many wait for the collector"
                );
            }
        }
    }
}

async fn send(
    mut spans: mpsc::Receiver<SpanData>,
    exporter: SpanExporter,
    collector: Arc<Collector>,
    endpoint: String,
    counts: Counts,
) {
    let failures = Repeats::default();
    let mut batch = Vec::new();
    while let Some(first) = spans.recv().await {
        batch.push(first);
        let pause = tokio::time::sleep(PAUSE);
        tokio::pin!(pause);
        while batch.len() < MAX_BATCH {
            tokio::select! {
                () = &mut pause => break,
                more = spans.recv() => match more {
                    Some(span) => batch.push(span),
                    None => break,
                },
            }
        }
        let count = batch.len() as u64;
        match exporter.export(std::mem::take(&mut batch)).await {
            Ok(()) => counts.exported.inc_by(count),
            Err(error) => {
                counts.failed.inc_by(count);
                let why = collector.refused().unwrap_or_else(|| error.to_string());
                if let Some(unsaid) = failures.say(&why) {
                    tracing::warn!(%endpoint, error = %why, spans = count, unsaid, "spans not exported");
                }
            }
        }
    }
}

fn resource() -> Resource {
    let found = Resource::builder().build();
    let name = opentelemetry::Key::from_static_str("service.name");
    let unnamed = found
        .get(&name)
        .is_none_or(|name| name.as_str().starts_with("unknown_service"));
    let mut builder = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if unnamed {
        builder = builder.with_service_name(SERVICE);
    }
    builder.build()
}

/// The collector, as the exporter calls it. It keeps why a call failed, which the exporter does not tell.
#[derive(Debug)]
struct Collector {
    client: HyperClient,
    refused: Mutex<Option<String>>,
}

impl Collector {
    fn refused(&self) -> Option<String> {
        self.last().take()
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Collected(Arc<Collector>);

#[async_trait]
impl HttpClient for Collected {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.0.client.send_bytes(request).await;
        *self.0.last() = match &answer {
            Ok(_) => None,
            Err(error) => Some(whole(error.as_ref())),
        };
        answer
    }
}

/// An error with its causes.
fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
