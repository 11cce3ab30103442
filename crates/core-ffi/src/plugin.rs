//! A configuration, validated for a host that makes the call to the upstream by itself.
//!
//! It is the filter's configuration. What the host of a filter cannot do and this one can is accepted here, and the
//! other way round: see [`Plugin::new`].

use idempotency_core::config::{self, ConfigError, Plan, Scope, Service};
use idempotency_core::settings::{Capabilities, Settings};
use idempotency_protocol::dialect::Dialect;
use idempotency_protocol::Wire;
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The properties of Kong's route and service that a rule may match by.
const PLACE: [&str; 2] = ["kong.route_id", "kong.service_id"];

/// A configuration that was accepted.
#[derive(Debug)]
pub struct Ready {
    /// What is protected, and how.
    pub settings: Arc<Settings>,
    /// Where the service is.
    pub service: Service,
    /// The properties that its rules may ask for, by their names with dots.
    pub properties: Vec<String>,
}

/// A configuration, accepted or not. One that was not refuses requests.
#[derive(Debug)]
pub struct Plugin {
    ready: Option<Ready>,
    /// One line for each fault; empty: there is none.
    errors: String,
    dialect: Mutex<Dialect>,
}

impl Plugin {
    /// Reads a configuration (JSON). `environment` tells the value of a variable, for `service.token_env` and
    /// `hop.key_env`.
    ///
    /// Other than in the wasm filter on Kong: `on_complete_failure: withhold` works, and tenants may come from
    /// [`config::KONG_CALLER`]. `mode: observe` is refused, since watching without touching is the filter's. A configuration that
    /// names `kong` as its `host` is the filter's, and is held to what the filter can do, too.
    pub fn new(json: &[u8], environment: impl Fn(&str) -> Option<String>) -> Plugin {
        let plan = config::parse_bytes(json)
            .and_then(|plan| plan.take_secrets(|name| environment(name).map(Into::into)))
            .and_then(config::fit_plugin);
        let (ready, errors) = match plan {
            Ok(plan) => (Some(Ready::new(plan)), String::new()),
            Err(errors) => (None, lines(&errors)),
        };
        Plugin {
            ready,
            errors,
            dialect: Mutex::default(),
        }
    }

    /// What is protected, if the configuration was accepted.
    pub fn ready(&self) -> Option<&Ready> {
        self.ready.as_ref()
    }

    /// Why it was not; one line for each fault, with the path of its field.
    pub fn errors(&self) -> &str {
        &self.errors
    }

    /// The version of the wire protocol to speak now.
    pub fn wire(&self, now: Duration) -> Wire {
        match self.dialect.lock() {
            Ok(dialect) => dialect.wire(nanoseconds(now)),
            Err(_) => Wire::Two,
        }
    }

    /// The service refused a message of the newest version.
    pub fn refused(&self, now: Duration) {
        if let Ok(mut dialect) = self.dialect.lock() {
            dialect.refused(nanoseconds(now));
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn lines(errors: &[ConfigError]) -> String {
    let mut lines = String::new();
    for error in errors {
        let _ = writeln!(lines, "{error}");
    }
    lines.truncate(lines.trim_end().len());
    lines
}

impl Ready {
    fn new(plan: Plan) -> Ready {
        let mut properties: Vec<String> = Vec::new();
        let mut ask = |name: String| {
            if !properties.contains(&name) {
                properties.push(name);
            }
        };
        for rule in &plan.policies.rules {
            if let Scope::Property(path) = &rule.policy.scope {
                ask(path.join("."));
            }
            if rule.matches.asks_kong() {
                PLACE.into_iter().for_each(|name| ask(name.to_owned()));
            }
        }
        let capabilities = Capabilities {
            removes_fields: true,
        };
        Ready {
            settings: Arc::new(Settings::new(plan.policies, capabilities)),
            service: plan.service,
            properties,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(json: &str) -> String {
        let plugin = Plugin::new(json.as_bytes(), |_| None);
        assert_eq!(plugin.ready().is_some(), plugin.errors().is_empty());
        plugin.errors().to_owned()
    }

    fn with_rule(rule: &str) -> String {
        format!(
            r#"{{"service":{{"target":"unix:/s"}},"rules":[{{"match":{{"path":"/a"}},{rule}}}]}}"#
        )
    }

    #[test]
    fn what_this_host_can_do_is_accepted_and_nothing_else() {
        for (rule, fault) in [
            (r#""scope":"global""#, ""),
            (r#""scope":"global","on_complete_failure":"withhold""#, ""),
            (
                r#""scope":{"property":["kong","consumer","custom_id"]}"#,
                "",
            ),
            (r#""scope":{"property":["ngx","ssl_client_s_dn"]}"#, ""),
            (
                r#""scope":{"property":["metadata","x"]}"#,
                "rules[0].scope.property: ",
            ),
            (r#""scope":"global","mode":"observe""#, "rules[0].mode: "),
            (r#""scope":"global","leasems":1"#, "rules[0].leasems: "),
        ] {
            let told = errors(&with_rule(rule));
            assert!(told.starts_with(fault), "{rule}: {told}");
            assert_eq!(told.is_empty(), fault.is_empty(), "{rule}: {told}");
        }
        assert!(errors("{").contains("JSON"));
        let envoy = with_rule(r#""scope":"global""#).replacen('{', r#"{"host":"envoy","#, 1);
        assert!(errors(&envoy).starts_with("host: "));
    }

    #[test]
    fn the_token_may_come_from_the_environment() {
        let json = r#"{"service":{"target":"s:1","token_env":"TOKEN"},"rules":[
            {"match":{"path":"/a"},"scope":{"property":["kong","route_id"]}}]}"#;
        let plugin = Plugin::new(json.as_bytes(), |name| {
            assert_eq!(name, "TOKEN");
            Some("secret-of-the-gateway".to_owned())
        });
        assert_eq!(plugin.errors(), "");
        let ready = plugin.ready().unwrap();
        let bearer = ready.service.bearer.as_deref();
        assert_eq!(bearer, Some(&b"Bearer secret-of-the-gateway"[..]));
        assert_eq!(ready.properties, ["kong.route_id"]);
        assert!(Plugin::new(json.as_bytes(), |_| None).ready().is_none());
    }

    #[test]
    fn a_service_of_an_earlier_release_is_spoken_to_in_its_version_for_a_while() {
        let plugin = Plugin::new(b"", |_| None);
        let second = Duration::from_secs(1);
        assert_eq!(plugin.wire(second), Wire::Two);
        plugin.refused(second);
        assert_eq!(plugin.wire(2 * second), Wire::One);
        assert_eq!(plugin.wire(62 * second), Wire::Two);
    }
}
