//! One charge: read the request, execute, answer.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER, SET_COOKIE, TRAILER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::body::{AnswerBody, Cut, Source};
use crate::ledger::{Arrival, Ledger, Ticket};
use crate::params::{Content, Params, Reset};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PARAMETERS: HeaderName = HeaderName::from_static("x-charge");
const DIGEST_TRAILER: HeaderName = HeaderName::from_static("x-charge-digest");

/// What was received, once it was received whole.
struct Received {
    parts: Parts,
    length: u64,
    body_sha256: String,
}

/// Reads the request and executes the charge. `Err` closes the connection.
pub(crate) async fn charge(
    ledger: &Ledger,
    parts: Parts,
    body: Incoming,
) -> Result<Response<AnswerBody>, Cut> {
    let params = match parameters(&parts) {
        Ok(params) => params,
        Err(error) => return Ok(plain(StatusCode::BAD_REQUEST, format!("{error}\n"))),
    };
    let Some(received) = receive(parts, body).await else {
        ledger.cut();
        return Err(Cut);
    };
    let ticket = ledger.execute(received.arrival(), &received.parts.headers);
    if let Some(delay) = params.delay {
        tokio::time::sleep(delay).await;
    }
    ticket.finished();
    if params.reset == Some(Reset::Before) {
        return Err(Cut);
    }
    Ok(answer(&params, &received, ticket))
}

/// From the query and the header; what comes last wins.
fn parameters(parts: &Parts) -> Result<Params, String> {
    let query = parts.uri.query().unwrap_or_default();
    match parts.headers.get(PARAMETERS).map(HeaderValue::to_str) {
        None => Params::parse(query),
        Some(Ok(header)) => Params::parse(&format!("{query}&{header}")),
        Some(Err(_)) => Err("x-charge is no text".to_owned()),
    }
}

/// A small answer that executes nothing.
pub(crate) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<AnswerBody> {
    typed(status, "text/plain", AnswerBody::ready(text))
}

pub(crate) fn typed(
    status: StatusCode,
    content_type: &'static str,
    body: AnswerBody,
) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

async fn receive(parts: Parts, mut body: Incoming) -> Option<Received> {
    let mut hash = Sha256::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            hash.update(&data);
            length += data.len() as u64;
        }
    }
    Some(Received {
        parts,
        length,
        body_sha256: hex::encode(hash.finalize()),
    })
}

impl Received {
    fn arrival(&self) -> Arrival {
        let headers = &self.parts.headers;
        Arrival {
            method: self.parts.method.to_string(),
            path: self.parts.uri.path().to_owned(),
            query: self.parts.uri.query().unwrap_or_default().to_owned(),
            key: joined(headers, &IDEMPOTENCY_KEY).unwrap_or_default(),
            fence: joined(headers, &HeaderName::from_static("idempotency-fence")),
            attempt: joined(headers, &HeaderName::from_static("idempotency-attempt")),
            body_sha256: self.body_sha256.clone(),
        }
    }

    fn echo(&self) -> serde_json::Value {
        let headers: Vec<_> = self
            .parts
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
            .collect();
        json!({
            "method": self.parts.method.as_str(),
            "uri": self.parts.uri.to_string(),
            "version": format!("{:?}", self.parts.version),
            "length": self.length,
            "body_sha256": self.body_sha256,
            "headers": headers,
        })
    }
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut values = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let mut all = values.next()?.into_owned();
    for value in values {
        all.push_str(", ");
        all.push_str(&value);
    }
    Some(all)
}

fn answer(params: &Params, received: &Received, ticket: Ticket) -> Response<AnswerBody> {
    let status = params.status.unwrap_or(StatusCode::CREATED);
    let bodiless = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    let id = ticket.id().to_owned();
    let mut response = Response::new(());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::from_str(&format!("/charges/{id}")) {
        headers.insert(LOCATION, location);
    }
    if params.set_cookie {
        for cookie in ["session=secret; HttpOnly", "seen=1; Path=/"] {
            headers.append(SET_COOKIE, HeaderValue::from_static(cookie));
        }
    }
    if let Some(seconds) = params.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    for (name, value) in &params.headers {
        headers.append(name, value.clone());
    }
    let (source, content_type) = content(params, received, &ticket, &id);
    if bodiless {
        return response.map(|()| AnswerBody::ready(Bytes::new()).with_ticket(ticket));
    }
    if !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    let mut body = AnswerBody::new(source);
    if params.chunked {
        body = body.chunked(params.chunk_bytes, params.chunk_delay);
    }
    if params.trailers {
        headers.insert(TRAILER, HeaderValue::from(DIGEST_TRAILER));
        let mut trailers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&received.body_sha256) {
            trailers.insert(DIGEST_TRAILER, value);
        }
        body = body.with_trailers(trailers);
    }
    match params.reset {
        Some(Reset::Headers) => body = body.cut_after(0),
        Some(Reset::Mid) => body = body.cut_after(1),
        Some(Reset::Before) | None => {}
    }
    if received.parts.method == Method::HEAD {
        // The HTTP library takes the headers and never asks for the body.
        let mut ticket = ticket;
        ticket.delivered();
        return response.map(|()| body);
    }
    response.map(|()| body.with_ticket(ticket))
}

/// The octets of the answer and their type.
fn content(
    params: &Params,
    received: &Received,
    ticket: &Ticket,
    id: &str,
) -> (Source, &'static str) {
    let json = |value: serde_json::Value| Source::Ready(format!("{value}\n").into());
    match &params.content {
        Content::Charge => {
            let charge = json!({
                "object": "charge",
                "id": id,
                "seq": ticket.seq(),
                "status": "succeeded",
            });
            (json(charge), "application/json")
        }
        Content::Echo => (json(received.echo()), "application/json"),
        Content::Random(size) => (
            Source::Random(fastrand::Rng::new(), *size),
            "application/octet-stream",
        ),
        Content::Literal(text) => (Source::Ready(text.clone().into()), "text/plain"),
        Content::Empty => (Source::Ready(Bytes::new()), "text/plain"),
    }
}
