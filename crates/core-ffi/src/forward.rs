//! The header fields that an upstream gets of a granted request, and those that a client gets of an answer.

use bytes::Bytes;
use idempotency_core::config::Policies;
use idempotency_core::forward::{self, Forwarding};
use idempotency_core::headers::{is_hop_by_hop, Headers};
use idempotency_core::reply::is_ours;
use idempotency_core::request::Request;
use idempotency_protocol::LookupKey;

/// Fields that the host writes itself: who is asked, and how the body is framed. (`expect` was answered already.)
const FRAMING: [&str; 3] = ["host", "content-length", "expect"];

/// Whether a field belongs to the connection that it came over: by its name, or since `connection` names it.
fn is_of_connection(headers: &Headers, name: &[u8]) -> bool {
    let nominates = |value: &Bytes| {
        let mut names = value.split(|b| *b == b',');
        names.any(|nominated| nominated.trim_ascii().eq_ignore_ascii_case(name))
    };
    is_hop_by_hop(name) || headers.all("connection").any(nominates)
}

/// The fields that go upstream, in the client's order, with ours behind them.
pub fn fields(request: &Request, key: &LookupKey, forwarding: &Forwarding) -> Vec<(Bytes, Bytes)> {
    let mut ours: Vec<(Bytes, Bytes)> = Vec::with_capacity(6);
    forward::each(request, key, forwarding, |name, value| {
        ours.push((name, value));
    });
    let headers = &request.headers;
    let stays = |name: &[u8]| {
        !name.starts_with(b":")
            && !is_of_connection(headers, name)
            && !FRAMING
                .iter()
                .any(|f| name.eq_ignore_ascii_case(f.as_bytes()))
            && !ours.iter().any(|(our, _)| name.eq_ignore_ascii_case(our))
    };
    let clients = headers.0.iter().filter(|(name, _)| stays(name));
    let mut fields: Vec<_> = clients.cloned().collect();
    fields.extend(ours);
    fields
}

/// The fields of an upstream's answer that a client gets: not those of the connection, not its length, which the
/// host writes, and none by which only this gateway speaks.
pub fn passed(policies: &Policies, headers: &Headers) -> Vec<(Bytes, Bytes)> {
    let passes = |name: &[u8]| {
        !is_of_connection(headers, name) && name != b"content-length" && !is_ours(policies, name)
    };
    let fields = headers.0.iter().filter(|(name, _)| passes(name));
    fields.cloned().collect()
}
