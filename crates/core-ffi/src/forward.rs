//! The header fields that an upstream gets of a granted request, and those that a client gets of an answer.

use bytes::Bytes;
use idempotency_core::config::Policies;
use idempotency_core::headers::{is_hop_by_hop, Headers};
use idempotency_core::key::quoted_value;
use idempotency_core::reply::{decimal, is_ours};
use idempotency_core::request::Request;
use idempotency_core::upstream::{record_query, ATTEMPT, FENCE, PROOF, RECORD, UNPROTECTED};
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
    let policy = request.policy();
    let mut ours: Vec<(Bytes, Bytes)> = Vec::with_capacity(6);
    let mut set = |name: &str, value: Bytes| {
        ours.push((Bytes::copy_from_slice(name.as_bytes()), value));
    };
    if policy.identity_encoding {
        set("accept-encoding", "identity".into());
    }
    match forwarding {
        Forwarding::Granted {
            fence,
            attempt,
            proof,
        } => {
            set(FENCE, decimal("", *fence));
            set(ATTEMPT, decimal("", u64::from(*attempt)));
            set(RECORD, record_query(key).into());
            if let Some(proof) = proof {
                set(PROOF, proof.clone());
            }
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
    let unsent = key.origin == Origin::Derived || policy.key.from.is_some();
    let unsent = unsent && *forwarding != Forwarding::Relayed;
    if let Some(name) = policy.key.headers().first().filter(|_| unsent) {
        set(name, quoted_value(&key.key).into());
    }
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
