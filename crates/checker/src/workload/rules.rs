//! The rules under which clients call.

use idempotency_stack::{filter_config, Tokens};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use crate::history::TENANT_HEADER;
use crate::orders;

/// How the paths begin that lead through a second gateway.
pub const HOP: &str = "/hop";

/// One rule, as far as the model needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its path, and its name.
    pub path: String,
    /// Executed by the gateway itself, whether or not the client stays.
    #[serde(default)]
    pub detached: bool,
    /// How long a duplicate waits for the first answer.
    #[serde(default)]
    pub wait_ms: u64,
    /// An unknown outcome may be executed again.
    #[serde(default)]
    pub retries: bool,
    /// An answer that cannot be stored is withheld.
    #[serde(default)]
    pub withholds: bool,
    /// The key is a member of the body, of which nothing else counts: the caller is a sender of webhooks.
    #[serde(default)]
    pub hooks: bool,
    /// When the gateway gives an execution up, in milliseconds.
    pub timeout_ms: u64,
}

impl Rule {
    /// Where a request goes.
    pub fn target(&self, moved: bool) -> String {
        let end = if moved { "/moved" } else { "" };
        format!("{}{end}", self.path)
    }
}

/// All rules, and their times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Every rule.
    pub rules: Vec<Rule>,
    /// Lease, in milliseconds.
    pub lease_ms: u64,
    /// How long the gateway waits for an answer of the service, in milliseconds.
    pub service_timeout_ms: u64,
}

impl Rules {
    /// Inline and detached; with and without a wait; with and without permission to execute an
    /// unknown outcome again; delivering and withholding what cannot be stored; keys in headers and in
    /// bodies; through one gateway and through two.
    pub fn with_lease(lease_ms: u64) -> Self {
        let mut rules = Vec::new();
        for (name, detached) in [("inline", false), ("detached", true)] {
            let plain = Rule {
                path: format!("/{name}"),
                detached,
                wait_ms: 0,
                retries: false,
                withholds: false,
                hooks: false,
                // An inline execution may outlive its first lease; a detached one may not.
                timeout_ms: if detached {
                    lease_ms * 6 / 10
                } else {
                    lease_ms * 16 / 10
                },
            };
            let named = |suffix: &str| format!("/{name}-{suffix}");
            rules.push(Rule {
                path: named("wait"),
                wait_ms: lease_ms * 3 / 10,
                ..plain.clone()
            });
            rules.push(Rule {
                path: named("withhold"),
                withholds: true,
                ..plain.clone()
            });
            rules.push(Rule {
                path: named("retry"),
                retries: true,
                wait_ms: if detached { lease_ms * 3 / 10 } else { 0 },
                ..plain.clone()
            });
            rules.push(Rule {
                path: format!("{HOP}-{name}"),
                ..plain.clone()
            });
            rules.push(Rule {
                path: named("hooks"),
                hooks: true,
                wait_ms: if detached { 0 } else { lease_ms * 3 / 10 },
                ..plain.clone()
            });
            rules.push(plain);
        }
        Self {
            rules,
            lease_ms,
            service_timeout_ms: lease_ms / 4,
        }
    }

    /// The filter's configuration.
    pub fn filter(&self, tokens: &Tokens) -> Value {
        let mut rules: Vec<_> = self.rules.iter().map(|rule| self.rule(rule)).collect();
        rules.push(orders::rule(self.lease_ms));
        let mut config = filter_config(tokens, json!(rules));
        config["service"]["timeout_ms"] = json!(self.service_timeout_ms);
        config["hop"] = json!({ "key": "the-key-of-two-gateways" });
        config
    }

    /// That of the gateway behind the others.
    pub fn last_filter(&self, tokens: &Tokens) -> Value {
        let mut config = self.filter(tokens);
        config["hop"]["last"] = json!(true);
        config
    }

    fn rule(&self, rule: &Rule) -> Value {
        let word = |yes, no, is| if is { yes } else { no };
        let mut config = json!({
            "name": rule.path.trim_start_matches('/'),
            "match": { "methods": ["POST"], "path_prefix": rule.path },
            "scope": { "header": TENANT_HEADER },
            "execution": word("detached", "inline", rule.detached),
            "lease_ms": self.lease_ms,
            "lease_margin_ms": self.lease_ms / 5,
            "wait_ms": rule.wait_ms,
            "on_unknown": word("retry", "refuse", rule.retries),
            "on_complete_failure": word("withhold", "deliver", rule.withholds),
        });
        if rule.hooks {
            config["key"] = json!({ "from": "/id" });
        }
        if rule.detached {
            config["execution_timeout_ms"] = json!(rule.timeout_ms);
        }
        config
    }
}
