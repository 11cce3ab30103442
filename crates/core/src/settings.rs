//! A validated configuration, ready to decide about requests.

use crate::config::{Policies, Rule};
use crate::fingerprint::{self, Hasher, Head, LastHead};
use crate::hop;
use crate::names::Names;
use crate::rules::Matched;
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
    /// What the program around this crate can do.
    pub capabilities: Capabilities,
    /// Keys for proofs to other gateways; `None`: there are none.
    pub hop: Option<hop::Keys>,
    /// The fingerprint schemes of the rules, which cost a hash each. Private, so that only
    /// [`Settings::new`] can make settings, where they come from the same rules.
    schemes: Vec<Scheme>,
    /// What the last request of each rule began with.
    heads: Vec<LastHead>,
}

impl Settings {
    /// Prepares a configuration.
    pub fn new(policies: Policies, capabilities: Capabilities) -> Settings {
        let scheme = |rule: &Arc<Rule>| fingerprint::scheme(&rule.policy.fingerprint);
        let head = |rule: &Arc<Rule>| LastHead::of(&rule.policy.fingerprint);
        Settings {
            names: Names::of(&policies),
            hop: policies.hop.as_ref().map(hop::Keys::new),
            schemes: policies.rules.iter().map(scheme).collect(),
            heads: policies.rules.iter().map(head).collect(),
            policies,
            capabilities,
        }
    }

    /// The rules; the first match wins.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.policies.rules
    }

    /// The fingerprint scheme of a rule that matched.
    pub(crate) fn scheme(&self, matched: &Matched) -> Scheme {
        let scheme = self.schemes.get(matched.index).copied();
        scheme.unwrap_or_else(|| fingerprint::scheme(&matched.rule.policy.fingerprint))
    }

    /// The hash of a request that a rule matched, up to its body.
    #[inline(never)]
    pub(crate) fn hasher(&self, matched: &Matched, head: &Head) -> Hasher {
        let policy = &matched.rule.policy.fingerprint;
        let scheme = self.scheme(matched);
        match self.heads.get(matched.index) {
            Some(last) => Hasher::remembering(policy, scheme, head, last),
            None => Hasher::of(policy, scheme, head),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::rules::{self, Place, RuleMatch};

    const CONFIG: &str = r#"{"service":{"target":"s"},"defaults":{"scope":"global"},"rules":[
        {"match":{"path":"/a"}},
        {"match":{"path":"/b"},"fingerprint":{"body":"json"}},
        {"match":{"path":"/c"},"fingerprint":{"headers":["x-c"]}}]}"#;

    /// There is one list of rules: what is matched is what was configured, and each rule has the
    /// scheme of its own policy.
    #[test]
    fn rules_and_schemes_are_those_of_the_configuration() {
        let policies = config::parse(CONFIG).unwrap().policies;
        let configured = policies.rules.clone();
        let capabilities = Capabilities {
            removes_fields: true,
        };
        let settings = Settings::new(policies, capabilities);
        assert!(std::ptr::eq(settings.rules(), &settings.policies.rules[..]));
        let mut schemes = Vec::new();
        for (rule, path) in configured.iter().zip(["/a", "/b", "/c"]) {
            let found = rules::find(settings.rules(), b"POST", Place::default(), path.as_bytes());
            let RuleMatch::Rule(matched) = found else {
                panic!("{path} is not protected");
            };
            assert!(Arc::ptr_eq(matched.rule, rule), "{path}");
            let scheme = settings.scheme(&matched);
            assert_eq!(scheme, fingerprint::scheme(&rule.policy.fingerprint));
            assert!(!schemes.contains(&scheme), "{path}");
            schemes.push(scheme);
        }
    }
}
