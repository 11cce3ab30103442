//! The validated form of a configuration: every value in it is usable as it stands.

use bytes::Bytes;
use idempotency_protocol::MAX_OPERATIONS;
use std::fmt;
use std::sync::Arc;

use super::checks::{self, Checked};
use super::{ConfigError, Policy};

pub use idempotency_protocol::OnUnknown;

/// A gateway that a configuration may name as the one that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// Envoy.
    Envoy,
    /// Kong.
    Kong,
}

impl Gateway {
    /// The name, as the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Gateway::Envoy => "envoy",
            Gateway::Kong => "kong",
        }
    }
}

/// A validated configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The gateway that this configuration is for; `None`: whichever it runs in.
    pub host: Option<Gateway>,
    /// Where the idempotency service is.
    pub service: Service,
    /// Kong: requests whose body comes after the decision about their headers are decided about
    /// then. Only right where nginx does not go on without its client.
    pub kong_late_bodies: bool,
    /// Cluster that leads into the internal listener, for detached execution; `None`: inline only.
    pub detached_cluster: Option<String>,
    /// What is protected, and how.
    pub policies: Policies,
}

/// What is protected and how, whatever program does it.
#[derive(Clone, Debug, PartialEq)]
pub struct Policies {
    /// Prefix of the `type` of problem documents; the problem's name is appended.
    pub problem_base: String,
    /// Name of the response header that marks a replay, as sent.
    pub replay_header: String,
    /// Gateways of ours stand before or behind this one; `None`: nothing is proved, and no proof accepted.
    pub hop: Option<Hop>,
    /// First match wins.
    pub rules: Vec<Arc<Rule>>,
}

/// What gateways in one path prove to each other with.
#[derive(Clone, PartialEq)]
pub struct Hop {
    /// All are accepted, the first one signs.
    pub keys: Vec<String>,
    /// The variable in the environment of the gateway's VM that has the keys, white space between them. There are none
    /// until they are taken, and without any nothing is proved.
    pub key_env: Option<String>,
    /// No gateway of ours stands behind this one, so it proves nothing.
    pub last: bool,
}

/// Shows nothing of the keys.
impl fmt::Debug for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hop")
            .field("keys", &self.keys.len())
            .field("last", &self.last)
            .finish()
    }
}

/// Where the idempotency service is.
#[derive(Clone, PartialEq)]
pub struct Service {
    /// Envoy: the name of a cluster. Kong: `unix:/path` or `host[:port]`.
    pub target: String,
    /// Kong: the service is called over TLS. (On Envoy, the cluster says so.)
    pub tls: bool,
    /// The `:authority` of callouts.
    pub authority: Bytes,
    /// Timeout of one callout (not of waits), in milliseconds.
    pub timeout_ms: u64,
    /// Bearer token of the gateway role.
    pub token: Option<String>,
    /// The variable in the environment of the gateway's VM that has the token.
    pub token_env: Option<String>,
    /// The token as the value of `authorization`.
    pub bearer: Option<Bytes>,
    /// Which operations share a callout.
    pub batch: BatchLimits,
}

/// How many operations share a callout to the service, and how many callouts are out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most callouts that are out at a time; 0: every operation travels alone, and at once.
    pub max_in_flight: usize,
    /// Most operations in one callout, 1 to [`MAX_OPERATIONS`].
    pub max_operations: usize,
}

impl BatchLimits {
    /// Nothing is shared.
    pub const ALONE: BatchLimits = BatchLimits {
        max_in_flight: 0,
        max_operations: 1,
    };
}

impl Default for BatchLimits {
    fn default() -> BatchLimits {
        BatchLimits {
            max_in_flight: 4,
            max_operations: MAX_OPERATIONS,
        }
    }
}

impl Plan {
    /// Takes the token and the keys between gateways from the environment, where the configuration says so. `read` tells
    /// a variable's value.
    ///
    /// # Errors
    ///
    /// If a variable is not there, or its value cannot be what it is to be. The value is not told.
    pub fn take_secrets(
        mut self,
        read: impl Fn(&str) -> Option<Bytes>,
    ) -> Result<Plan, Vec<ConfigError>> {
        let read = |path: &str, name: &str, check: fn(&str) -> Checked| {
            let fault = |message: String| {
                let path = path.to_owned();
                let message = format!("{name}: {message}");
                vec![ConfigError { path, message }]
            };
            let Some(value) = read(name) else {
                let message = "the environment of the VM has no such variable";
                return Err(fault(message.to_owned()));
            };
            let text = std::str::from_utf8(&value).unwrap_or_default().trim_end();
            match check(text) {
                Err(must) => Err(fault(format!("its value {must}"))),
                Ok(()) => Ok(text.to_owned()),
            }
        };
        if let Some(name) = &self.service.token_env {
            let token = read("service.token_env", name, checks::token)?;
            self.service.bearer = Some(format!("Bearer {token}").into());
            self.service.token = Some(token);
        }
        let Some(hop) = &mut self.policies.hop else {
            return Ok(self);
        };
        if let Some(name) = &hop.key_env {
            let keys = read("hop.key_env", name, checks::hop_keys)?;
            hop.keys = keys.split_ascii_whitespace().map(Into::into).collect();
        }
        let token = self.service.token.as_ref();
        if token.is_some_and(|token| hop.keys.contains(token)) {
            return Err(vec![ConfigError {
                path: "hop".to_owned(),
                message: "its key must be one of its own, not service.token".to_owned(),
            }]);
        }
        Ok(self)
    }
}

/// The token is a secret: `Debug` only shows whether there is one.
impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("target", &self.target)
            .field("tls", &self.tls)
            .field("authority", &self.authority)
            .field("timeout_ms", &self.timeout_ms)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("batch", &self.batch)
            .finish()
    }
}

/// Which requests are protected, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// For logs and metrics only; never part of a lookup key.
    pub name: String,
    /// Which requests.
    pub matches: Match,
    /// How.
    pub policy: Policy,
}

impl Rule {
    /// Whether it changes nothing.
    pub fn observes(&self) -> bool {
        self.policy.mode == Mode::Observe
    }
}

/// Which requests a rule protects. Empty lists match everything.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// Upper-case; never `GET`, `HEAD`, `OPTIONS`, `TRACE`, also not where the list is empty.
    pub methods: Vec<String>,
    /// Normalised path.
    pub path: PathMatch,
    /// Lower-case host names without port; `*.example.com` matches any depth below it.
    pub hosts: Vec<String>,
    /// Kong: ids of routes.
    pub routes: Vec<String>,
    /// Kong: ids of services.
    pub services: Vec<String>,
}

impl Match {
    /// Whether only Kong can tell if a request matches.
    pub fn asks_kong(&self) -> bool {
        !self.routes.is_empty() || !self.services.is_empty()
    }
}

/// How a path is matched, after normalisation.
#[derive(Clone, Debug, PartialEq)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// The path itself and everything below it, at segment boundaries.
    Prefix(String),
}

/// What enforcement means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Refuse, wait, replay.
    Enforce,
    /// Only count and log what would have been done.
    Observe,
}

/// Accepted syntax of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySyntax {
    /// An RFC 9651 string, or 1–255 visible ASCII characters without `" , ; \`.
    Any,
    /// An RFC 9651 string, nothing else.
    Strict,
}

/// What happens to a matched request without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenMissing {
    /// 400 `missing-key`.
    Refuse,
    /// Not protected.
    Pass,
    /// The filter derives a key from tenant, operation and fingerprint.
    Derive,
}

/// Where the tenant comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Scope {
    /// One key space for all callers, said in so many words.
    Global,
    /// A header that the authentication in front of the filter sets and a client cannot.
    Header(String),
    /// A property of the host, e.g. JWT metadata in Envoy, `kong.route_id` in Kong.
    Property(Vec<String>),
    /// A hash of `Authorization`, for credentials that never change.
    StaticCredentials,
}

/// What of the body goes into the fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyMode {
    /// Its bytes.
    Raw,
    /// Canonical JSON: member order and white space do not matter.
    Json,
    /// Nothing; content-type counts without its parameters.
    None,
}

/// Who owns the execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// The request goes on through the filter chain; a client that leaves cuts it off.
    Inline,
    /// The gateway; the client may leave.
    Detached,
}

/// What happens when the service gives no decodable answer to an acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnServiceFailure {
    /// 503 `store-unavailable`.
    Refuse,
    /// Forward without protection, marked and counted.
    Pass,
}

/// What happens to the response when it cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnCompleteFailure {
    /// The client gets it; the gateway goes on trying to store it.
    Deliver,
    /// 503 `outcome-unrecorded`, or a reset where the response is already on its way.
    Withhold,
}
