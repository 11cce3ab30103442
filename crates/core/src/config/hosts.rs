//! What a configuration may say in which host. Faults that cannot be known before the host is: an
//! explicit `host` brings them forward to [`super::parse`].

use super::{checks, ConfigError, Gateway, OnCompleteFailure, Plan, Scope};

/// Fits a plan to the host that it runs in, or says why it cannot work there.
pub fn fit(plan: Plan, gateway: Gateway) -> Result<Plan, Vec<ConfigError>> {
    let mut faults = Vec::new();
    let mut fault = |path: String, message: String| faults.push(ConfigError { path, message });
    if let Some(wanted) = plan.host.filter(|host| *host != gateway) {
        fault(
            "host".to_owned(),
            format!(
                "is \"{}\", but this host behaves like \"{}\"",
                wanted.name(),
                gateway.name()
            ),
        );
    }
    match gateway {
        Gateway::Envoy => envoy(&plan, &mut fault),
        Gateway::Kong => kong(&plan, &mut fault),
    }
    if faults.is_empty() {
        Ok(plan)
    } else {
        Err(faults)
    }
}

fn envoy(plan: &Plan, fault: &mut impl FnMut(String, String)) {
    if plan.service.tls {
        let message = "is for Kong; in Envoy, the service's cluster has the TLS settings";
        fault("service.tls".to_owned(), message.to_owned());
    }
    for (index, rule) in plan.policies.rules.iter().enumerate() {
        if rule.matches.asks_kong() {
            let message = "kong_routes and kong_services match in Kong only";
            fault(format!("rules[{index}].match"), message.to_owned());
        }
        if matches!(&rule.policy.scope, Scope::Property(path) if is_kongs(path)) {
            let message = "Envoy has no such property";
            fault(format!("rules[{index}].scope.property"), message.to_owned());
        }
    }
}

fn kong(plan: &Plan, fault: &mut impl FnMut(String, String)) {
    if !checks::is_kong_target(&plan.service.target) {
        let message = "must be unix:/path, host, host:port or ip:port in Kong";
        fault("service.target".to_owned(), message.to_owned());
    }
    for (index, rule) in plan.policies.rules.iter().enumerate() {
        if rule.policy.on_complete_failure == OnCompleteFailure::Withhold {
            let message = "\"withhold\" cannot work in Kong, which does not let a filter hold \
                           responses back";
            fault(
                format!("rules[{index}].on_complete_failure"),
                message.to_owned(),
            );
        }
        if matches!(&rule.policy.scope, Scope::Property(path) if !is_kongs(path)) {
            let message = "must be kong.route_id, kong.route_name, kong.service_id, \
                           kong.service_name, kong.ctx.shared.… or a variable of nginx (ngx.…); \
                           other properties fail in Kong, and some stop the filter";
            fault(format!("rules[{index}].scope.property"), message.to_owned());
        }
    }
}

fn is_kongs(path: &[String]) -> bool {
    is_kong_property(&path.join("."))
}

/// What Kong's PDK tells of the caller, as sources of tenants for the Lua plugin.
pub const KONG_CALLER: [&str; 4] = [
    "kong.consumer.id",
    "kong.consumer.custom_id",
    "kong.consumer.username",
    "kong.credential.id",
];

/// What a configuration of Kong's Lua plugin may say. One that names `kong` as its host is the filter's, and is held
/// to what the filter can do, too, before it comes here.
pub fn fit_plugin(plan: Plan) -> Result<Plan, Vec<ConfigError>> {
    let mut faults = Vec::new();
    let mut fault = |path: String, message: &str| {
        faults.push(ConfigError {
            path,
            message: message.to_owned(),
        });
    };
    if plan.host == Some(Gateway::Envoy) {
        fault("host".to_owned(), "is \"envoy\", but this is Kong");
    }
    if !checks::is_kong_target(&plan.service.target) {
        let message = "must be unix:/path, host, host:port or ip:port in Kong";
        fault("service.target".to_owned(), message);
    }
    for (index, rule) in plan.policies.rules.iter().enumerate() {
        if rule.observes() {
            let message = "the Lua plugin only enforces; watch with the wasm filter";
            fault(format!("rules[{index}].mode"), message);
        }
        let Scope::Property(path) = &rule.policy.scope else {
            continue;
        };
        let name = path.join(".");
        if !is_kong_property(&name) && !KONG_CALLER.contains(&name.as_str()) {
            let message =
                "must be kong.route_id, kong.route_name, kong.service_id, kong.service_name, \
                 kong.consumer.id, kong.consumer.custom_id, kong.consumer.username, \
                 kong.credential.id, kong.ctx.shared.… or a variable of nginx (ngx.…)";
            fault(format!("rules[{index}].scope.property"), message);
        }
    }
    match faults.is_empty() {
        true => Ok(plan),
        false => Err(faults),
    }
}

/// Properties that Kong's host answers without fail. The others are unknown to it, or belong to Lua
/// code that may raise an error, which traps (`kong.response.source` always does in 3.9).
pub fn is_kong_property(name: &str) -> bool {
    const PLAIN: [&str; 4] = [
        "kong.route_id",
        "kong.route_name",
        "kong.service_id",
        "kong.service_name",
    ];
    PLAIN.contains(&name)
        || ["kong.ctx.shared.", "ngx."]
            .iter()
            .any(|prefix| name.len() > prefix.len() && name.starts_with(prefix))
}
