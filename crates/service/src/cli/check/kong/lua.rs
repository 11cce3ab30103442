//! The Lua plugin in Kong's declarative configuration.

use super::{members, names, rules, KongPlace, KongProblem, Tree};
use idempotency_core::config::{self, ConfigError};
use serde_json::Value;

/// Whether a plugin with the filter's name is the Lua plugin: its configuration is an object, and does not say that it
/// is the filter's (`host: kong`).
pub(super) fn is_plugin(plugin: &Value) -> bool {
    let config = &plugin["config"];
    !config.is_string() && config["host"] != "kong"
}

/// What the plugin itself would say of its configuration when Kong loads it.
fn plan(config: &Value) -> Result<config::Plan, Vec<ConfigError>> {
    // What is written as null is not set; so Kong reads it.
    let mut config = config.clone();
    if let Some(fields) = config.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    config::parse(&config.to_string()).and_then(config::fit_plugin)
}

/// Whether this plugin is ours, and switched on.
fn is_ours(plugin: &Value, name: &str) -> bool {
    plugin["name"] == name && super::is_enabled(plugin) && is_plugin(plugin)
}

/// The places with the plugin, and what is wrong.
pub(super) fn find<'a>(
    tree: &Tree<'a>,
    name: &str,
    found: &mut Vec<String>,
    problems: &mut Vec<KongProblem<'a>>,
) {
    let mut tell = |at: &'a Value, place: &str, text: &str, is_note: bool| {
        problems.push(KongProblem {
            at,
            error: None,
            text: format!("{place}: {text}"),
            is_note,
        });
    };
    let mut sites: Vec<(String, &'a Value)> = Vec::new();
    for place in tree.places() {
        let at = tree.at(place, "plugins");
        let plugins: Vec<&Value> = at.filter(|plugin| is_ours(plugin, name)).collect();
        if let Some(second) = plugins.get(1) {
            let text = "the plugin stands here twice, and Kong takes one of each name";
            tell(second, &place.to_string(), text, false);
        }
        for plugin in plugins {
            let site = place.to_string();
            around(tree, place, name, plugin, &mut |at, text, is_note| {
                tell(at, &site, text, is_note);
            });
            sites.push((site, plugin));
        }
    }
    for plugin in members(tree.document, "plugins").filter(|plugin| is_ours(plugin, name)) {
        let of = |kind: &str| plugin.get(kind).is_some_and(|of| !of.is_null());
        if of("consumer") || of("consumer_group") {
            tell(plugin, "a consumer", FOR_CONSUMERS, false);
        } else if !of("service") && !of("route") {
            sites.push(("everywhere".to_owned(), plugin));
        }
    }
    for kind in ["consumers", "consumer_groups"] {
        for owner in members(tree.document, kind) {
            for plugin in members(owner, "plugins").filter(|plugin| is_ours(plugin, name)) {
                let owner = names(owner).next().unwrap_or_default();
                let place = format!("{} {owner}", kind.trim_end_matches('s'));
                tell(plugin, &place, FOR_CONSUMERS, false);
            }
        }
    }
    for (place, plugin) in sites {
        let config = &plugin["config"];
        match plan(config) {
            Ok(plan) => {
                let count = rules(plan.policies.rules.len());
                found.push(format!("{place} (plugin, {count})"));
            }
            Err(errors) => problems.extend(errors.into_iter().map(|error| KongProblem {
                at: config,
                text: format!("{place}: {error}"),
                error: Some(error),
                is_note: false,
            })),
        }
    }
}

const FOR_CONSUMERS: &str =
    "the plugin cannot stand on a consumer: who asks would choose how keys are kept";

/// What stands around the plugin.
fn around<'a>(
    tree: &Tree<'a>,
    place: KongPlace<'a>,
    name: &str,
    plugin: &'a Value,
    tell: &mut impl FnMut(&'a Value, &str, bool),
) {
    let also = [Some(place), place.service().map(KongPlace::Service)];
    if also
        .into_iter()
        .flatten()
        .any(|place| !tree.filters(place, name).is_empty())
    {
        let text = "the filter stands on this way, too: the second would meet the first one's lock";
        tell(plugin, text, false);
    }
    let Some(service) = place.service() else {
        return;
    };
    let certificate = service.get("client_certificate");
    if let Some(certificate) = certificate.filter(|certificate| !certificate.is_null()) {
        let text =
            "the plugin cannot show client_certificate to the service: protected requests get 503";
        tell(certificate, text, false);
    }
    let protocol = service.get("protocol").and_then(Value::as_str);
    if let Some(protocol) = protocol.filter(|protocol| !["http", "https"].contains(protocol)) {
        let text = format!("the plugin protects services of http and https, not {protocol}");
        tell(service, &text, false);
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use serde_json::{json, Value};

    fn plugin() -> Value {
        json!({ "name": "idempotency", "config": {
            "service": { "target": "unix:/s", "token": "{vault://env/idempotency-token}" },
            "rules": [{ "match": { "path": "/a" }, "scope": { "property": ["kong", "consumer", "custom_id"] } }],
        } })
    }

    fn document() -> Value {
        json!({
            "_format_version": "3.0",
            "services": [{
                "name": "pay", "url": "http://pay", "plugins": [plugin()],
                "routes": [{ "name": "charges" }],
            }],
            "consumers": [{ "username": "acme" }],
        })
    }

    fn told(document: &Value) -> String {
        match check(document, "idempotency") {
            Ok(found) => found,
            Err(faults) => faults.join("\n"),
        }
    }

    /// Neither retries nor code before it matter to the plugin.
    #[test]
    fn the_plugin_is_found_wherever_kong_takes_it() {
        assert_eq!(told(&document()), "service pay (plugin, 1 rule)");

        let mut flat = document();
        flat["services"][0]["plugins"] = json!([]);
        flat["plugins"] = json!([plugin()]);
        assert_eq!(told(&flat), "everywhere (plugin, 1 rule)");

        for at in [json!("charges"), json!({ "name": "charges" })] {
            flat["plugins"][0]["route"] = at;
            assert_eq!(told(&flat), "route charges (plugin, 1 rule)");
        }
        // Both may be there: Kong runs the nearest.
        let mut both = document();
        both["services"][0]["routes"][0]["plugins"] = json!([plugin()]);
        assert_eq!(
            told(&both),
            "service pay (plugin, 1 rule), route charges (plugin, 1 rule)"
        );
        let mut off = document();
        off["services"][0]["plugins"][0]["enabled"] = json!(false);
        assert_eq!(told(&off), "there is no filter or plugin idempotency in it");
    }

    type Spoil = fn(&mut Value);

    #[test]
    fn each_fault_is_named_with_its_place() {
        let cases: [(Spoil, &str); 11] = [
            (
                |d| d["services"][0]["plugins"][0]["config"]["rules"][0]["leasems"] = json!(1),
                "service pay: rules[0].leasems: ",
            ),
            (
                |d| d["services"][0]["plugins"][0]["config"]["service_id"] = json!("x"),
                "service pay: service_id: ",
            ),
            (
                |d| {
                    d["services"][0]["plugins"][0]["config"]["rules"][0]["scope"] =
                        json!({ "property": ["metadata", "x"] })
                },
                "service pay: rules[0].scope.property: ",
            ),
            (
                |d| d["services"][0]["plugins"][0]["config"]["service"]["target"] = json!("unix:s"),
                "service pay: service.target: ",
            ),
            (
                |d| d["services"][0]["plugins"][0]["config"]["host"] = json!("envoy"),
                "service pay: host: ",
            ),
            (
                |d| d["services"][0]["plugins"] = json!([plugin(), plugin()]),
                "service pay: the plugin stands here twice",
            ),
            (
                |d| d["consumers"][0]["plugins"] = json!([plugin()]),
                "consumer acme: the plugin cannot stand on a consumer",
            ),
            (
                |d| {
                    let mut of_consumer = plugin();
                    of_consumer["consumer"] = json!("acme");
                    d["plugins"] = json!([of_consumer]);
                },
                "a consumer: the plugin cannot stand on a consumer",
            ),
            (
                |d| d["services"][0]["client_certificate"] = json!({ "id": "c" }),
                "service pay: the plugin cannot show client_certificate",
            ),
            (
                |d| d["services"][0]["protocol"] = json!("grpc"),
                "service pay: the plugin protects services of http and https",
            ),
            (
                |d| {
                    d["services"][0]["filter_chains"] =
                        json!([{ "filters": [{ "name": "idempotency", "config": {} }] }])
                },
                "service pay: the filter stands on this way, too",
            ),
        ];
        for (number, (spoil, fault)) in cases.into_iter().enumerate() {
            let mut spoilt = document();
            spoil(&mut spoilt);
            let faults = check(&spoilt, "idempotency").unwrap_err();
            assert!(
                faults.iter().any(|told| told.starts_with(fault)),
                "{number}: {faults:?}"
            );
        }
    }

    /// What stands among the plugins and is the filter's is still looked at as the filter.
    #[test]
    fn a_filter_among_the_plugins_says_so() {
        let mut filter = document();
        filter["services"][0]["plugins"][0]["config"]["host"] = json!("kong");
        let faults = check(&filter, "idempotency").unwrap_err();
        assert!(
            faults.iter().any(|told| told.contains("retries")),
            "{faults:?}"
        );
    }
}
