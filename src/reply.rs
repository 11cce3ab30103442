//! Answers that the filter sends in place of the upstream, as data.

use crate::config::{Cors, Plan, Policy};
use crate::headers::{is_hop_by_hop, Headers};
use crate::upstream::HeaderChange;
use bytes::Bytes;
use idempotency_protocol::{Stored, StoredResponse};

/// An answer that the host sends on the filter's behalf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// HTTP status.
    pub status: u16,
    /// Ordered; repeated names allowed.
    pub headers: Vec<(Bytes, Bytes)>,
    /// Exact bytes.
    pub body: Bytes,
}

impl LocalReply {
    /// An answer that hosts can send as it is. A 204 or 304 with a body would be written to the
    /// wire with it, and the next answer on the connection would start in the middle of it
    /// (measured on Envoy).
    pub fn new(status: u16, headers: Vec<(Bytes, Bytes)>, body: Bytes) -> Self {
        let body = if matches!(status, 100..=199 | 204 | 304) {
            Bytes::new()
        } else {
            body
        };
        LocalReply {
            status,
            headers,
            body,
        }
    }

    /// What hosts do to an answer, to be undone when it passes the response callbacks: they drop
    /// `content-type` from one without a body, and add one where a body has none (measured on
    /// Envoy).
    pub fn repairs(&self) -> Vec<HeaderChange> {
        let types = self
            .headers
            .iter()
            .filter(|(n, _)| n.as_ref() == b"content-type");
        if self.body.is_empty() {
            let set = |(n, v): &(Bytes, Bytes)| HeaderChange::Set(n.clone(), v.clone());
            return types.map(set).collect();
        }
        match types.count() {
            0 => vec![HeaderChange::Remove("content-type".into())],
            _ => Vec::new(),
        }
    }
}

/// Response header that tells until when the record is kept (an RFC 9651 Date).
pub const EXPIRES_HEADER: &str = "idempotency-expires";

/// Answer header by which the internal listener marks what came from the upstream.
pub const UPSTREAM_MARKER: &str = "x-idempotency-upstream";

/// Answer header by which the internal listener tells the details of Envoy's own local replies.
pub const GATEWAY_REPLY_MARKER: &str = "x-idempotency-gateway-reply";

/// Answer header by which the internal listener tells how many bytes Envoy had sent upstream when
/// it made a local reply (`%UPSTREAM_WIRE_BYTES_SENT%`, over all attempts).
pub const GATEWAY_SENT_MARKER: &str = "x-idempotency-gateway-sent";

/// The replay of a stored response.
///
/// `access-control-*` headers that were stored for one origin are replayed only to an equal
/// origin (`stored_origin` travels as a stored header of its own name).
pub fn replay(
    plan: &Plan,
    policy: &Policy,
    stored: &Stored,
    response: &StoredResponse,
    origin: Option<&Bytes>,
) -> LocalReply {
    let stored_origin = response
        .headers
        .iter()
        .find(|(name, _)| name.as_ref() == STORED_ORIGIN.as_bytes())
        .map(|(_, value)| value);
    let same_origin =
        policy.cors == Cors::Stored && stored_origin.is_some() && stored_origin == origin;
    let mut headers: Vec<(Bytes, Bytes)> = response
        .headers
        .iter()
        .filter(|(name, _)| {
            name.as_ref() != STORED_ORIGIN.as_bytes()
                && (same_origin || !name.starts_with(b"access-control-"))
        })
        .cloned()
        .collect();
    headers.push((
        Bytes::copy_from_slice(plan.replay_header.as_bytes()),
        "true".into(),
    ));
    headers.push(("age".into(), (stored.age_ms / 1000).to_string().into()));
    headers.push(expires(stored.expires_at_ms));
    if origin.is_some() {
        // The marker and Retry-After are useless to a browser that may not read them.
        let exposed = format!("{}, {}, retry-after", plan.replay_header, EXPIRES_HEADER);
        headers.push(("access-control-expose-headers".into(), exposed.into()));
    }
    LocalReply::new(response.status, headers, response.body.clone())
}

/// Name under which the `Origin` of the first request is stored beside `access-control-*`.
pub const STORED_ORIGIN: &str = "idempotency-stored-origin";

/// The header that tells until when the record is kept.
pub fn expires(expires_at_ms: u64) -> (Bytes, Bytes) {
    (
        EXPIRES_HEADER.into(),
        format!("@{}", expires_at_ms / 1000).into(),
    )
}

/// Headers by which the filter tells clients about the record. An upstream that sends them would
/// speak for the gateway, so they do not pass on the first answer.
pub fn is_ours(plan: &Plan, name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(plan.replay_header.as_bytes())
        || name.eq_ignore_ascii_case(EXPIRES_HEADER.as_bytes())
}

/// The first answer of a detached execution, for the client that still waits: everything that the
/// upstream sent but what belongs to a connection or to us.
pub fn first_answer(plan: &Plan, status: u16, headers: &Headers, body: Bytes) -> LocalReply {
    let headers = headers
        .0
        .iter()
        .filter(|(name, _)| {
            !name.starts_with(b":")
                && !is_hop_by_hop(name)
                && name.as_ref() != UPSTREAM_MARKER.as_bytes()
                && name.as_ref() != GATEWAY_REPLY_MARKER.as_bytes()
                && name.as_ref() != GATEWAY_SENT_MARKER.as_bytes()
                && name.as_ref() != b"content-length"
                && !is_ours(plan, name)
        })
        .cloned()
        .collect();
    LocalReply::new(status, headers, body)
}
