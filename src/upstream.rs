//! What a granted request carries upstream, and what it must not carry.

use crate::config::Policy;
use crate::headers::{is_hop_by_hop, Headers};
use crate::profile::Profile;
use bytes::Bytes;
use idempotency_protocol::{LookupKey, Origin};

/// Request header with the fence: it only grows per key, so a resource can refuse an old holder.
pub const FENCE: &str = "idempotency-fence";
/// Request header with the attempt number, 1 for the first execution.
pub const ATTEMPT: &str = "idempotency-attempt";
/// Request header that names the record; ready to use as the query of the service's settle call.
pub const RECORD: &str = "idempotency-record";
/// Request header that marks a request forwarded without protection.
pub const UNPROTECTED: &str = "idempotency-unprotected";

pub(crate) const OURS: [&str; 4] = [FENCE, ATTEMPT, RECORD, UNPROTECTED];

/// Client headers by which Envoy would execute a request more than once, hedge it, cut its
/// timeout below the lease's, or turn a timeout into a success.
pub(crate) const ENVOY_PREFIXES: [&str; 5] = [
    "x-envoy-retry-",
    "x-envoy-max-retries",
    "x-envoy-hedge-",
    "x-envoy-retriable-",
    "x-envoy-upstream-",
];

/// One change of the request's headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderChange {
    /// Remove all occurrences.
    Remove(Bytes),
    /// Set to one value, replacing all occurrences.
    Set(Bytes, Bytes),
}

/// What the request is forwarded as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// Under a grant.
    Granted {
        /// The grant's fence.
        fence: u64,
        /// The grant's attempt number.
        attempt: u32,
    },
    /// Without an answer from the service, by the rule's policy.
    Unprotected,
}

fn must_not_pass(name: &[u8]) -> bool {
    ENVOY_PREFIXES
        .iter()
        .any(|p| name.starts_with(p.as_bytes()))
}

/// A header of a client's request that would have to go, or to have one value, on its way upstream,
/// and cannot: nginx sends on what a filter removes, and all but one of what it sets (measured).
pub fn cannot_be_changed(
    profile: Profile,
    policy: &Policy,
    headers: &Headers,
) -> Option<&'static str> {
    let encodings = headers.all("accept-encoding").count();
    let repeated = profile == Profile::Kong && policy.identity_encoding && encodings > 1;
    repeated.then_some("accept-encoding")
}

/// The changes that turn the client's request into the one that is executed. Fields that only the
/// gateway sends are not among the client's any more.
pub fn changes(
    profile: Profile,
    policy: &Policy,
    headers: &Headers,
    key: &LookupKey,
    forwarding: &Forwarding,
) -> Vec<HeaderChange> {
    let mut changes: Vec<HeaderChange> = Vec::new();
    // In Kong nothing can be removed; `cannot_be_changed` has refused what would have to be, and
    // Envoy's headers mean nothing there.
    if profile == Profile::Envoy {
        for (name, _) in &headers.0 {
            let change = HeaderChange::Remove(name.clone());
            if must_not_pass(name) && !changes.contains(&change) {
                changes.push(change);
            }
        }
    }
    let mut set = |name: &'static str, value: String| {
        changes.push(HeaderChange::Set(
            Bytes::from_static(name.as_bytes()),
            value.into(),
        ));
    };
    // A route with `retry_on: 5xx,reset` executes one POST three times; with this header, once
    // (measured). Envoy also adds a retry policy of its own for some upstreams.
    if profile == Profile::Envoy {
        set("x-envoy-max-retries", "0".to_owned());
    }
    if policy.identity_encoding {
        set("accept-encoding", "identity".to_owned());
    }
    match forwarding {
        Forwarding::Granted { fence, attempt } => {
            set(FENCE, fence.to_string());
            set(ATTEMPT, attempt.to_string());
            set(RECORD, record_query(key));
        }
        Forwarding::Unprotected => set(UNPROTECTED, "store-unavailable".to_owned()),
    }
    if key.origin == Origin::Derived {
        let name = Bytes::copy_from_slice(policy.key.header.as_bytes());
        changes.push(HeaderChange::Set(name, format!("\"{}\"", key.key).into()));
    }
    changes
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

/// Names a record in the query syntax of the service's API.
pub fn record_query(key: &LookupKey) -> String {
    let mut out = String::from("tenant=");
    escape(&key.tenant, &mut out);
    out.push_str("&namespace=");
    escape(&key.namespace, &mut out);
    out.push_str("&key=");
    escape(&key.key, &mut out);
    if key.origin == Origin::Derived {
        out.push_str("&origin=derived");
    }
    out
}

fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}
