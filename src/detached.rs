//! What a detached execution sends, and what comes back: the request's headers on their way into the
//! internal listener, the marks that the listener puts on answers, and the client's answer.

use crate::details::{nothing_was_sent, OURS};
use crate::forward::HeaderChange;
use bytes::Bytes;
use idempotency_core::classify::Source;
use idempotency_core::config::Policies;
use idempotency_core::headers::{is_hop_by_hop, Headers};
use idempotency_core::reply::{is_ours, LocalReply};

/// Answer header by which the internal listener marks what came from the upstream.
pub const UPSTREAM_MARKER: &str = "x-idempotency-upstream";

/// Answer header by which the internal listener tells the details of Envoy's own local replies.
pub const GATEWAY_REPLY_MARKER: &str = "x-idempotency-gateway-reply";

/// Answer header by which the internal listener tells how many bytes Envoy had sent upstream when
/// it made a local reply (`%UPSTREAM_WIRE_BYTES_SENT%`, over all attempts).
pub const GATEWAY_SENT_MARKER: &str = "x-idempotency-gateway-sent";

/// From the markers that the internal listener puts on the answer of a detached execution. An answer
/// without a marker was made by the callout itself (its timeout, a missing listener) and proves
/// nothing.
pub fn from_markers(headers: &Headers) -> Source {
    let none_sent = headers
        .get(GATEWAY_SENT_MARKER)
        .is_some_and(|n| n.as_ref() == b"0");
    match headers.get(GATEWAY_REPLY_MARKER) {
        Some(details) if details.as_ref() == OURS.as_bytes() => Source::Doubtful,
        Some(details) if none_sent || nothing_was_sent(details) => Source::Unsent,
        Some(_) => Source::Doubtful,
        None if headers.has(UPSTREAM_MARKER) => Source::Upstream,
        // A filter in WebAssembly need not give details, and Envoy adds no header without a value.
        None if none_sent => Source::Unsent,
        None => Source::Doubtful,
    }
}

/// Whether the internal listener has marked an answer.
pub fn is_marked(headers: &Headers) -> bool {
    [UPSTREAM_MARKER, GATEWAY_REPLY_MARKER, GATEWAY_SENT_MARKER]
        .iter()
        .any(|marker| headers.has(marker))
}

/// The headers of a detached execution: the client's, changed, without what belongs to the
/// client's connection. `content-length` goes too: the host sets it from the body.
pub fn detached_headers(headers: &Headers, changes: &[HeaderChange]) -> Headers {
    let mut out: Vec<(Bytes, Bytes)> = headers
        .0
        .iter()
        .filter(|(name, _)| {
            !is_hop_by_hop(name)
                && name.as_ref() != b"expect"
                // Envoy would append it to `:authority` (measured).
                && name.as_ref() != b"host"
                && name.as_ref() != b"content-length"
                && name.as_ref() != b"x-forwarded-for"
                && !changes.iter().any(|c| match c {
                    HeaderChange::Remove(n) | HeaderChange::Set(n, _) => n == name,
                })
        })
        .cloned()
        .collect();
    // The host of a callout appends its own hop; the client's chain stays as it came.
    out.extend(
        headers
            .all("x-forwarded-for")
            .map(|v| ("x-forwarded-for".into(), v.clone())),
    );
    for change in changes {
        if let HeaderChange::Set(name, value) = change {
            out.push((name.clone(), value.clone()));
        }
    }
    Headers(out)
}

/// The first answer of a detached execution, for the client that still waits: everything that the
/// upstream sent but what belongs to a connection or to us.
pub fn first_answer(
    policies: &Policies,
    status: u16,
    headers: &Headers,
    body: Bytes,
) -> LocalReply {
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
                && !is_ours(policies, name)
        })
        .cloned()
        .collect();
    LocalReply::new(status, headers, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_of_the_internal_listener() {
        let map = |pairs: &[(&'static str, &'static str)]| -> Headers {
            pairs
                .iter()
                .map(|(n, v)| ((*n).into(), (*v).into()))
                .collect()
        };
        for (headers, expected) in [
            (map(&[(UPSTREAM_MARKER, "1")]), Source::Upstream),
            (map(&[]), Source::Doubtful),
            (
                map(&[(GATEWAY_REPLY_MARKER, "response_timeout")]),
                Source::Doubtful,
            ),
            (
                map(&[
                    (GATEWAY_REPLY_MARKER, "response_timeout"),
                    (GATEWAY_SENT_MARKER, "0"),
                ]),
                Source::Unsent,
            ),
            (
                map(&[
                    (GATEWAY_REPLY_MARKER, "response_timeout"),
                    (GATEWAY_SENT_MARKER, "187"),
                ]),
                Source::Doubtful,
            ),
            (
                map(&[
                    (GATEWAY_REPLY_MARKER, "lua_response"),
                    (GATEWAY_SENT_MARKER, "0"),
                ]),
                Source::Unsent,
            ),
            // Another filter of ours, which may have executed by a call of its own.
            (
                map(&[(GATEWAY_REPLY_MARKER, OURS), (GATEWAY_SENT_MARKER, "0")]),
                Source::Doubtful,
            ),
            (
                map(&[(GATEWAY_REPLY_MARKER, "no_healthy_upstream")]),
                Source::Unsent,
            ),
            // No details: Envoy leaves the header out.
            (map(&[(GATEWAY_SENT_MARKER, "0")]), Source::Unsent),
            (map(&[(GATEWAY_SENT_MARKER, "187")]), Source::Doubtful),
            (
                map(&[(UPSTREAM_MARKER, "1"), (GATEWAY_SENT_MARKER, "0")]),
                Source::Upstream,
            ),
            (
                map(&[
                    (UPSTREAM_MARKER, "1"),
                    (GATEWAY_REPLY_MARKER, "response_timeout"),
                ]),
                Source::Doubtful,
            ),
        ] {
            assert_eq!(from_markers(&headers), expected, "{headers:?}");
        }
    }
}
