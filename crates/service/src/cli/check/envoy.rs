//! Envoy: every place with the filter in a bootstrap, an xDS resource, an EnvoyFilter or a WasmPlugin of Istio,
//! and what stands around it. Envoy itself sees nothing wrong there.

use super::super::skip;
use super::finding::Findings;
use idempotency_core::config::{Execution, Plan, Rule};
use serde_json::Value;

/// A configuration of the filter.
pub(super) struct Site<'a> {
    /// As it stands there: a text, or an object.
    pub config: &'a Value,
    /// Around it, from the outside in.
    pub above: Vec<&'a Value>,
}

/// Every configuration of the filter in a document.
pub(super) fn sites(document: &Value) -> Vec<Site<'_>> {
    let mut sites = Vec::new();
    walk(document, &mut Vec::new(), &mut sites);
    sites
}

fn walk<'a>(at: &'a Value, above: &mut Vec<&'a Value>, sites: &mut Vec<Site<'a>>) {
    let found = config_of(at);
    if let Some(config) = found {
        let mut above = above.clone();
        above.push(at);
        sites.push(Site { config, above });
        return;
    }
    above.push(at);
    match at {
        Value::Array(elements) => elements.iter().for_each(|e| walk(e, above, sites)),
        Value::Object(members) => members.values().for_each(|m| walk(m, above, sites)),
        _ => {}
    }
    above.pop();
}

/// The filter's configuration in the configuration of a WebAssembly plugin, if this is one: `configuration` of
/// Envoy's `PluginConfig`, `pluginConfig` of Istio's `WasmPlugin`.
fn config_of(plugin: &Value) -> Option<&Value> {
    if let Some(config) = plugin.get("pluginConfig") {
        return is_ours(config).then_some(config);
    }
    let is_plugin = ["vm_config", "root_id", "vmConfig", "rootId"]
        .iter()
        .any(|member| plugin.get(member).is_some());
    let config = plugin.get("configuration").filter(|_| is_plugin)?;
    // Of a `google.protobuf.Any`: a StringValue, or a Struct.
    let config = match config.get("@type") {
        Some(_) => config.get("value")?,
        None => config,
    };
    let is_named = ["root_id", "rootId", "name"]
        .iter()
        .any(|member| plugin.get(member).is_some_and(|n| n == "idempotency"));
    (is_named || is_ours(config)).then_some(config)
}

/// Whether this looks like a configuration of the filter: one of another filter is of no concern.
pub(super) fn is_ours(config: &Value) -> bool {
    let looks = |config: &Value| {
        let service = config.get("service").and_then(|s| s.get("target"));
        service.is_some() || config.get("rules").is_some_and(Value::is_array)
    };
    match config {
        Value::String(text) => serde_json::from_str::<Value>(text).is_ok_and(|c| looks(&c)),
        other => looks(other),
    }
}

/// The member with this name, in the spelling of YAML or of JSON from protobuf.
fn get<'a>(of: &'a Value, name: &str) -> Option<&'a Value> {
    of.get(name).or_else(|| {
        let mut camel = String::with_capacity(name.len());
        let mut up = false;
        for c in name.chars() {
            match c {
                '_' => up = true,
                c if up => {
                    camel.extend(c.to_uppercase());
                    up = false;
                }
                c => camel.push(c),
            }
        }
        of.get(&camel)
    })
}

/// What stands around a usable configuration.
pub(super) fn around(site: &Site<'_>, plan: &Plan, document: &Value, findings: &mut Findings<'_>) {
    plugin(site, findings);
    let with = |name: &str| {
        let mut above = site.above.iter().rev();
        above.find(|at| get(at, name).is_some()).copied()
    };
    if let Some(manager) = with("http_filters") {
        chain(manager, findings);
        passed_by(site, manager, plan, findings);
        connections(manager, plan, findings);
        routes(manager, plan, findings);
    }
    if let Some(listener) = with("filter_chains") {
        buffers(listener, plan, findings);
    }
    clusters(site, plan, document, findings);
}

/// The settings of the plugin itself.
fn plugin(site: &Site<'_>, findings: &mut Findings<'_>) {
    let Some(plugin) = site.above.last() else {
        return;
    };
    // Istio sets it for a WasmPlugin in no way; its own resource has no such field.
    if plugin.get("pluginConfig").is_some() {
        if plugin.get("failStrategy").is_some_and(|s| s == "FAIL_OPEN") {
            let open = plugin.get("failStrategy").unwrap_or(plugin);
            findings.wrong(
                open,
                "failStrategy must be FAIL_CLOSED: without the filter, retries execute",
            );
        }
        findings.note(
            plugin,
            "a WasmPlugin cannot set allow_on_headers_stop_iteration, which Envoy 1.35 and later \
             need: use an EnvoyFilter",
        );
        return;
    }
    match get(plugin, "allow_on_headers_stop_iteration") {
        Some(Value::Bool(true)) => {}
        Some(knob) => findings.wrong(knob, KNOB),
        None => findings.wrong(plugin, KNOB),
    }
    let policy = get(plugin, "failure_policy");
    if let Some(policy) = policy.filter(|policy| *policy == "FAIL_OPEN") {
        findings.wrong(
            policy,
            "failure_policy must be FAIL_CLOSED: without the filter, retries execute",
        );
    }
    let open = get(plugin, "fail_open").filter(|open| **open == Value::Bool(true));
    if let Some(open) = open {
        findings.wrong(
            open,
            "fail_open must be false: without the filter, retries execute",
        );
    }
}

const KNOB: &str =
    "allow_on_headers_stop_iteration must be true (Envoy 1.35 and later): otherwise the \
    filter sees no body before it decides, and refuses protected requests";

/// The HTTP filters of a connection manager.
fn chain(manager: &Value, findings: &mut Findings<'_>) {
    let filters = get(manager, "http_filters").and_then(Value::as_array);
    let ours = filters.into_iter().flatten();
    let ours: Vec<&Value> = ours.filter(|filter| !sites(filter).is_empty()).collect();
    if let Some(second) = ours.get(1) {
        findings.wrong(
            second,
            "the filter stands here twice: it would meet its own lock",
        );
    }
}

/// Which requests go past the filter. What does is not protected, so nothing but what follows from the rules may.
fn passed_by(site: &Site<'_>, manager: &Value, plan: &Plan, findings: &mut Findings<'_>) {
    let mut above = site.above.iter().rev();
    if let Some(matcher) = above.find_map(|at| get(at, "xds_matcher")) {
        matched(site, matcher, manager, plan, findings);
    }
    let filters = get(manager, "http_filters").and_then(Value::as_array);
    let ours = filters.into_iter().flatten().find(|f| !sites(f).is_empty());
    let Some(ours) = ours else { return };
    if let Some(Value::Bool(true)) = get(ours, "disabled") {
        findings.wrong(ours, DISABLED);
    }
    let name = ours.get("name").and_then(Value::as_str).unwrap_or_default();
    let mut configs = Vec::new();
    find_all(manager, "typed_per_filter_config", &mut configs);
    let fine = of_other_hosts(manager, plan);
    configs.retain(|config| !fine.iter().any(|fine| std::ptr::eq(*fine, *config)));
    let mut chosen = Vec::new();
    by_header(manager, &mut chosen);
    for all in configs {
        let Some(config) = all.get(name) else {
            continue;
        };
        if find(config, "xds_matcher").is_some() {
            findings.wrong(config, DISABLED);
        } else if find(config, "disabled").is_some_and(|d| *d == Value::Bool(true)) {
            match chosen.iter().any(|chosen| std::ptr::eq(*chosen, all)) {
                true => findings.note(config, OTHERS),
                false => findings.wrong(config, DISABLED),
            }
        }
    }
}

/// What is said by filter for routes that a header chooses, too.
fn by_header<'a>(at: &'a Value, found: &mut Vec<&'a Value>) {
    let is_chosen = at.get("match").is_some_and(|m| get(m, "headers").is_some());
    found.extend(get(at, "typed_per_filter_config").filter(|_| is_chosen));
    match at {
        Value::Object(members) => members.values().for_each(|m| by_header(m, found)),
        Value::Array(elements) => elements.iter().for_each(|e| by_header(e, found)),
        _ => {}
    }
}

const OTHERS: &str = "the filter is switched off here, for requests that a header chooses: they are not protected, so it \
    must be a header that no client can send";

/// What is said by filter in virtual hosts that no rule concerns: all rules name hosts, and none of theirs.
fn of_other_hosts<'a>(manager: &'a Value, plan: &Plan) -> Vec<&'a Value> {
    let rules = &plan.policies.rules;
    let concerns = |domain: &Value| {
        // One with a wildcard or a port may be any.
        let domain = domain.as_str().filter(|d| !d.contains(['*', ':']));
        domain.is_none_or(|domain| {
            let is = |pattern: &String| match pattern.strip_prefix('*') {
                Some(end) => domain
                    .to_ascii_lowercase()
                    .ends_with(&end.to_ascii_lowercase()),
                None => pattern.eq_ignore_ascii_case(domain),
            };
            let hosts =
                |rule: &Rule| rule.matches.hosts.is_empty() || rule.matches.hosts.iter().any(is);
            rules.iter().any(|rule| hosts(rule))
        })
    };
    let config = get(manager, "route_config");
    let hosts = config
        .and_then(|c| get(c, "virtual_hosts"))
        .and_then(Value::as_array);
    let mut fine = Vec::new();
    for host in hosts.into_iter().flatten() {
        let domains = host.get("domains").and_then(Value::as_array);
        if domains.is_some_and(|all| !all.is_empty() && !all.iter().any(concerns)) {
            find_all(host, "typed_per_filter_config", &mut fine);
        }
    }
    fine
}

const DISABLED: &str =
    "the filter is switched off here: other spellings of a protected path take this route, too, \
    and execute each time. Let `idempotencyd envoy-config` say which requests may go past it";

/// The matcher that decides for which requests the filter is made.
fn matched(
    site: &Site<'_>,
    matcher: &Value,
    manager: &Value,
    plan: &Plan,
    findings: &mut Findings<'_>,
) {
    const DRIFTED: &str =
        "the matcher that decides which requests go past the filter is not what follows from its \
        rules: what goes past executes each time. Print it again with `idempotencyd envoy-config`";
    let needed = match skip::needed(plan) {
        Ok(Some(needed)) => needed,
        Ok(None) => {
            let text = "a rule covers every path, so no request may go past the filter";
            return findings.wrong(matcher, text);
        }
        Err(why) => return findings.wrong(matcher, why),
    };
    let mut above = site.above.iter().rev();
    let is_action = |at: &&&Value| at.get("@type").is_some_and(|t| ends_with(t, skip::EXECUTE));
    let filter = above.find(is_action).and_then(|at| get(at, "typed_config"));
    let name = filter.and_then(|f| f.get("name")).and_then(Value::as_str);
    let config = filter.and_then(|f| get(f, "typed_config"));
    let expected = name.zip(config).map(|(name, config)| {
        let whole = skip::with_matcher(&needed, name, config);
        snake_case(&whole["xds_matcher"])
    });
    if expected != Some(snake_case(matcher)) {
        findings.wrong(matcher, DRIFTED);
    }
    for field in ["normalize_path", "merge_slashes"] {
        let given = get(manager, field);
        if given != Some(&Value::Bool(true)) {
            let text = format!("{field} must be true where requests can go past the filter");
            findings.wrong(given.unwrap_or(manager), text);
        }
    }
    if !handles_underscores(manager) {
        findings.wrong(
            manager,
            "headers_with_underscores_action must be DROP_HEADER or REJECT_REQUEST where requests can go past \
             the filter",
        );
    }
    let filters = get(manager, "http_filters").and_then(Value::as_array);
    let before = filters
        .into_iter()
        .flatten()
        .take_while(|f| sites(f).is_empty());
    let spellings = snake_case(&skip::spellings()["typed_config"]);
    let mut before = before.filter_map(|filter| get(filter, "typed_config"));
    if !before.any(|config| snake_case(config) == spellings) {
        let text = format!(
            "the filter {} of `idempotencyd envoy-config` must stand before this one, as it is printed: headers \
             in other spellings lead past the filter",
            skip::SPELLINGS
        );
        findings.wrong(matcher, text);
    }
}

fn ends_with(kind: &Value, message: &str) -> bool {
    kind.as_str().is_some_and(|kind| kind.ends_with(message))
}

/// The same with all names as YAML has them: protobuf's JSON may have them in either spelling.
fn snake_case(value: &Value) -> Value {
    match value {
        Value::Array(elements) => elements.iter().map(snake_case).collect(),
        Value::Object(members) => {
            let members = members.iter().map(|(name, member)| {
                let mut snake = String::with_capacity(name.len() + 4);
                for c in name.chars() {
                    if c.is_ascii_uppercase() {
                        snake.push('_');
                    }
                    snake.push(c.to_ascii_lowercase());
                }
                (snake, snake_case(member))
            });
            Value::Object(members.collect())
        }
        other => other.clone(),
    }
}

fn handles_underscores(manager: &Value) -> bool {
    let common = get(manager, "common_http_protocol_options");
    let underscores = common.and_then(|c| get(c, "headers_with_underscores_action"));
    underscores.is_some_and(|a| *a == "DROP_HEADER" || *a == "REJECT_REQUEST")
}

fn connections(manager: &Value, plan: &Plan, findings: &mut Findings<'_>) {
    let common = get(manager, "common_http_protocol_options");
    let underscores = common.and_then(|c| get(c, "headers_with_underscores_action"));
    if !handles_underscores(manager) {
        findings.note(
            underscores.unwrap_or(manager),
            "headers_with_underscores_action is neither DROP_HEADER nor REJECT_REQUEST: to WSGI, CGI, \
             Rack and PHP, X_Tenant is X-Tenant",
        );
    }
    let (longest, whose) = longest(plan);
    for (field, default) in [
        ("stream_idle_timeout", Some(300_000)),
        ("request_timeout", None),
    ] {
        let given = get(manager, field);
        let ms = match given {
            Some(value) => milliseconds(value),
            None => default,
        };
        // 0 is none.
        if let Some(ms) = ms.filter(|ms| *ms > 0 && *ms <= longest) {
            findings.wrong(
                given.unwrap_or(manager),
                format!(
                    "{field} ({ms} ms) must be longer than {whose} ({longest} ms): a client that \
                     waits would be cut off"
                ),
            );
        }
    }
}

/// The longest that a request can be held, and by what.
fn longest(plan: &Plan) -> (u64, String) {
    let rules = plan.policies.rules.iter().map(|rule| {
        let policy = &rule.policy;
        let (held, by) = match policy.execution {
            Execution::Detached if policy.execution_timeout_ms > policy.wait_ms => {
                (policy.execution_timeout_ms, "execution_timeout_ms")
            }
            _ => (policy.wait_ms, "wait_ms"),
        };
        (held, format!("{by} of rule {}", rule.name))
    });
    rules.max_by_key(|(held, _)| *held).unwrap_or_default()
}

/// The timeouts of the routes.
fn routes(manager: &Value, plan: &Plan, findings: &mut Findings<'_>) {
    let rules = plan.policies.rules.iter();
    // A detached execution has a timeout of its own.
    let attached = rules.filter(|rule| rule.policy.execution != Execution::Detached);
    let lease = attached
        .map(|rule| (rule.policy.lease_ms, &rule.name))
        .min();
    let Some((lease_ms, rule)) = lease else {
        return;
    };
    let config = get(manager, "route_config");
    let hosts = config.and_then(|c| get(c, "virtual_hosts"));
    for host in hosts.and_then(Value::as_array).into_iter().flatten() {
        for entry in get(host, "routes")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let Some(action) = entry.get("route") else {
                continue;
            };
            // Envoy's default is 15 s.
            let Some(timeout) = get(action, "timeout") else {
                continue;
            };
            let ms = milliseconds(timeout);
            if let Some(ms) = ms.filter(|ms| *ms == 0 || *ms >= lease_ms) {
                let shown = match ms {
                    0 => "none".to_owned(),
                    ms => format!("{ms} ms"),
                };
                findings.wrong(
                    timeout,
                    format!(
                        "the route's timeout ({shown}) must be less than lease_ms of rule {rule} \
                         ({lease_ms} ms): an execution would go on after its lease"
                    ),
                );
            }
        }
    }
}

/// What a stream can hold.
fn buffers(listener: &Value, plan: &Plan, findings: &mut Findings<'_>) {
    /// Envoy's own.
    const DEFAULT: u64 = 1 << 20;
    let rules = plan.policies.rules.iter();
    let needed = rules
        .map(|rule| {
            rule.policy
                .max_body_bytes
                .max(rule.policy.max_response_bytes)
        })
        .max();
    let needed = needed
        .and_then(|bytes| u64::try_from(bytes).ok())
        .unwrap_or(0);
    let limit = get(listener, "per_connection_buffer_limit_bytes");
    let bytes = limit.map_or(Some(DEFAULT), number);
    if let Some(bytes) = bytes.filter(|bytes| *bytes <= needed) {
        findings.wrong(
            limit.unwrap_or(listener),
            format!(
                "per_connection_buffer_limit_bytes ({bytes}) must be larger than max_body_bytes and \
                 max_response_bytes of every rule ({needed}): larger bodies would be refused by Envoy"
            ),
        );
    }
}

/// The clusters that the configuration names, where the document has clusters at all.
fn clusters(site: &Site<'_>, plan: &Plan, document: &Value, findings: &mut Findings<'_>) {
    let resources = get(document, "static_resources");
    let clusters = resources.and_then(|r| r.get("clusters"));
    let Some(clusters) = clusters.and_then(Value::as_array) else {
        return;
    };
    // Others may come from a control plane.
    if get(document, "dynamic_resources").is_some() {
        return;
    }
    let names: Vec<&str> = clusters.iter().filter_map(|c| c["name"].as_str()).collect();
    let detached = plan.detached_cluster.as_deref();
    let named = [
        ("service.target", Some(plan.service.target.as_str())),
        ("detached.cluster", detached),
    ];
    for (field, name) in named {
        if let Some(name) = name.filter(|name| !names.contains(name)) {
            findings.wrong(
                site.config,
                format!("{field}: there is no cluster `{name}`"),
            );
        }
    }
    if let Some(name) = detached {
        execution_listener(document, name, findings);
    }
}

/// The listener of detached executions: a route's retries would execute one request several times there.
fn execution_listener(document: &Value, cluster: &str, findings: &mut Findings<'_>) {
    let resources = get(document, "static_resources");
    let list = |name: &str| {
        let found = resources
            .and_then(|r| r.get(name))
            .and_then(Value::as_array);
        found.into_iter().flatten()
    };
    let cluster = list("clusters").find(|c| c["name"] == cluster);
    let inner = cluster
        .and_then(|c| find(c, "server_listener_name"))
        .and_then(Value::as_str);
    let listener = inner.and_then(|name| list("listeners").find(|l| l["name"] == name));
    let Some(listener) = listener else {
        return;
    };
    let has_retries = find(listener, "retry_policy").is_some();
    let is_off = listener.to_string().contains("x-envoy-max-retries");
    if has_retries && !is_off {
        findings.wrong(
            listener,
            "a route of the executions has a retry_policy, and nothing sets x-envoy-max-retries to 0 \
             before the router: Envoy would execute one request several times",
        );
    }
}

/// The first member with this name, however deep.
fn find<'a>(at: &'a Value, name: &str) -> Option<&'a Value> {
    match at {
        Value::Object(_) if get(at, name).is_some() => get(at, name),
        Value::Object(members) => members.values().find_map(|member| find(member, name)),
        Value::Array(elements) => elements.iter().find_map(|element| find(element, name)),
        _ => None,
    }
}

/// Every member with this name, however deep.
fn find_all<'a>(at: &'a Value, name: &str, found: &mut Vec<&'a Value>) {
    found.extend(get(at, name));
    match at {
        Value::Object(members) => members.values().for_each(|m| find_all(m, name, found)),
        Value::Array(elements) => elements.iter().for_each(|e| find_all(e, name, found)),
        _ => {}
    }
}

/// A duration as protobuf writes it: `0.25s`.
fn milliseconds(value: &Value) -> Option<u64> {
    let seconds: f64 = value.as_str()?.strip_suffix('s')?.parse().ok()?;
    (0.0..1e12)
        .contains(&seconds)
        .then_some((seconds * 1_000.0) as u64)
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}
