//! What a granted request carries upstream, and what it must not carry.

use crate::profile::Profile;
use bytes::Bytes;
use idempotency_core::forward::{self, Forwarding};
use idempotency_core::request::Request;
use idempotency_core::upstream::{ENVOY_PREFIXES, PROOF};
use idempotency_protocol::LookupKey;

/// One change of the request's headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderChange {
    /// Remove all occurrences.
    Remove(Bytes),
    /// Set to one value, replacing all occurrences.
    Set(Bytes, Bytes),
}

fn must_not_pass(name: &[u8]) -> bool {
    // All of them begin so, and most names do not.
    name.starts_with(b"x-envoy-")
        && ENVOY_PREFIXES
            .iter()
            .any(|p| name.starts_with(p.as_bytes()))
}

#[inline(never)]
fn put(changes: &mut Vec<HeaderChange>, name: Bytes, value: Bytes) {
    changes.push(HeaderChange::Set(name, value));
}

/// The changes that turn the client's request into the one that is executed. Fields that only the
/// gateway sends are not among the client's any more.
pub fn changes(
    profile: Profile,
    request: &Request,
    key: &LookupKey,
    forwarding: &Forwarding,
) -> Vec<HeaderChange> {
    let headers = &request.headers;
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
    let mut set = |name, value| put(&mut changes, name, value);
    // A route with `retry_on: 5xx,reset` executes one POST three times; with this header, once
    // (measured). Envoy also adds a retry policy of its own for some upstreams.
    if profile == Profile::Envoy {
        set("x-envoy-max-retries".into(), "0".into());
    }
    let mut proven = false;
    forward::each(request, key, forwarding, |name, value| {
        proven |= name == PROOF;
        set(name, value);
    });
    // Of what came, nothing is left in Kong but what is written over.
    if !proven && profile == Profile::Kong && request.carried.is_some() {
        set(PROOF.into(), "spent".into());
    }
    changes
}
