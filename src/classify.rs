//! What an answer to an executed request means for its key.

use crate::config::{OutcomeClass, Policy};
use crate::headers::Headers;
use crate::reply::{GATEWAY_REPLY_MARKER, UPSTREAM_MARKER};

/// Who made an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Provably the upstream.
    Upstream,
    /// The gateway itself, or nobody can tell; the details are Envoy's
    /// `%RESPONSE_CODE_DETAILS%`.
    Gateway(Option<String>),
}

impl Source {
    /// From the property `response.code_details`.
    pub fn from_details(details: Option<&[u8]>) -> Source {
        match details {
            Some(b"via_upstream") => Source::Upstream,
            other => Source::Gateway(other.map(|d| String::from_utf8_lossy(d).into_owned())),
        }
    }

    /// From the markers that the internal listener puts on the answer of a detached execution.
    /// An answer without a marker proves nothing.
    pub fn from_markers(headers: &Headers) -> Source {
        if let Some(details) = headers.get(GATEWAY_REPLY_MARKER) {
            return Source::Gateway(Some(String::from_utf8_lossy(details).into_owned()));
        }
        if headers.has(UPSTREAM_MARKER) {
            return Source::Upstream;
        }
        Source::Gateway(None)
    }
}

/// What the answer means. Only an answer that provably came from the upstream is `Completed`.
pub fn classify(policy: &Policy, source: &Source, status: u16, headers: &Headers) -> OutcomeClass {
    match source {
        Source::Upstream => policy.outcomes.class(status, headers.has("retry-after")),
        Source::Gateway(Some(details)) if nothing_was_sent(details) => OutcomeClass::Failed,
        Source::Gateway(_) => OutcomeClass::Unknown,
    }
}

/// Details of Envoy's own answers that prove that no byte of the request reached an upstream.
/// Everything else may follow a request that was sent: a reset after the request was read is
/// `upstream_reset_before_response_started{connection_termination}` (measured).
fn nothing_was_sent(details: &str) -> bool {
    const WHOLE: [&str; 6] = [
        "no_healthy_upstream",
        "cluster_not_found",
        "route_not_found",
        "direct_response",
        "maintenance_mode",
        "upstream_reset_before_response_started{overflow}",
    ];
    const CONNECT_FAILED: [&str; 4] = [
        "upstream_reset_before_response_started{remote_connection_failure",
        "upstream_reset_before_response_started{local_connection_failure",
        "upstream_reset_before_response_started{connection_timeout",
        "upstream_reset_before_response_started{connection_failure",
    ];
    const REFUSED_BY_FILTER: [&str; 3] = ["rbac_access_denied", "ext_authz_", "jwt_authn_"];
    WHOLE.contains(&details)
        || CONNECT_FAILED
            .iter()
            .chain(&REFUSED_BY_FILTER)
            .any(|prefix| details.starts_with(prefix))
}
