//! A validated configuration, ready to decide about requests.

use crate::config::{Policies, Rule};
use crate::fingerprint;
use crate::names::Names;
use idempotency_protocol::Scheme;
use std::sync::Arc;

/// What the program around this crate can do to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// It can remove and replace fields before a request goes on. Where it cannot (a filter in nginx),
    /// what would have to be removed is refused instead.
    pub removes_fields: bool,
}

/// What is protected and how, shared by all requests.
#[derive(Debug)]
pub struct Settings {
    /// The configuration.
    pub policies: Policies,
    /// The fields that its rules compare, remove or hash.
    pub names: Names,
    /// The fingerprint schemes of its rules, which cost a hash each.
    pub schemes: Vec<Scheme>,
    /// What the program around this crate can do.
    pub capabilities: Capabilities,
}

impl Settings {
    /// Prepares a configuration.
    pub fn new(policies: Policies, capabilities: Capabilities) -> Settings {
        let scheme = |rule: &Arc<Rule>| fingerprint::scheme(&rule.policy.fingerprint);
        Settings {
            names: Names::of(&policies),
            schemes: policies.rules.iter().map(scheme).collect(),
            policies,
            capabilities,
        }
    }

    /// The rules; the first match wins.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.policies.rules
    }
}
