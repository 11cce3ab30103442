//! `kong/`: the declarative configuration, the settings, the schema.

use idempotency_core::config::{self, Gateway, PathMatch, Plan, Scope};
use serde_json::{json, Value};

use crate::report::{self, Report};
use crate::repository::{elements, members, parse_yaml, read, strings, yaml};
use crate::{compose, dockerfile};

/// The headers that Kong's authentication sets, or removes.
const IDENTITY: [&str; 3] = [
    "x-consumer-id",
    "x-consumer-custom-id",
    "x-credential-identifier",
];

const AUTHENTICATION: [&str; 6] = [
    "basic-auth",
    "hmac-auth",
    "jwt",
    "key-auth",
    "ldap-auth",
    "oauth2",
];

fn schema() -> jsonschema::Validator {
    let meta: Value = serde_json::from_str(&read("kong/idempotency.meta.json")).unwrap();
    jsonschema::draft4::new(&meta["config_schema"]).unwrap()
}

/// What is wrong with a declarative configuration.
pub fn faults(text: &str) -> Vec<String> {
    let mut report = Report::default();
    let document = parse_yaml(text).unwrap();
    report.expect(
        document["_format_version"] == "3.0",
        "_format_version: must be \"3.0\"",
    );
    for (name, _) in members(&document) {
        let known = ["_format_version", "services", "consumers", "plugins"];
        report.expect(known.contains(&name), format!("{name}: not known here"));
    }
    for name in bare_numbers(text) {
        report.fault(format!(
            "{name}: must be in quotes, in Kong it would be a number"
        ));
    }
    for service in elements(&document["services"]) {
        let name = service["name"].as_str().unwrap_or_default();
        let mut inner = Report::default();
        self::service(&mut inner, service, &document["consumers"]);
        inner.expect(
            elements(&document["plugins"]).any(|plugin| guards(plugin, name)),
            "plugins: none guards it",
        );
        for fault in inner.faults() {
            report.fault(format!("{name}: {fault}"));
        }
    }
    report.expect(
        elements(&document["plugins"]).any(clears_names),
        "plugins: none clears header names that can be taken for others",
    );
    report.expect(
        elements(&document["services"]).count() > 0,
        "services: there are none",
    );
    report.faults()
}

/// What the code before the filter must do: read bodies (lua-nginx-module raises an error where an
/// HTTP/2 request announces no length), then refuse what would run without protection or could not be
/// recorded.
const GUARD: [&str; 4] = [
    "if kong.request.get_http_version() < 2 or kong.request.get_header(\"content-length\") then\n  \
     kong.request.get_raw_body()\nend\n",
    "local buffered = ngx.ctx.buffered_proxying\n",
    "local leaving = ngx.worker.exiting() or ngx.var.idempotency_drain == \"1\"\n",
    "if buffered or leaving then\n",
];

/// Whether a plugin guards a service.
fn guards(plugin: &Value, service: &str) -> bool {
    let code = strings(&plugin["config"]["access"]).concat();
    let mut rest = code.as_str();
    let in_order = GUARD.iter().all(|part| {
        let found = rest.split_once(part);
        rest = found.map_or("", |(_, rest)| rest);
        found.is_some()
    });
    plugin["name"] == "post-function" && plugin["service"] == service && in_order
}

/// What clears them, as run in nginx (`docs/kong-facts.md`).
const CLEARS_NAMES: &str = "\
for name in pairs(kong.request.get_headers(1000)) do
  if name:find(\"[^%w-]\") then
    kong.service.request.clear_header(name)
  end
end
-- Not in a Kong that stands behind another gateway with the filter: docs/hops.md.
for _, name in ipairs({ \"Fence\", \"Attempt\", \"Record\", \"Proof\", \"Unprotected\" }) do
  kong.service.request.clear_header(\"Idempotency-\" .. name)
end";

/// Whether a plugin clears what a filter cannot remove, in front of everything.
fn clears_names(plugin: &Value) -> bool {
    plugin["name"] == "pre-function" && strings(&plugin["config"]["access"]) == [CLEARS_NAMES]
}

/// Names of members that are numbers without quotes.
fn bare_numbers(text: &str) -> Vec<&str> {
    let before = text.match_indices(": ").map(|(at, _)| &text[..at]);
    before
        .filter_map(|before| before.rsplit([' ', '{', '\n']).next())
        .filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()))
        .collect()
}

fn service(report: &mut Report, service: &Value, consumers: &Value) {
    let keys = [
        "name",
        "url",
        "retries",
        "connect_timeout",
        "read_timeout",
        "routes",
        "filter_chains",
        "plugins",
    ];
    for (name, _) in members(service) {
        report.expect(keys.contains(&name), format!("{name}: not known here"));
    }
    report.expect(service["retries"] == 0, "retries: must be 0");
    let stack = yaml(&compose::path("kong"));
    let url = service["url"].as_str().unwrap_or_default();
    let upstream = url
        .strip_prefix("http://")
        .and_then(|authority| authority.split_once(':'));
    let (host, port) = upstream.unwrap_or_default();
    let command = strings(&stack["services"][host]["command"]);
    report.expect(
        command
            .iter()
            .any(|word| !port.is_empty() && word.ends_with(&format!(":{port}"))),
        format!("url: {url}: no such service of the stack"),
    );

    let routes: Vec<&Value> = elements(&service["routes"]).collect();
    for route in &routes {
        let known = ["name", "paths", "strip_path", "plugins", "filter_chains"];
        for (name, _) in members(route) {
            report.expect(
                known.contains(&name),
                format!("routes: {name}: not known here"),
            );
        }
        // The demo upstream wants the whole path.
        report.expect(route["strip_path"] == false, "strip_path: must be false");
    }
    let own = !service["filter_chains"].is_null();
    let of_routes = routes
        .iter()
        .filter(|route| !route["filter_chains"].is_null());
    report.expect(
        own || of_routes.clone().count() > 0,
        "filter_chains: there is none",
    );
    report.expect(
        !(own && of_routes.clone().count() > 0),
        "filter_chains: on the service and on a route: the filter would run twice",
    );
    if own {
        chains(report, service, &routes, service, consumers);
    }
    for route in of_routes {
        chains(report, route, &[route], service, consumers);
    }
}

/// The filter chains of a service or a route (`holder`), which is reached through `routes`.
fn chains(
    report: &mut Report,
    holder: &Value,
    routes: &[&Value],
    service: &Value,
    consumers: &Value,
) {
    let chains: Vec<&Value> = elements(&holder["filter_chains"]).collect();
    report.expect(chains.len() == 1, "filter_chains: Kong allows one");
    for filter in chains.iter().flat_map(|chain| elements(&chain["filters"])) {
        report.expect(filter["name"] == filter_name(), "filters: no such filter");
        let Some(plan) = plan(report, &filter["config"]) else {
            continue;
        };
        report.expect(
            plan.host == Some(Gateway::Kong),
            "config: host: must be kong",
        );
        service_of(report, &plan);
        for rule in &plan.policies.rules {
            let (PathMatch::Exact(path) | PathMatch::Prefix(path)) = &rule.matches.path;
            let mut paths = routes.iter().flat_map(|route| strings(&route["paths"]));
            report.expect(
                paths.any(|prefix| path.starts_with(prefix)),
                format!("no route leads to {path}"),
            );
            report.expect(
                service["read_timeout"]
                    .as_u64()
                    .is_some_and(|timeout| timeout < rule.policy.lease_ms),
                "read_timeout: must be less than lease_ms",
            );
            identity(report, &rule.policy.scope, routes, service, consumers);
        }
    }
}

/// The configuration as the filter gets it.
fn plan(report: &mut Report, config: &Value) -> Option<Plan> {
    for error in schema().iter_errors(config) {
        report.fault(format!("config: Kong would refuse it: {error}"));
    }
    match config::parse(&through_lua(config).to_string()) {
        Ok(plan) => Some(plan),
        Err(errors) => {
            errors
                .iter()
                .for_each(|error| report.fault(format!("config: {error}")));
            None
        }
    }
}

/// Kong keeps a configuration as Lua tables, which know no empty list.
fn through_lua(value: &Value) -> Value {
    match value {
        Value::Array(list) if list.is_empty() => json!({}),
        Value::Array(list) => list.iter().map(through_lua).collect(),
        Value::Object(object) => {
            let inner = object
                .iter()
                .map(|(name, value)| (name.clone(), through_lua(value)));
            Value::Object(inner.collect())
        }
        plain => plain.clone(),
    }
}

/// The idempotency service is where the filter calls it, and lets it in.
fn service_of(report: &mut Report, plan: &Plan) {
    let stack = yaml(&compose::path("kong"));
    let [kong, service] = ["kong", "idempotencyd"].map(|name| &stack["services"][name]);
    let variables = compose::environment("kong", service);
    let setting = |name: &str| variables.get(name).cloned().flatten().unwrap_or_default();
    report.expect(
        setting("IDEMPOTENCYD_LISTEN")
            .split(',')
            .any(|listen| listen == plan.service.target),
        format!("{} is not where the service listens", plan.service.target),
    );
    // Both see the socket through one volume, in the same place.
    let path = plan.service.target.trim_start_matches("unix:");
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mount = |part: &Value| {
        let mounts = strings(&part["volumes"]);
        let mount = mounts
            .iter()
            .find(|mount| mount.split(':').nth(1) == Some(directory));
        mount
            .and_then(|mount| mount.split(':').next())
            .map(str::to_owned)
    };
    report.expect(
        mount(kong).is_some() && mount(kong) == mount(service),
        format!("{path} is not in a volume that both have"),
    );
    let token = plan.service.token.clone().unwrap_or_default();
    report.expect(
        setting("IDEMPOTENCYD_GATEWAY_TOKENS")
            .split(',')
            .any(|known| known == token),
        "its token is no token of the service",
    );
}

/// A tenant that Kong's authentication names is named by it on every way to the rule.
fn identity(
    report: &mut Report,
    scope: &Scope,
    routes: &[&Value],
    service: &Value,
    consumers: &Value,
) {
    let Scope::Header(header) = scope else {
        return;
    };
    report.expect(
        IDENTITY.contains(&header.as_str()),
        format!("{header}: who sets it?"),
    );
    for route in routes {
        let mut plugins = elements(&route["plugins"]).chain(elements(&service["plugins"]));
        report.expect(
            plugins.any(|plugin| AUTHENTICATION.iter().any(|name| plugin["name"] == *name)),
            format!("no authentication sets {header}"),
        );
    }
    if header == "x-consumer-custom-id" {
        for consumer in elements(consumers) {
            let name = &consumer["username"];
            report.expect(
                consumer["custom_id"].is_string(),
                format!("{name}: has no custom_id").replace('"', ""),
            );
        }
    }
}

/// The name of a filter is that of its file.
fn filter_name() -> String {
    let stages = dockerfile::stages(&read(dockerfile::PATH));
    let filter = stages.iter().find(|stage| stage.name == "filter").unwrap();
    let copied = filter
        .steps
        .iter()
        .flat_map(|(_, arguments)| arguments.split_whitespace());
    let stem = |suffix: &str| {
        let mut files = copied.clone().filter_map(|file| file.strip_suffix(suffix));
        let file = files
            .next()
            .unwrap_or_else(|| panic!("no {suffix} in the filter's image"));
        file.rsplit('/').next().unwrap().to_owned()
    };
    // Kong finds the schema by the name, too.
    assert_eq!(stem(".wasm"), stem(".meta.json"));
    stem(".wasm")
}

#[test]
fn the_declarative_configuration_fits_the_stack() {
    report::none(faults(&read("kong/kong.yml")));
}

/// What an operator would ask says the same.
#[test]
fn check_config_finds_it_usable() {
    let mut command = std::process::Command::new(idempotency_stack::tools::idempotencyd().unwrap());
    let file = crate::repository::root().join("kong/kong.yml");
    let output = command.arg("check-config").arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for place in ["service charges (1 rule)", "route payments (1 rule)"] {
        assert!(said.contains(place), "{said}");
    }
}

/// All that is shipped with the filter in it, and Kong's settings.
#[test]
fn check_config_finds_all_of_it_usable_without_a_word() {
    let files = [
        "envoy/envoy.yaml",
        "envoy/demo-filter.json",
        "kong/kong.yml",
        "kong/kong.env",
    ];
    let mut command = std::process::Command::new(idempotency_stack::tools::idempotencyd().unwrap());
    let files = files.map(|file| crate::repository::root().join(file));
    let output = command.arg("check-config").args(&files).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches(": usable, ").count(), files.len(), "{said}");
}

/// One chain on a service, one on a route: both ways are shown.
#[test]
fn both_places_for_a_chain_are_shown() {
    let document = yaml("kong/kong.yml");
    let services = || elements(&document["services"]);
    assert!(services().any(|s| !s["filter_chains"].is_null()));
    assert!(services().any(|s| elements(&s["routes"]).any(|r| !r["filter_chains"].is_null())));
}
