//! What stays the same for the life of one protected request.

use crate::config::{Policy, Rule};
use crate::fingerprint;
use crate::headers::Headers;
use crate::problem::{Problem, ProblemSettings};
use crate::reply::LocalReply;
use crate::settings::Settings;
use bytes::Bytes;
use idempotency_protocol::{
    About, Acquire, AttemptKind, Fingerprint, LookupKey, Operation, Origin, Owner, Retention, Wait,
};
use std::sync::Arc;

/// A request that a rule protects.
#[derive(Debug)]
pub struct Request {
    /// The configuration it met.
    pub settings: Arc<Settings>,
    /// The rule that matched.
    pub rule: Arc<Rule>,
    /// Verified tenant; empty for `scope: "global"`.
    pub tenant: String,
    /// The client's key; `None`: derive one from the fingerprint.
    pub client_key: Option<String>,
    /// Method as sent.
    pub method: Bytes,
    /// Normalised path.
    pub path: String,
    /// All request headers as the client sent them.
    pub headers: Headers,
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

    /// The record's identity.
    pub fn lookup_key(&self, fingerprint: &Fingerprint) -> LookupKey {
        let (origin, key) = match &self.client_key {
            Some(key) => (Origin::Client, key.clone()),
            None => (
                Origin::Derived,
                fingerprint::derive_key(&self.tenant, &self.method, &self.path, fingerprint),
            ),
        };
        let namespace = self.policy().namespace.clone();
        LookupKey {
            tenant: self.tenant.clone(),
            namespace,
            origin,
            key,
        }
    }

    /// What a record says of this request, for people; not who asked, and through what.
    pub fn about(&self) -> About {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let mut about = About {
            method: text(&self.method),
            path: self.path.clone(),
            rule: self.rule.name.clone(),
            request_id: self
                .headers
                .get("x-request-id")
                .map(text)
                .unwrap_or_default(),
            trace_id: self
                .headers
                .get("traceparent")
                .and_then(|parent| trace_id(parent))
                .unwrap_or_default()
                .to_owned(),
            ..About::default()
        };
        about.shorten();
        about
    }

    /// The acquire for one execution.
    pub fn acquire(&self, key: LookupKey, owner: Owner, fingerprint: Fingerprint) -> Operation {
        let policy = self.policy();
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
            about: None,
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

    /// A problem document by this request's settings.
    pub fn problem(&self, problem: Problem, detail: Option<&str>) -> LocalReply {
        problem.reply(&self.problem_settings(), detail)
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
