//! One request from the client to the upstream and back, in nginx's order of events.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use idempotency_filter::testing::kong_reply;
use idempotency_filter::testing::kong_rules::Verdict;
use tokio::sync::{mpsc, oneshot};

use crate::config::{Route, Target};
use crate::server::Worker;
use crate::stream::{get, remove, set, Body, Fields, Stream};
use crate::upstream::{self, NoAnswer};
use crate::uri;

/// The largest piece of a response that a filter is shown at once (`proxy_buffers`).
const PIECE: usize = 8 * 1024;

/// The upstream's body ended before its end; the client's connection is cut.
#[derive(Debug)]
pub struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the upstream's answer ended too early")
    }
}

impl std::error::Error for Cut {}

type Pieces = mpsc::UnboundedReceiver<Result<Frame<Bytes>, Cut>>;

/// The body of an answer to a client: whole pieces, written as fast as it reads (`proxy_buffering
/// on`: a slow client holds nobody up). `None`: an answer that has none.
pub struct ReplyBody(Option<Pieces>);

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut self.0 {
            Some(pieces) => pieces.poll_recv(cx),
            None => std::task::Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// Where the answer to a client goes.
type Client = oneshot::Sender<Response<ReplyBody>>;

/// How a request ended, for the access log.
#[derive(Clone, Copy, Debug)]
struct Ended {
    status: u16,
    /// Whether it passes the log phase of the filters.
    logged: bool,
}

const fn ended(status: u16) -> Ended {
    Ended {
        status,
        logged: true,
    }
}

/// An exchange that is under way.
pub struct Exchange {
    worker: Rc<Worker>,
    id: u32,
    route: Route,
    method: Method,
    target: Bytes,
    /// Lua raises an error when it is asked for the body of an HTTP/2 request without a length.
    can_read_early: bool,
    http2: bool,
}

/// Runs one request to its end, and answers the client on the way.
pub async fn run(worker: Rc<Worker>, request: Request<Incoming>, client: Client) {
    let (parts, body) = request.into_parts();
    let line = format!("{} {}", parts.method, parts.uri);
    let key = parts.headers.get("idempotency-key").cloned();
    let (status, told) = match Exchange::open(&worker, parts) {
        Ok(exchange) => {
            let id = exchange.id;
            let ended = exchange.run(body, client).await;
            let told = worker.vm.close(id, ended.status, ended.logged);
            (ended.status, told)
        }
        Err(status) => {
            error_page(client, status);
            (status, Bytes::new())
        }
    };
    let key = key.as_ref().map_or(&b"-"[..], HeaderValue::as_bytes);
    worker.log_access(&format!(
        "\"{line}\" {status} key={} idempotency={}",
        String::from_utf8_lossy(key),
        String::from_utf8_lossy(&told)
    ));
}

impl Exchange {
    /// Finds the route and opens the stream. `Err`: answered by Kong before any filter ran.
    fn open(worker: &Rc<Worker>, parts: Parts) -> Result<Self, u16> {
        let path = uri::normalise(parts.uri.path().as_bytes()).ok_or(400_u16)?;
        let text = String::from_utf8_lossy(&path);
        let route = worker.config.route(&text).ok_or(404_u16)?.clone();
        if route.target == Target::Nobody {
            return Err(503);
        }
        let target: Bytes = match parts.uri.path_and_query() {
            Some(target) => Bytes::copy_from_slice(target.as_str().as_bytes()),
            None => "/".into(),
        };
        let mut fields = request_fields(&parts);
        if let Some((from, to)) = &route.identity {
            let value = get(&fields, from.as_bytes()).cloned();
            remove(&mut fields, to.as_bytes());
            if let Some(value) = value {
                set(&mut fields, to.as_bytes(), &value);
            }
        }
        let stream = Stream {
            method: Bytes::copy_from_slice(parts.method.as_str().as_bytes()),
            target: target.clone(),
            uri: path.into(),
            args: parts
                .uri
                .query()
                .map(|q| Bytes::copy_from_slice(q.as_bytes())),
            port: worker.config.listen.port(),
            id: worker.request_id(),
            request: fields,
            ..Stream::default()
        };
        Ok(Self {
            id: worker.vm.open(stream),
            worker: worker.clone(),
            route,
            can_read_early: parts.version < Version::HTTP_2
                || parts.headers.contains_key(http::header::CONTENT_LENGTH),
            http2: parts.version >= Version::HTTP_2,
            method: parts.method,
            target,
        })
    }

    async fn run(&self, incoming: Incoming, client: Client) -> Ended {
        let (vm, config) = (&self.worker.vm, &self.worker.config);
        let mut incoming = Some(incoming);
        let mut body = Bytes::new();
        if config.early_bodies && self.can_read_early {
            match read(incoming.take()).await {
                Ok(bytes) => body = bytes,
                Err(ended) => return ended,
            }
            if !body.is_empty() {
                vm.read_early(self.id, self.held(body.clone()));
            }
        }
        if vm.request_headers(self.id).await == Verdict::Replies {
            return self.local_reply(client);
        }
        if let Some(incoming) = incoming {
            match read(Some(incoming)).await {
                Ok(bytes) => body = bytes,
                Err(ended) => return ended,
            }
        }
        if !body.is_empty() {
            let held = self.held(body.clone());
            let verdict = vm.request_body(self.id, held, config.ignore_client_abort);
            if verdict.await == Verdict::Replies {
                return self.local_reply(client);
            }
        }
        self.pass_on(body, client).await
    }

    /// How nginx holds a body of this size.
    fn held(&self, body: Bytes) -> Body {
        if body.len() > self.worker.config.client_body_buffer_size {
            Body::Spilled(body)
        } else {
            Body::Buffered(body)
        }
    }

    /// The filter's own answer. It passes the response callbacks, changed by the host.
    fn local_reply(&self, client: Client) -> Ended {
        let vm = &self.worker.vm;
        let Some(reply) = vm.reply(self.id) else {
            crate::report::broken("the chain stopped without a local reply");
        };
        let mut fields = kong_reply::local_reply(&reply.headers);
        set(&mut fields, b"Server", b"kong-host");
        let (status, mut fields) = vm.response_headers(self.id, reply.status, fields);
        if kong_reply::loses_type(status, self.http2, &reply.reason) {
            remove(&mut fields, b"content-type");
        }
        let bodiless = self.method == Method::HEAD || matches!(status, 204 | 304);
        let mut sent = Bytes::new();
        if !bodiless {
            sent = vm.response_body(self.id, Bytes::new(), true);
            check_length(&fields, sent.len());
        }
        let (pieces, answer) = answer(status, &fields, bodiless);
        let _ = pieces.send(Ok(Frame::data(sent)));
        let _ = client.send(answer);
        ended(status)
    }

    async fn pass_on(&self, body: Bytes, mut client: Client) -> Ended {
        let vm = &self.worker.vm;
        let Target::Address(address) = self.route.target else {
            return ended(503);
        };
        let request = vm
            .request(self.id)
            .and_then(|(method, fields)| upstream::request(&method, &self.target, &fields, body));
        let Some(request) = request else {
            crate::report::broken("the filter left a request that cannot be sent");
        };
        let patience = Duration::from_millis(self.route.read_timeout_ms);
        let tried = if self.worker.config.ignore_client_abort {
            upstream::send(address, patience, request).await
        } else {
            tokio::select! {
                tried = upstream::send(address, patience, request) => tried,
                // The upstream's connection goes with its future.
                () = client.closed() => return ended(499),
            }
        };
        let (told, response) = tried;
        vm.tried(self.id, told);
        match response {
            Ok(response) => self.relay(response, patience, client).await,
            Err(NoAnswer { status }) => {
                error_page(client, status);
                Ended {
                    status,
                    logged: false,
                }
            }
        }
    }

    /// An upstream's answer, piece by piece through the filter to the client.
    async fn relay(
        &self,
        response: Response<Incoming>,
        patience: Duration,
        client: Client,
    ) -> Ended {
        let vm = &self.worker.vm;
        let (parts, mut body) = response.into_parts();
        let fields = response_fields(&parts);
        let status = parts.status.as_u16();
        let length = get(&fields, b"content-length")
            .and_then(|text| std::str::from_utf8(text).ok()?.parse::<u64>().ok());
        let (status, mut fields) = vm.response_headers(self.id, status, fields);
        if kong_reply::loses_type(status, self.http2, "its upstream's") {
            remove(&mut fields, b"content-type");
        }
        let bodiless = self.method == Method::HEAD || matches!(status, 204 | 304);
        let (pieces, answer) = answer(status, &fields, bodiless);
        // A client that has gone is noticed when something is written to it, and over HTTP/2 before.
        let gone = client.send(answer).is_err();
        if gone && self.http2 {
            return ended(status);
        }
        if self.method == Method::HEAD {
            return ended(status);
        }
        let show = |piece: Bytes, last: bool| {
            let mut written = true;
            if let Some(end) = kong_reply::response_piece(length, piece.len(), last) {
                let shown = vm.response_body(self.id, piece, end);
                if !shown.is_empty() {
                    written = pieces.send(Ok(Frame::data(shown))).is_ok();
                }
            }
            written
        };
        loop {
            let frame = match tokio::time::timeout(patience, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => break,
                Ok(Some(Err(_))) | Err(_) => {
                    let _ = pieces.send(Err(Cut));
                    return ended(status);
                }
            };
            // Trailers are not passed on.
            let Ok(mut data) = frame.into_data() else {
                continue;
            };
            while !data.is_empty() {
                let piece = data.split_to(PIECE.min(data.len()));
                if !show(piece, false) {
                    // nginx stops reading the upstream when it cannot write to the client, also
                    // with `proxy_ignore_client_abort on`, which is for the time before.
                    return ended(status);
                }
            }
        }
        show(Bytes::new(), true);
        ended(status)
    }
}

/// The whole body of a request. `Err`: "client prematurely closed connection".
async fn read(incoming: Option<Incoming>) -> Result<Bytes, Ended> {
    let Some(incoming) = incoming else {
        return Ok(Bytes::new());
    };
    let body = incoming.collect().await.map_err(|_| ended(400))?;
    Ok(body.to_bytes())
}

/// The client's headers. Their names are shown as clients of HTTP/1.1 tend to write them: this
/// host does not lower them.
fn request_fields(parts: &Parts) -> Fields {
    let mut fields: Fields = parts
        .headers
        .iter()
        .map(|(name, value)| (written(name), Bytes::copy_from_slice(value.as_bytes())))
        .collect();
    if get(&fields, b"host").is_none() {
        if let Some(authority) = parts.uri.authority() {
            let host = Bytes::copy_from_slice(authority.as_str().as_bytes());
            fields.insert(0, ("Host".into(), host));
        }
    }
    fields
}

fn written(name: &HeaderName) -> Bytes {
    let mut upper = true;
    let letter = |byte: u8| {
        let written = if upper {
            byte.to_ascii_uppercase()
        } else {
            byte
        };
        upper = byte == b'-';
        written
    };
    name.as_str().bytes().map(letter).collect()
}

/// The upstream's headers, without those of its hop. `content-length` stays.
fn response_fields(parts: &http::response::Parts) -> Fields {
    parts
        .headers
        .iter()
        .filter(|(name, _)| {
            *name == http::header::CONTENT_LENGTH || !upstream::is_of_hop(name.as_str().as_bytes())
        })
        .map(|(name, value)| (written(name), Bytes::copy_from_slice(value.as_bytes())))
        .collect()
}

/// An answer and where its pieces go.
fn answer(
    status: u16,
    fields: &Fields,
    bodiless: bool,
) -> (
    mpsc::UnboundedSender<Result<Frame<Bytes>, Cut>>,
    Response<ReplyBody>,
) {
    let (sender, pieces) = mpsc::unbounded_channel();
    let mut answer = Response::new(ReplyBody((!bodiless).then_some(pieces)));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    for (name, value) in fields {
        let field = HeaderName::from_bytes(name)
            .ok()
            .zip(HeaderValue::from_bytes(value).ok());
        let Some((name, value)) = field else {
            crate::report::broken(&format!(
                "a response header that cannot be sent: {:?}",
                String::from_utf8_lossy(name)
            ));
        };
        if !upstream::is_of_hop(name.as_str().as_bytes()) || name == http::header::CONTENT_LENGTH {
            answer.headers_mut().append(name, value);
        }
    }
    (sender, answer)
}

/// nginx writes what it was told, and a body of another length breaks the connection for the next
/// answer on it.
fn check_length(fields: &Fields, sent: usize) {
    let told = get(fields, b"content-length").map(|v| String::from_utf8_lossy(v).into_owned());
    if told.is_some_and(|told| told != sent.to_string()) {
        crate::report::broken(&format!(
            "content-length is not the {sent} bytes that are sent"
        ));
    }
}

/// Kong's own answer. It goes past the filters: nginx forgets them on the way to its error page.
fn error_page(client: Client, status: u16) {
    let text = match status {
        502 => "An invalid response was received from the upstream server",
        504 => "The upstream server is timing out",
        503 => "failure to get a peer from the ring-balancer",
        400 => "Bad request",
        _ => "no Route matched with those values",
    };
    let body: Bytes = serde_json::json!({ "message": text }).to_string().into();
    let fields: Fields = vec![
        (
            "Content-Type".into(),
            "application/json; charset=utf-8".into(),
        ),
        ("Content-Length".into(), body.len().to_string().into()),
    ];
    let (pieces, answer) = answer(status, &fields, false);
    let _ = pieces.send(Ok(Frame::data(body)));
    let _ = client.send(answer);
}
