//! What stays the same for the life of one protected request.

use crate::config::{Policy, Rule};
use crate::fingerprint;
use crate::headers::Headers;
use crate::problem::{Problem, ProblemSettings};
use crate::reply::LocalReply;
use crate::settings::Settings;
use bytes::Bytes;
use idempotency_protocol::{
    Acquire, AttemptKind, Fingerprint, LookupKey, Operation, Origin, Owner, Retention, Wait,
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
