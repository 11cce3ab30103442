//! A collector of traces: takes what OpenTelemetry's exporters send (OTLP over HTTP, protobuf), and keeps it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use idempotency_e2e::eventually;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{any_value, KeyValue};
use prost::Message;

/// A span as it came.
#[derive(Clone, Debug)]
pub struct Span {
    /// Who says that it made it.
    pub service: String,
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty: none.
    pub parent: String,
    /// Traces and spans.
    pub links: Vec<(String, String)>,
    pub attributes: BTreeMap<String, String>,
    pub failed: bool,
    start_ns: u64,
    end_ns: u64,
}

impl Span {
    /// An attribute of ours.
    pub fn attribute(&self, name: &str) -> &str {
        let name = format!("idempotency.{name}");
        self.attributes.get(&name).map_or("", String::as_str)
    }

    /// Whether it lies inside the other one, as far as clocks of one machine tell.
    pub fn is_within(&self, outer: &Span) -> bool {
        outer.start_ns <= self.start_ns
            && self.start_ns <= self.end_ns
            && self.end_ns <= outer.end_ns
    }
}

/// A running collector; it ends with the program.
pub struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    pub fn start() -> Collector {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let spans = Arc::new(Mutex::new(Vec::new()));
        let kept = spans.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(serve(listener, kept));
        });
        Collector { address, spans }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has come of one trace, in the order of time.
    pub fn trace(&self, id: &str) -> Vec<Span> {
        let mut spans: Vec<_> = self.all();
        spans.retain(|span| span.trace == id);
        spans.sort_by_key(|span| (span.start_ns, std::cmp::Reverse(span.end_ns)));
        spans
    }

    pub fn all(&self) -> Vec<Span> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.clone()
    }

    /// A trace, once it has so many spans. More that come later than these are not waited for.
    pub fn whole(&self, id: &str, count: usize) -> Vec<Span> {
        eventually(&format!("{count} spans of {id}"), || {
            self.trace(id).len() >= count
        });
        self.trace(id)
    }

    /// A trace as a text: a line for each span, below the one that caused it.
    pub fn draw(&self, id: &str) -> String {
        let spans = self.trace(id);
        let start = spans.first().map_or(0, |span| span.start_ns);
        let mut text = format!("trace {id}\n");
        let is_root = |span: &Span| !spans.iter().any(|other| other.id == span.parent);
        for root in spans.iter().filter(|span| is_root(span)) {
            draw(root, &spans, 0, start, &mut text);
        }
        text
    }
}

fn draw(span: &Span, spans: &[Span], depth: usize, start: u64, text: &mut String) {
    let ms = |ns: u64| ns as f64 / 1e6;
    let begins = ms(span.start_ns - start);
    let takes = ms(span.end_ns.saturating_sub(span.start_ns));
    let name = format!("{}{} · {}", "  ".repeat(depth + 1), span.service, span.name);
    let mut facts = String::new();
    for fact in ["answer", "fence", "attempt"] {
        let value = span.attribute(fact);
        if !value.is_empty() && fact != "operation" {
            let _ = write!(facts, " {fact}={value}");
        }
    }
    for (trace, id) in &span.links {
        let _ = write!(facts, " → {trace}/{id}");
    }
    let _ = writeln!(
        text,
        "{name:<52} {:>16} +{begins:.1} ms {takes:.1} ms{facts}",
        span.id
    );
    for child in spans.iter().filter(|child| child.parent == span.id) {
        draw(child, spans, depth + 1, start, text);
    }
}

async fn serve(listener: std::net::TcpListener, spans: Arc<Mutex<Vec<Span>>>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    while let Ok((stream, _)) = listener.accept().await {
        let spans = spans.clone();
        let service = service_fn(move |request| take(request, spans.clone()));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn take(
    request: Request<Incoming>,
    spans: Arc<Mutex<Vec<Span>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let right = request.uri().path() == "/v1/traces"
        && request
            .headers()
            .get("content-type")
            .is_some_and(|kind| kind == "application/x-protobuf");
    let body = request.into_body().collect().await.map(|b| b.to_bytes());
    let message = body.ok().filter(|_| right);
    let message = message.and_then(|body| ExportTraceServiceRequest::decode(body).ok());
    let Some(message) = message else {
        let mut refused = Response::new(Full::default());
        *refused.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(refused);
    };
    let read = read(message);
    spans
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend(read);
    let taken = ExportTraceServiceResponse::default().encode_to_vec();
    let mut answer = Response::new(Full::from(taken));
    let kind = http::HeaderValue::from_static("application/x-protobuf");
    answer.headers_mut().insert("content-type", kind);
    Ok(answer)
}

fn read(message: ExportTraceServiceRequest) -> Vec<Span> {
    let mut read = Vec::new();
    for resource in message.resource_spans {
        let of_resource = resource.resource.map(|r| attributes(&r.attributes));
        let service = of_resource.and_then(|mut all| all.remove("service.name"));
        let service = service.unwrap_or_default();
        for span in resource.scope_spans.into_iter().flat_map(|s| s.spans) {
            let links = span.links.iter();
            read.push(Span {
                service: service.clone(),
                links: links
                    .map(|l| (hex::encode(&l.trace_id), hex::encode(&l.span_id)))
                    .collect(),
                attributes: attributes(&span.attributes),
                failed: span.status.is_some_and(|status| status.code == 2),
                name: span.name,
                trace: hex::encode(&span.trace_id),
                id: hex::encode(&span.span_id),
                parent: hex::encode(&span.parent_span_id),
                start_ns: span.start_time_unix_nano,
                end_ns: span.end_time_unix_nano,
            });
        }
    }
    read
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: any_value::Value| match value {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::BoolValue(is) => is.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = pairs.iter().map(|pair| {
        let value = pair.value.clone().and_then(|value| value.value);
        (pair.key.clone(), value.map(text).unwrap_or_default())
    });
    pairs.collect()
}
