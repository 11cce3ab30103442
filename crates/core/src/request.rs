//! What stays the same for the life of one protected request.

use crate::config::{Policy, Rule, WhenMissing};
use crate::fingerprint::{self, Hasher};
use crate::headers::Headers;
use crate::hop::{Carried, Claim, MayBe, Proven};
use crate::key;
use crate::problem::{Problem, ProblemSettings};
use crate::reply::LocalReply;
use crate::settings::Settings;
use bytes::Bytes;
use idempotency_protocol::limits::MAX_TRACEPARENT_BYTES;
use idempotency_protocol::{
    About, Acquire, AttemptKind, Fingerprint, Grant, LookupKey, Operation, Origin, Owner, Redeem,
    Retention, Wait,
};
use std::sync::Arc;

/// Which record a request is about.
#[derive(Debug)]
pub enum Identity {
    /// This one, and what the request asks for.
    Known(LookupKey, Fingerprint),
    /// None: its key would be in the body, is not there, and need not be.
    Pass,
    /// It cannot be told: the problem, and what the client is told.
    Refused(Problem, String),
}

/// A request that a rule protects.
#[derive(Debug)]
pub struct Request {
    /// The configuration it met.
    pub settings: Arc<Settings>,
    /// The rule that matched.
    pub rule: Arc<Rule>,
    /// Verified tenant; empty for `scope: "global"`.
    pub tenant: String,
    /// The client's key, if it is in the headers.
    pub client_key: Option<String>,
    /// Method as sent.
    pub method: Bytes,
    /// Normalised path.
    pub path: String,
    /// All request headers as the client sent them.
    pub headers: Headers,
    /// What it has of another gateway of ours, or pretends to have.
    pub carried: Option<Box<Carried>>,
    /// Who asks, for people: an address; empty where it is not known.
    pub client: Bytes,
    /// The request's id, for people: `x-request-id`, or what the gateway calls it; empty where it has none.
    pub request_id: Bytes,
}

impl Request {
    /// The rule's policy.
    pub fn policy(&self) -> &Policy {
        &self.rule.policy
    }

    /// The request's `Origin`, for CORS.
    pub fn origin(&self) -> Option<&Bytes> {
        self.headers.get("origin")
    }

    /// A trailer that we would have acted on, had it been a header.
    pub fn unwelcome_trailer<'t>(&self, trailers: &'t Headers) -> Option<&'t Bytes> {
        let mut names = trailers.0.iter().map(|(name, _)| name);
        names.find(|name| self.settings.names.concern(name))
    }

    /// Which record it is about, now that its body is whole.
    pub fn identify(&self, hasher: Hasher) -> Identity {
        let unsupported = |detail| Identity::Refused(Problem::UnsupportedRequest, detail);
        let hashed = match hasher.finish() {
            Ok(hashed) => hashed,
            Err(error) => return unsupported(error.to_string()),
        };
        let policy = &self.policy().key;
        let key = match (&policy.from, hashed.key) {
            (Some(pointer), Some(member)) => match key::of_member(&member, policy) {
                Ok(key) => Some(key),
                Err(error) => {
                    let detail = format!("Member {pointer} of the body: {error}.");
                    return Identity::Refused(Problem::InvalidKey, detail);
                }
            },
            _ => self.client_key.clone(),
        };
        let (origin, key) = match (key, policy.when_missing) {
            (Some(key), _) => (Origin::Client, key),
            (None, WhenMissing::Derive) if hashed.nothing => {
                let detail =
                    "No member of the body says which operation this is, and there is no key.";
                return unsupported(detail.to_owned());
            }
            (None, WhenMissing::Derive) => (
                Origin::Derived,
                fingerprint::derive_key(
                    &self.tenant,
                    &self.method,
                    &self.path,
                    &hashed.fingerprint,
                ),
            ),
            (None, WhenMissing::Pass) => return Identity::Pass,
            (None, WhenMissing::Refuse) => {
                let pointer = policy.from.as_deref().unwrap_or_default();
                let detail = format!("This operation requires the member {pointer} in its body.");
                return Identity::Refused(Problem::MissingKey, detail);
            }
        };
        let namespace = self.policy().namespace.clone();
        let key = LookupKey {
            tenant: self.tenant.clone(),
            namespace,
            origin,
            key,
        };
        Identity::Known(key, hashed.fingerprint)
    }

    /// The `traceparent` that it came with (W3C Trace Context), as long as it travels with operations; empty where
    /// it has none. Whether it is one is for its reader to find out: nothing is decided by it.
    pub fn traceparent(&self) -> Bytes {
        let mut parent = self.headers.get("traceparent").cloned().unwrap_or_default();
        parent.truncate(MAX_TRACEPARENT_BYTES);
        parent
    }

    /// What a record says of this request, for people; not through what it came.
    pub fn about(&self) -> About {
        let text = |bytes: &Bytes| match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => String::from_utf8_lossy(bytes).into_owned(),
        };
        let mut about = About {
            method: text(&self.method),
            path: self.path.clone(),
            rule: self.rule.name.clone(),
            request_id: text(&self.request_id),
            trace_id: self
                .headers
                .get("traceparent")
                .and_then(|parent| trace_id(parent))
                .unwrap_or_default()
                .to_owned(),
            client: text(&self.client),
            gateway: String::new(),
        };
        about.shorten();
        about
    }

    /// The acquire for one execution, through the gateway of this name.
    pub fn acquire(
        &self,
        key: LookupKey,
        owner: Owner,
        fingerprint: Fingerprint,
        gateway: &str,
    ) -> Operation {
        let policy = self.policy();
        let about = About {
            gateway: gateway.to_owned(),
            ..self.about()
        };
        Operation::Acquire(Acquire {
            key,
            owner,
            fingerprint,
            lease_ms: policy.lease_ms,
            retention: Retention {
                ttl_ms: policy.ttl_ms,
                unknown_ttl_ms: policy.unknown_ttl_ms,
            },
            on_unknown: policy.on_unknown,
            kind: AttemptKind::Gateway,
            about: Some(Arc::new(about)),
        })
    }

    fn claim<'a>(&'a self, key: &'a LookupKey, fingerprint: &'a Fingerprint) -> Claim<'a> {
        Claim {
            key,
            method: &self.method,
            path: &self.path,
            fingerprint,
        }
    }

    /// The proof of an execution for a gateway behind this one; `None` where there is none.
    pub fn prove(
        &self,
        key: &LookupKey,
        fingerprint: &Fingerprint,
        grant: &Grant,
    ) -> Option<Bytes> {
        let keys = self.settings.hop.as_ref()?;
        let claim = self.claim(key, fingerprint);
        keys.prove(&claim, grant, self.policy().lease_margin_ms)
    }

    /// What the proof that this request carries is worth before the store has been asked.
    pub fn proven(&self, key: &LookupKey, fingerprint: &Fingerprint) -> Option<Proven> {
        let (keys, carried) = self.settings.hop.as_ref().zip(self.carried.as_ref())?;
        keys.verify(&self.claim(key, fingerprint), carried)
    }

    /// Whether it names the execution with this fence as its own.
    pub fn carries(&self, fence: u64) -> bool {
        let carried = self.carried.as_ref();
        carried.is_some_and(|carried| carried.fence() == Some(fence))
    }

    /// The operation that spends a proof.
    pub fn redeem(key: LookupKey, fingerprint: Fingerprint, proven: &Proven) -> Operation {
        Operation::Redeem(Redeem {
            key,
            fingerprint,
            fence: proven.fence,
            expires_at_ms: proven.expires_at_ms,
        })
    }

    /// The wait for an execution that is in flight.
    pub fn wait(key: LookupKey, fingerprint: Fingerprint, fence: u64, wait_ms: u64) -> Wait {
        Wait {
            key,
            fingerprint,
            fence,
            wait_ms,
        }
    }

    /// A problem document by this request's settings. `key`: the record that it is about, if that is known.
    pub fn problem(
        &self,
        key: Option<&LookupKey>,
        problem: Problem,
        detail: Option<&str>,
    ) -> LocalReply {
        let reply = problem.reply(&self.problem_settings().about(key), detail);
        self.marked(reply, MayBe::of(problem))
    }

    /// The same with another status, and with what is known of its execution.
    pub fn problem_as(
        &self,
        key: Option<&LookupKey>,
        problem: Problem,
        status: u16,
        detail: Option<&str>,
        executed: MayBe,
    ) -> LocalReply {
        let reply = problem.reply_as(status, &self.problem_settings().about(key), detail);
        self.marked(reply, executed)
    }

    /// For the gateway of ours that sent the request, if one did.
    fn marked(&self, mut reply: LocalReply, executed: MayBe) -> LocalReply {
        let mark = self.carried.as_ref().map(|carried| carried.mark(executed));
        reply.headers.extend(mark);
        reply
    }

    /// What the client is told whose own execution was cut: the gateway made an answer with this status, and nobody
    /// knows what the upstream did. 504 stays (a timeout); all else is 502.
    pub fn cut(&self, key: &LookupKey, status: u16) -> LocalReply {
        let detail = "The gateway got no whole answer from the upstream. The request may have been executed.";
        let status = if status == 504 { 504 } else { 502 };
        self.problem_as(
            Some(key),
            Problem::OutcomeUnknown,
            status,
            Some(detail),
            MayBe::Executed,
        )
    }

    /// What problem documents need of this request's settings.
    pub fn problem_settings(&self) -> ProblemSettings<'_> {
        ProblemSettings::new(&self.settings.policies, self.policy(), &self.headers)
    }
}

/// The trace id of a `traceparent` (W3C Trace Context): the second of its fields, 32 lower-case hexadecimal
/// digits, not all zero. Later versions may have more fields.
fn trace_id(parent: &[u8]) -> Option<&str> {
    let mut fields = std::str::from_utf8(parent).ok()?.trim().split('-');
    let (version, id) = (fields.next()?, fields.next()?);
    let hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let right = hex(version, 2) && version != "ff" && hex(id, 32);
    (right && id.bytes().any(|b| b != b'0')).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_is_what_w3c_says() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (parent, expected) in [
            (format!("00-{id}-00f067aa0ba902b7-01"), Some(id)),
            (format!("cc-{id}-00f067aa0ba902b7-01-later"), Some(id)),
            (format!("ff-{id}-00f067aa0ba902b7-01"), None),
            (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), None),
            (
                format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()),
                None,
            ),
            (format!("00-{}-00f067aa0ba902b7-01", &id[1..]), None),
            ("00".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(trace_id(parent.as_bytes()), expected, "{parent}");
        }
    }
}
