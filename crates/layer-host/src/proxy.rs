//! The handler: it asks the upstream, one try on a connection of its own.

use crate::config::{Config, Target};
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue, CONNECTION, HOST, TE};
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::{BodyExt, Either, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use idempotency::http::{BoxError, NotSent};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

pub type Answer = Response<Either<Incoming, Empty<Bytes>>>;

/// The upstream may have been at work when this happened.
#[derive(Debug)]
pub struct Broken(pub StatusCode);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the upstream gave no answer: {}", self.0)
    }
}

impl std::error::Error for Broken {}

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
    "host",
];

/// Passes the request on. What was never sent is 503, and says that nothing was done.
pub async fn pass_on<B>(config: Arc<Config>, request: Request<B>) -> Result<Answer, Broken>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let Some(route) = config.route(request.uri().path()) else {
        return Ok(own(StatusCode::NOT_FOUND));
    };
    let Target::Address(address) = route.target else {
        return Ok(never_sent());
    };
    let Ok(stream) = TcpStream::connect(address).await else {
        return Ok(never_sent());
    };
    let _ = stream.set_nodelay(true);
    let patience = Duration::from_millis(route.timeout_ms);
    let exchange = exchange(stream, address, request);
    match timeout(patience, exchange).await {
        Ok(answer) => answer.map(|answer| answer.map(Either::Left)),
        Err(_) => Err(Broken(StatusCode::GATEWAY_TIMEOUT)),
    }
}

fn own(status: StatusCode) -> Answer {
    let mut answer = Response::new(Either::Right(Empty::new()));
    *answer.status_mut() = status;
    answer
}

fn never_sent() -> Answer {
    let mut answer = own(StatusCode::SERVICE_UNAVAILABLE);
    answer.extensions_mut().insert(NotSent);
    answer
}

async fn exchange<B>(
    stream: TcpStream,
    address: SocketAddr,
    request: Request<B>,
) -> Result<Response<Incoming>, Broken>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let broken = |_: hyper::Error| Broken(StatusCode::BAD_GATEWAY);
    let version = request.version();
    let request = upstream(request, address).ok_or(Broken(StatusCode::BAD_GATEWAY))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // Ends with the answer; its errors are seen there.
    tokio::spawn(connection);
    let mut answer = sender.send_request(request).await.map_err(broken)?;
    for name in HOP {
        answer.headers_mut().remove(name);
    }
    *answer.version_mut() = version;
    Ok(answer)
}

/// The request as it goes upstream. `None`: it cannot be sent.
fn upstream<B>(request: Request<B>, address: SocketAddr) -> Option<Request<B>> {
    let (mut parts, body) = request.into_parts();
    let host = match parts.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok()?,
        None => match parts.headers.get(HOST) {
            Some(host) => host.clone(),
            None => HeaderValue::from_str(&address.to_string()).ok()?,
        },
    };
    let trailers = parts.headers.get(TE).is_some_and(|te| te == "trailers");
    let named: Vec<HeaderName> = parts
        .headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        parts.headers.remove(name);
    }
    for name in HOP {
        parts.headers.remove(name);
    }
    parts.headers.insert(HOST, host);
    if trailers {
        parts
            .headers
            .insert(TE, HeaderValue::from_static("trailers"));
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("te"));
    }
    let target = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    parts.uri = target.parse().ok()?;
    parts.version = Version::HTTP_11;
    Some(Request::from_parts(parts, body))
}

/// A body of any kind as one.
pub fn any<B>(body: B) -> http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}
