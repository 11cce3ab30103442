//! What a granted request carries upstream, and what it must not carry.

use crate::profile::Profile;
use bytes::Bytes;
use idempotency_core::config::Policy;
use idempotency_core::headers::Headers;
use idempotency_core::key::quoted_value;
use idempotency_core::upstream::{
    record_query, ATTEMPT, ENVOY_PREFIXES, FENCE, RECORD, UNPROTECTED,
};
use idempotency_protocol::{LookupKey, Origin};

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

/// The changes that turn the client's request into the one that is executed. Fields that only the
/// gateway sends are not among the client's any more.
pub fn changes(
    profile: Profile,
    policy: &Policy,
    headers: &Headers,
    key: &LookupKey,
    forwarding: &Forwarding,
) -> Vec<HeaderChange> {
    let mut changes: Vec<HeaderChange> = Vec::with_capacity(8);
    // In Kong nothing can be removed; `cannot_be_changed` has refused what would have to be, and
    // Envoy's headers mean nothing there.
    if profile == Profile::Envoy {
        for (name, _) in headers.0.iter().filter(|(name, _)| must_not_pass(name)) {
            let change = HeaderChange::Remove(name.clone());
            if !changes.contains(&change) {
                changes.push(change);
            }
        }
    }
    let mut set = |name: &'static str, value: Bytes| {
        changes.push(HeaderChange::Set(name.into(), value));
    };
    // A route with `retry_on: 5xx,reset` executes one POST three times; with this header, once
    // (measured). Envoy also adds a retry policy of its own for some upstreams.
    if profile == Profile::Envoy {
        set("x-envoy-max-retries", "0".into());
    }
    if policy.identity_encoding {
        set("accept-encoding", "identity".into());
    }
    match forwarding {
        Forwarding::Granted { fence, attempt } => {
            set(FENCE, fence.to_string().into());
            set(ATTEMPT, attempt.to_string().into());
            set(RECORD, record_query(key).into());
        }
        Forwarding::Unprotected => set(UNPROTECTED, "store-unavailable".into()),
    }
    let unsent = key.origin == Origin::Derived || policy.key.from.is_some();
    if let Some(name) = policy.key.headers().first().filter(|_| unsent) {
        let name = Bytes::copy_from_slice(name.as_bytes());
        changes.push(HeaderChange::Set(name, quoted_value(&key.key).into()));
    }
    changes
}
