//! What stays the same for the life of one protected request.

use crate::config::{Policy, Rule, WhenMissing};
use crate::fingerprint::{self, Hasher};
use crate::headers::Headers;
use crate::key;
use crate::problem::{Problem, ProblemSettings};
use crate::reply::LocalReply;
use crate::settings::Settings;
use bytes::Bytes;
use idempotency_protocol::{
    Acquire, AttemptKind, Fingerprint, LookupKey, Operation, Origin, Owner, Retention, Wait,
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
