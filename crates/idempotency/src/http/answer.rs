//! Answers that are made here, in place of the handler's.

use super::response_body::ResponseBody;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use idempotency_core::reply::LocalReply;

/// As a response. What no response can carry is left out; the core makes nothing of the kind.
pub(super) fn response<B>(reply: LocalReply) -> Response<ResponseBody<B>> {
    let mut response = Response::new(ResponseBody::whole(reply.body, None));
    if let Ok(status) = StatusCode::from_u16(reply.status) {
        *response.status_mut() = status;
    }
    for (name, value) in &reply.headers {
        add(response.headers_mut(), name, value);
    }
    response
}

pub(super) fn add(headers: &mut HeaderMap, name: &[u8], value: &[u8]) {
    let name = HeaderName::from_bytes(name);
    if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
        headers.append(name, value);
    }
}
