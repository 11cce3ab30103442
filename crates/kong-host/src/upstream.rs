//! The hop to the upstream: one try, a connection of its own, the request's body as a whole.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::stream::{Fields, Upstream};

/// Why there is no answer of an upstream; nginx makes one itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer {
    /// 502 or 504.
    pub status: u16,
}

/// The largest head of an answer (`proxy_buffer_size`): a larger one is nginx's own 502.
const HEAD: usize = 4 * 1024;

/// Fields that belong to a hop.
const HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "content-length",
];

/// Whether a field belongs to a hop, and is not passed on.
pub fn is_of_hop(name: &[u8]) -> bool {
    HOP.iter()
        .any(|hop| name.eq_ignore_ascii_case(hop.as_bytes()))
}

/// Sends the request and waits for the head of its answer.
pub async fn send(
    address: SocketAddr,
    patience: Duration,
    request: Request<Full<Bytes>>,
) -> (Upstream, Result<Response<Incoming>, NoAnswer>) {
    let began = Instant::now();
    let mut told = Upstream {
        address: address.to_string(),
        ..Upstream::default()
    };
    let answer = attempt(address, patience, request, began, &mut told).await;
    told.status = match &answer {
        Ok(answer) => answer.status().as_str().to_owned(),
        Err(none) => none.status.to_string(),
    };
    (told, answer)
}

async fn attempt(
    address: SocketAddr,
    patience: Duration,
    request: Request<Full<Bytes>>,
    began: Instant,
    told: &mut Upstream,
) -> Result<Response<Incoming>, NoAnswer> {
    const BROKEN: NoAnswer = NoAnswer { status: 502 };
    const LATE: NoAnswer = NoAnswer { status: 504 };
    let connected = timeout(patience, TcpStream::connect(address)).await;
    let stream = connected.map_err(|_| LATE)?.map_err(|_| BROKEN)?;
    told.connect_time = Some(began.elapsed().as_secs_f64());
    // Failing to set it costs latency and nothing else.
    let _ = stream.set_nodelay(true);
    let handshake = http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|_| BROKEN)?;
    // Ends with the answer; its errors are seen there.
    spawn_local(connection);
    let answer = timeout(patience, sender.send_request(request)).await;
    let answer = answer.map_err(|_| LATE)?.map_err(|_| BROKEN)?;
    if head_size(&answer) > HEAD {
        return Err(BROKEN);
    }
    told.header_time = Some(began.elapsed().as_secs_f64());
    Ok(answer)
}

/// How many bytes the head of an answer had, but for its reason phrase.
fn head_size(answer: &Response<Incoming>) -> usize {
    let fields = answer.headers().iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    "HTTP/1.1 200 \r\n\r\n".len() + fields.sum::<usize>()
}

/// The request as it goes upstream. `None`: the filter made something of it that cannot be sent.
pub fn request(
    method: &[u8],
    target: &[u8],
    fields: &Fields,
    body: Bytes,
) -> Option<Request<Full<Bytes>>> {
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = Method::from_bytes(method).ok()?;
    *request.uri_mut() = std::str::from_utf8(target).ok()?.parse().ok()?;
    *request.version_mut() = Version::HTTP_11;
    let had_body = fields.iter().any(|(name, _)| {
        name.eq_ignore_ascii_case(b"content-length")
            || name.eq_ignore_ascii_case(b"transfer-encoding")
    });
    let headers = request.headers_mut();
    for (name, value) in fields.iter().filter(|(name, _)| !is_of_hop(name)) {
        headers.append(
            HeaderName::from_bytes(name).ok()?,
            HeaderValue::from_bytes(value).ok()?,
        );
    }
    if had_body {
        headers.insert(http::header::CONTENT_LENGTH, body.len().into());
    }
    Some(request)
}
