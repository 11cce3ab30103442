//! Who made an answer, by what Envoy tells of it: the property `response.code_details`.

use bytes::Bytes;
use idempotency_core::classify::Source;

/// Details of the answers that this filter makes itself: another one of ours may stand in the same chain.
pub const OURS: &str = "idempotency";

/// From the properties of the stream itself: `response.code_details`, and `upstream.request_attempt_count` (a
/// 64-bit integer, little-endian), which is asked for only where the details prove nothing.
///
/// The router counts an attempt before it opens or takes a connection. So an answer without one was made by a
/// filter before it, and nothing was sent; whatever made it, a list of details could not name it.
pub fn from_properties(details: Option<&[u8]>, attempts: impl FnOnce() -> Option<Bytes>) -> Source {
    match details {
        Some(b"via_upstream") => Source::Upstream,
        Some(details) if nothing_was_sent(details) => Source::Unsent,
        // It may have executed by a call of its own.
        Some(details) if details == OURS.as_bytes() => Source::Doubtful,
        // A filter in WebAssembly need not give any details.
        _ if attempts().as_deref() == Some(&[0; 8]) => Source::Unsent,
        _ => Source::Doubtful,
    }
}

/// Details of Envoy's own answers that prove that no byte of the request reached an upstream, or
/// that the upstream declared it unprocessed (RFC 9113 §8.7). Measured on 1.36 and 1.40, see
/// `docs/envoy-facts.md`. Everything else may follow a request that was sent: a reset after the
/// request was read is `upstream_reset_before_response_started{connection_termination}`.
pub(crate) fn nothing_was_sent(details: &[u8]) -> bool {
    const WHOLE: [&[u8]; 7] = [
        b"no_healthy_upstream",
        b"cluster_not_found",
        b"route_not_found",
        b"direct_response",
        b"maintenance_mode",
        b"upstream_reset_before_response_started{overflow}",
        b"upstream_reset_before_response_started{remote_refused_stream_reset}",
    ];
    const PREFIXES: [&[u8]; 7] = [
        b"upstream_reset_before_response_started{remote_connection_failure",
        b"upstream_reset_before_response_started{local_connection_failure",
        b"upstream_reset_before_response_started{connection_timeout",
        b"filter_removed_required_request_headers",
        // Refused by a filter behind this one.
        b"rbac_access_denied",
        b"ext_authz_",
        b"jwt_authn_",
    ];
    WHOLE.contains(&details) || PREFIXES.iter().any(|prefix| details.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proof_of_nothing_sent_is_unsent() {
        let before = |reason: &str| format!("upstream_reset_before_response_started{{{reason}}}");
        for (details, expected) in [
            ("via_upstream".to_owned(), Source::Upstream),
            (
                before("remote_connection_failure|delayed_connect_error:_x"),
                Source::Unsent,
            ),
            (before("connection_timeout"), Source::Unsent),
            (before("overflow"), Source::Unsent),
            (before("remote_refused_stream_reset"), Source::Unsent),
            ("no_healthy_upstream".to_owned(), Source::Unsent),
            (before("connection_termination"), Source::Doubtful),
            (before("protocol_error"), Source::Doubtful),
            (before("remote_reset"), Source::Doubtful),
            ("response_timeout".to_owned(), Source::Doubtful),
            ("upstream_per_try_timeout".to_owned(), Source::Doubtful),
            ("max_duration_timeout".to_owned(), Source::Doubtful),
            ("stream_idle_timeout".to_owned(), Source::Doubtful),
            (String::new(), Source::Doubtful),
        ] {
            let attempts = |n: Option<u64>| {
                let told = || n.map(|n| Bytes::copy_from_slice(&n.to_le_bytes()));
                from_properties(Some(details.as_bytes()), told)
            };
            assert_eq!(attempts(Some(1)), expected, "{details}");
            assert_eq!(attempts(None), expected, "{details}");
            // Without an attempt, whoever answered sent nothing.
            let unsent = match expected {
                Source::Upstream => Source::Upstream,
                Source::Unsent | Source::Doubtful => Source::Unsent,
            };
            assert_eq!(attempts(Some(0)), unsent, "{details}");
        }
        let none = || Some(Bytes::from_static(&[0; 8]));
        assert_eq!(from_properties(None, none), Source::Unsent);
        assert_eq!(from_properties(None, || None), Source::Doubtful);
        // Ours may have executed in its own way.
        assert_eq!(
            from_properties(Some(OURS.as_bytes()), none),
            Source::Doubtful
        );
    }
}
