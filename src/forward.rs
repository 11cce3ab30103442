//! What a granted request carries upstream, and what it must not carry.

use crate::profile::Profile;
use bytes::Bytes;
use idempotency_core::key::quoted_value;
use idempotency_core::reply::decimal;
use idempotency_core::request::Request;
use idempotency_core::upstream::{
    record_query, ATTEMPT, ENVOY_PREFIXES, FENCE, PROOF, RECORD, UNPROTECTED,
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
        /// For a gateway of ours behind this one.
        proof: Option<Bytes>,
    },
    /// Under the grant of a gateway of ours before this one.
    Relayed,
    /// Without an answer from the service, by the rule's policy.
    Unprotected,
}

fn must_not_pass(name: &[u8]) -> bool {
    // All of them begin so, and most names do not.
    name.starts_with(b"x-envoy-")
        && ENVOY_PREFIXES
            .iter()
            .any(|p| name.starts_with(p.as_bytes()))
}

#[inline(never)]
fn put(changes: &mut Vec<HeaderChange>, name: &'static str, value: Bytes) {
    changes.push(HeaderChange::Set(name.into(), value));
}

/// The changes that turn the client's request into the one that is executed. Fields that only the
/// gateway sends are not among the client's any more.
pub fn changes(
    profile: Profile,
    request: &Request,
    key: &LookupKey,
    forwarding: &Forwarding,
) -> Vec<HeaderChange> {
    let (policy, headers) = (request.policy(), &request.headers);
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
        set("x-envoy-max-retries", "0".into());
    }
    if policy.identity_encoding {
        set("accept-encoding", "identity".into());
    }
    let mut proof = None;
    match forwarding {
        Forwarding::Granted {
            fence,
            attempt,
            proof: ours,
        } => {
            set(FENCE, decimal("", *fence));
            set(ATTEMPT, decimal("", u64::from(*attempt)));
            set(RECORD, record_query(key).into());
            proof.clone_from(ours);
        }
        // They were removed with what clients forge.
        Forwarding::Relayed => {
            for name in [FENCE, ATTEMPT, RECORD] {
                let carried = request.carried.as_ref();
                let value = carried.map_or("", |carried| carried.one(name));
                set(name, Bytes::copy_from_slice(value.as_bytes()));
            }
        }
        Forwarding::Unprotected => {
            set(UNPROTECTED, "store-unavailable".into());
            // So that a gateway of ours behind this one can name what it refuses.
            if request.settings.hop.is_some() {
                set(RECORD, record_query(key).into());
            }
        }
    }
    // Of what came, nothing is left in Kong but what is written over.
    if proof.is_none() && profile == Profile::Kong && request.carried.is_some() {
        proof = Some("spent".into());
    }
    if let Some(proof) = proof {
        set(PROOF, proof);
    }
    let unsent = key.origin == Origin::Derived || policy.key.from.is_some();
    let unsent = unsent && *forwarding != Forwarding::Relayed;
    if let Some(name) = policy.key.headers().first().filter(|_| unsent) {
        let name = Bytes::copy_from_slice(name.as_bytes());
        changes.push(HeaderChange::Set(name, quoted_value(&key.key).into()));
    }
    changes
}
