//! A request as the core sees it, and the request that the handler gets.

use super::attempt::Attempt;
use bytes::{Bytes, BytesMut};
use http::header::{HeaderName, ACCEPT_ENCODING, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use idempotency_core::config::Policy;
use idempotency_core::decide::{ours_among, Properties, RequestHead};
use idempotency_core::headers::Headers;
use idempotency_core::key::quoted_value;
use idempotency_core::upstream::{ATTEMPT, ENVOY_PREFIXES, FENCE, RECORD, UNPROTECTED};
use idempotency_protocol::{LookupKey, Origin};

/// A request before its body.
pub(super) fn of(parts: &Parts, bodiless: bool) -> RequestHead {
    let uri = uri(parts);
    let authority = match uri.authority() {
        Some(authority) => Bytes::copy_from_slice(authority.as_str().as_bytes()),
        None => parts
            .headers
            .get(HOST)
            .map(|host| Bytes::copy_from_slice(host.as_bytes()))
            .unwrap_or_default(),
    };
    let target = match (parts.method == Method::CONNECT, uri.path_and_query()) {
        (false, Some(target)) => Bytes::copy_from_slice(target.as_str().as_bytes()),
        _ => Bytes::new(),
    };
    RequestHead {
        method: method(&parts.method),
        target,
        authority,
        headers: fields(&parts.headers),
        bodiless,
        truncated: false,
        forged: false,
    }
}

/// What the client asked for: a router that nests others cuts the beginning off for them.
#[cfg(feature = "axum")]
fn uri(parts: &Parts) -> &http::Uri {
    let original = parts.extensions.get::<axum::extract::OriginalUri>();
    original.map_or(&parts.uri, |original| &original.0)
}

#[cfg(not(feature = "axum"))]
fn uri(parts: &Parts) -> &http::Uri {
    &parts.uri
}

fn method(method: &Method) -> Bytes {
    let name: &'static str = match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => return Bytes::copy_from_slice(method.as_str().as_bytes()),
    };
    Bytes::from_static(name.as_bytes())
}

/// All fields, in one piece of memory.
pub(super) fn fields(map: &HeaderMap) -> Headers {
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    let mut all = BytesMut::with_capacity(map.iter().map(size).sum());
    for (name, value) in map {
        all.extend_from_slice(name.as_str().as_bytes());
        all.extend_from_slice(value.as_bytes());
    }
    let mut all = all.freeze();
    let cut = |(name, value): (&HeaderName, &HeaderValue)| {
        let name = all.split_to(name.as_str().len());
        (name, all.split_to(value.len()))
    };
    map.iter().map(cut).collect()
}

/// Removes fields by their names.
pub(super) fn strip(headers: &mut HeaderMap, names: &[Bytes]) {
    for name in names {
        if let Ok(name) = HeaderName::from_bytes(name) {
            headers.remove(name);
        }
    }
}

/// The fence that a request carries: it is executed under a lock already, if nobody forged it.
pub(super) fn fence(headers: &HeaderMap) -> Option<u64> {
    headers.get(FENCE)?.to_str().ok()?.parse().ok()
}

/// Removes the fields that only we send.
pub(super) fn strip_ours(headers: &mut HeaderMap) {
    let ours = ours_among(&fields(headers));
    strip(headers, &ours);
}

/// What the request is executed as.
#[derive(Debug)]
pub(super) enum Forwarding {
    /// Under a grant.
    Granted(Attempt),
    /// Without an answer from the store, by the rule's policy.
    Unprotected,
}

/// The fields of a granted request: fence, attempt, record.
const NAMES: [HeaderName; 3] = [
    HeaderName::from_static(FENCE),
    HeaderName::from_static(ATTEMPT),
    HeaderName::from_static(RECORD),
];

/// Turns the client's request into the one that is executed. Fields that only we send are not among the
/// client's any more.
pub(super) fn change(
    headers: &mut HeaderMap,
    policy: &Policy,
    key: &LookupKey,
    forwarding: &Forwarding,
) {
    let steers = |name: &HeaderName| ENVOY_PREFIXES.iter().any(|p| name.as_str().starts_with(p));
    let steering: Vec<HeaderName> = headers.keys().filter(|n| steers(n)).cloned().collect();
    for name in steering {
        headers.remove(name);
    }
    if policy.identity_encoding {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    match forwarding {
        Forwarding::Granted(attempt) => {
            headers.reserve(NAMES.len());
            let [fence, number, record] = NAMES;
            headers.insert(fence, attempt.fence().into());
            headers.insert(number, attempt.number_value());
            headers.insert(record, attempt.record_value());
        }
        Forwarding::Unprotected => set(headers, UNPROTECTED, "store-unavailable"),
    }
    let unsent = key.origin == Origin::Derived || policy.key.from.is_some();
    if let Some(name) = policy.key.headers().first().filter(|_| unsent) {
        set(headers, name, quoted_value(&key.key));
    }
}

fn set(headers: &mut HeaderMap, name: &str, value: impl AsRef<[u8]>) {
    let name = HeaderName::from_bytes(name.as_bytes());
    if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_ref())) {
        headers.insert(name, value);
    }
}

/// The tenant, where a rule asks for it.
pub(super) struct Tenants<'a> {
    pub parts: &'a Parts,
    pub of: Option<&'a super::layer::TenantOf>,
}

impl Properties for Tenants<'_> {
    fn property(&self, _: &[&str]) -> Option<Bytes> {
        let tenant = self.of?(self.parts)?;
        Some(Bytes::from(tenant))
    }
}
