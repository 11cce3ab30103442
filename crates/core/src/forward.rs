//! The header fields that a gateway adds to a request which it sends on, whatever the gateway is.

use crate::key::quoted_value;
use crate::reply::decimal;
use crate::request::Request;
use crate::upstream::{record_query, ATTEMPT, FENCE, PROOF, RECORD, UNPROTECTED};
use bytes::Bytes;
use idempotency_protocol::{LookupKey, Origin};

/// What a request is forwarded as.
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

/// Tells `set` each field of ours that the upstream gets, at most once each; its value takes the place of what a
/// client sent under that name. The names are in lower case.
pub fn each(
    request: &Request,
    key: &LookupKey,
    forwarding: &Forwarding,
    mut set: impl FnMut(Bytes, Bytes),
) {
    let policy = request.policy();
    if policy.identity_encoding {
        set("accept-encoding".into(), "identity".into());
    }
    match forwarding {
        Forwarding::Granted {
            fence,
            attempt,
            proof,
        } => {
            set(FENCE.into(), decimal("", *fence));
            set(ATTEMPT.into(), decimal("", u64::from(*attempt)));
            set(RECORD.into(), record_query(key).into());
            if let Some(proof) = proof {
                set(PROOF.into(), proof.clone());
            }
        }
        // They were removed with what clients forge.
        Forwarding::Relayed => {
            for name in [FENCE, ATTEMPT, RECORD] {
                let carried = request.carried.as_ref();
                let value = carried.map_or("", |carried| carried.one(name));
                set(name.into(), Bytes::copy_from_slice(value.as_bytes()));
            }
        }
        Forwarding::Unprotected => {
            set(UNPROTECTED.into(), "store-unavailable".into());
            // So that a gateway of ours behind this one can name what it refuses.
            if request.settings.hop.is_some() {
                set(RECORD.into(), record_query(key).into());
            }
        }
    }
    let unsent = key.origin == Origin::Derived || policy.key.from.is_some();
    let unsent = unsent && *forwarding != Forwarding::Relayed;
    if let Some(name) = policy.key.headers().first().filter(|_| unsent) {
        let name = Bytes::copy_from_slice(name.as_bytes());
        set(name, quoted_value(&key.key).into());
    }
}
