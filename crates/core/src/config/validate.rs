//! From JSON to a [`Plan`]: the parts, and the contradictions between them.

use super::kinds::{words, Words};
use super::policy::Draft;
use super::reader::{Faults, Field, Object};
use super::table::Table;
use super::*;
use super::{checks, fields};
use crate::json::Value;
use crate::rules;
use idempotency_protocol::MAX_OPERATIONS;
use std::sync::Arc;

/// Most shared callouts at a time.
const MAX_IN_FLIGHT: usize = 1000;
const WEEK_MS: u64 = 7 * 24 * 3600 * 1000;

pub(super) fn plan(value: &Value) -> Result<Plan, Vec<ConfigError>> {
    let mut faults = Faults::default();
    let plan = read(value, &mut faults, false).and_then(|read| {
        Some(Plan {
            host: read.host,
            service: read.service?,
            kong_late_bodies: read.kong_late_bodies,
            detached_cluster: read.detached_cluster,
            policies: read.policies,
        })
    });
    match plan {
        Some(plan) if faults.0.is_empty() => Ok(plan),
        _ => Err(faults.0),
    }
}

/// Only what is protected and how: the program that asks stands where the upstream is.
pub(super) fn policies(value: &Value) -> Result<Policies, Vec<ConfigError>> {
    let mut faults = Faults::default();
    let read = read(value, &mut faults, true);
    for (index, rule) in read.iter().flat_map(|r| &r.policies.rules).enumerate() {
        if rule.matches.asks_kong() {
            let message = "kong_routes and kong_services match in Kong only";
            faults.add(&format!("rules[{index}].match"), message);
        }
    }
    match read {
        Some(read) if faults.0.is_empty() => Ok(read.policies),
        _ => Err(faults.0),
    }
}

/// What a configuration says, as far as it is right.
struct Read {
    host: Option<Gateway>,
    service: Option<Service>,
    kong_late_bodies: bool,
    detached_cluster: Option<String>,
    policies: Policies,
}

/// Without a gateway nobody has to be called, and no cluster has to be named to execute detached.
fn read(value: &Value, faults: &mut Faults, without_gateway: bool) -> Option<Read> {
    let top = faults.object(
        &Field {
            value,
            path: String::new(),
        },
        &[fields::TOP],
    )?;
    let hosts = words![
        "auto" = None,
        "envoy" = Some(Gateway::Envoy),
        "kong" = Some(Gateway::Kong),
    ];
    let host = top
        .get("host")
        .and_then(|f| hosts.find(&f, faults))
        .flatten();
    let service = match without_gateway {
        true => top.get("service"),
        false => required(&top, "service", faults),
    };
    let service = service.and_then(|f| self::service(&f, faults));
    let detached_cluster = top.get("detached").and_then(|field| {
        let object = faults.object(&field, &[fields::DETACHED])?;
        let cluster = required(&object, "cluster", faults)?;
        faults.string(&cluster, checks::cluster)
    });
    let kong_late_bodies = top.get("kong").and_then(|field| {
        let object = faults.object(&field, &[fields::KONG])?;
        let bodies = object.get("bodies")?;
        words!["early" = false, "late" = true].find(&bodies, faults)
    });
    let hop = top.get("hop").and_then(|field| {
        let token = service.as_ref().and_then(|s| s.token.as_deref());
        self::hop(&field, token, faults)
    });
    let problem_base = top
        .get("problem_base")
        .and_then(|f| faults.string(&f, checks::problem_base))
        .unwrap_or_else(|| "urn:idempotency-gateway:problem:".to_owned());
    let replay_header = top
        .get("replay_header")
        .and_then(|f| faults.string(&f, checks::marker_header))
        .unwrap_or_else(|| "Idempotency-Replayed".to_owned());
    let mut defaults = Draft::built_in();
    if let Some(field) = top.get("defaults") {
        if let Some(object) = faults.object(&field, &[Draft::NAMES]) {
            defaults.apply(&object, faults);
        }
    }
    let list = required(&top, "rules", faults)
        .and_then(|f| faults.filled(&f, "must not be empty: nothing would be protected"))
        .unwrap_or_default();
    let context = Context {
        service_timeout_ms: service.as_ref().map_or(0, |s| s.timeout_ms),
        // A broken `detached` section is reported as such, not once more by each rule.
        detached: top.get("detached").is_some(),
        keeps_executions: host == Some(Gateway::Kong) || without_gateway,
        scoped: top.get("defaults").is_some_and(|f| f.has("scope")),
        replay_header: &replay_header,
    };
    let mut read: Vec<(usize, Rule)> = Vec::new();
    for (index, field) in list.iter().enumerate() {
        if let Some(rule) = rule(index, field, &defaults, &context, faults) {
            read.push((index, rule));
        }
    }
    compare(&read, faults);
    let rules = read.into_iter().map(|(_, rule)| Arc::new(rule)).collect();
    Some(Read {
        host,
        service,
        kong_late_bodies: kong_late_bodies.unwrap_or(false),
        detached_cluster,
        policies: Policies {
            problem_base,
            replay_header,
            hop,
            rules,
        },
    })
}

fn required<'a>(object: &Object<'a>, name: &str, faults: &mut Faults) -> Option<Field<'a>> {
    let field = object.get(name);
    if field.is_none() {
        faults.add(&object.path_of(name), "is required");
    }
    field
}

fn service(field: &Field<'_>, faults: &mut Faults) -> Option<Service> {
    let object = faults.object(field, &[fields::SERVICE])?;
    let target =
        required(&object, "target", faults).and_then(|f| faults.string(&f, checks::target));
    let authority = match object.get("authority") {
        Some(field) => faults.string(&field, checks::authority),
        None => Some("idempotencyd".to_owned()),
    };
    let timeout_ms = match object.get("timeout_ms") {
        Some(field) => faults.integer(&field, 1, MAX_TIMEOUT_MS),
        None => Some(1_000),
    };
    let tls = match object.get("tls") {
        Some(field) => faults.boolean(&field),
        None => Some(false),
    };
    let token = object
        .get("token")
        .and_then(|f| faults.string(&f, checks::token));
    let token_env = object
        .get("token_env")
        .and_then(|f| faults.string(&f, checks::variable));
    if token.is_some() && token_env.is_some() {
        let message = "goes without service.token: one of them";
        faults.add(&object.path_of("token_env"), message);
    }
    let limits = match object.get("batch") {
        Some(field) => batch(&field, faults),
        None => Some(BatchLimits::default()),
    };
    Some(Service {
        target: target?,
        tls: tls?,
        authority: authority?.into(),
        timeout_ms: timeout_ms?,
        bearer: token.as_ref().map(|token| format!("Bearer {token}").into()),
        token,
        token_env,
        batch: limits?,
    })
}

fn hop(field: &Field<'_>, token: Option<&str>, faults: &mut Faults) -> Option<Hop> {
    let object = faults.object(field, &[fields::HOP])?;
    let last = match object.get("last") {
        Some(field) => faults.boolean(&field),
        None => Some(false),
    };
    if let Some(field) = object.get("key_env") {
        let key_env = faults.string(&field, checks::variable);
        if object.get("key").is_some() {
            faults.add(&field.path, "goes without hop.key: one of them");
        }
        return Some(Hop {
            keys: Vec::new(),
            key_env: Some(key_env?),
            last: last?,
        });
    }
    let key = required(&object, "key", faults)?;
    let keys = match key.value {
        Value::String(_) => vec![faults.string(&key, checks::hop_key)?],
        _ => {
            let list = faults.filled(
                &key,
                "must be a key, or a list of keys: the first one signs",
            )?;
            faults.strings(&list, checks::hop_key, str::eq)?
        }
    };
    if token.is_some_and(|token| keys.iter().any(|key| key == token)) {
        let message = "must be a key of its own, not service.token";
        faults.add(&key.path, message);
        return None;
    }
    Some(Hop {
        keys,
        key_env: None,
        last: last?,
    })
}

fn batch(field: &Field<'_>, faults: &mut Faults) -> Option<BatchLimits> {
    let object = faults.object(field, &[fields::BATCH])?;
    let mut limit = |name: &str, least: u64, most: usize, default: usize| {
        let Some(field) = object.get(name) else {
            return Some(default);
        };
        let limit = faults.integer(&field, least, most as u64)?;
        usize::try_from(limit).ok()
    };
    let default = BatchLimits::default();
    let max_in_flight = limit("max_in_flight", 0, MAX_IN_FLIGHT, default.max_in_flight);
    let max_operations = limit("max_operations", 1, MAX_OPERATIONS, default.max_operations);
    Some(BatchLimits {
        max_in_flight: max_in_flight?,
        max_operations: max_operations?,
    })
}

/// What a rule must fit into.
struct Context<'a> {
    service_timeout_ms: u64,
    detached: bool,
    /// No cluster has to be named to execute detached: it is for Kong, where nginx keeps an execution
    /// whose client has left, or there is no gateway.
    keeps_executions: bool,
    /// The defaults have a scope, right or wrong.
    scoped: bool,
    /// Marks replays.
    replay_header: &'a str,
}

fn rule(
    index: usize,
    field: &Field<'_>,
    defaults: &Draft,
    context: &Context<'_>,
    faults: &mut Faults,
) -> Option<Rule> {
    let object = faults.object(field, &[fields::RULE, Draft::NAMES])?;
    let name = match object.get("name") {
        Some(field) => faults.string(&field, checks::rule_name),
        None => Some(format!("rules[{index}]")),
    };
    let matches = required(&object, "match", faults).and_then(|f| matching(&f, faults));
    let mut draft = defaults.clone();
    draft.apply(&object, faults);
    contradictions(&draft, &object, context, faults);
    settle(&mut draft, context);
    Some(Rule {
        name: name?,
        matches: matches?,
        policy: draft.close()?,
    })
}

fn matching(field: &Field<'_>, faults: &mut Faults) -> Option<Match> {
    let object = faults.object(field, &[fields::MATCH])?;
    let methods = match object.get("methods") {
        None => Some(vec!["POST".to_owned(), "PATCH".to_owned()]),
        Some(Field {
            value: Value::String(all),
            ..
        }) if all == "*" => Some(Vec::new()),
        Some(field) => faults
            .filled(&field, "must not be empty; \"*\" means every method")
            .and_then(|list| faults.strings(&list, checks::method, str::eq_ignore_ascii_case)),
    };
    let path = match (object.get("path"), object.get("path_prefix")) {
        (Some(_), Some(_)) => {
            faults.add(&object.path, "must have path or path_prefix, not both");
            None
        }
        (Some(exact), None) => faults
            .string(&exact, checks::rule_path)
            .map(PathMatch::Exact),
        (None, Some(prefix)) => faults
            .string(&prefix, checks::rule_path)
            .map(PathMatch::Prefix),
        (None, None) => Some(PathMatch::Prefix("/".to_owned())),
    };
    let hosts = match object.get("hosts") {
        None => Some(Vec::new()),
        Some(field) => faults
            .filled(
                &field,
                "must not be empty; leave it out to match every host",
            )
            .and_then(|list| faults.strings(&list, checks::host, str::eq_ignore_ascii_case))
            .map(|hosts| hosts.iter().map(|host| host.to_ascii_lowercase()).collect()),
    };
    let mut ids = |name: &str| match object.get(name) {
        None => Some(Vec::new()),
        Some(field) => faults
            .filled(
                &field,
                "must not be empty; leave it out where it does not matter",
            )
            .and_then(|list| faults.strings(&list, checks::kong_id, str::eq_ignore_ascii_case))
            .map(|ids| ids.iter().map(|id| id.to_ascii_lowercase()).collect()),
    };
    let (routes, services) = (ids("kong_routes"), ids("kong_services"));
    Some(Match {
        methods: methods?,
        path: path?,
        hosts: hosts?,
        routes: routes?,
        services: services?,
    })
}

/// Settings that are fine alone and wrong together. The path names the field to look at, even if
/// its value comes from the defaults.
fn contradictions(draft: &Draft, rule: &Object<'_>, context: &Context<'_>, faults: &mut Faults) {
    let mut refuse = |field: &str, message: String| faults.add(&rule.path_of(field), message);
    let usable = draft.lease_ms.saturating_sub(draft.lease_margin_ms);
    if usable == 0 {
        refuse(
            "lease_ms",
            format!(
                "must be greater than lease_margin_ms ({})",
                draft.lease_margin_ms
            ),
        );
    } else if context.service_timeout_ms >= usable {
        refuse(
            "lease_ms",
            format!(
                "must exceed service.timeout_ms ({}) by more than lease_margin_ms ({})",
                context.service_timeout_ms, draft.lease_margin_ms
            ),
        );
    } else if execution(draft, context) == Execution::Detached
        && draft.execution_timeout_ms >= usable
    {
        refuse(
            "execution_timeout_ms",
            format!("must be less than lease_ms - lease_margin_ms ({usable})"),
        );
    }
    if draft
        .unknown_ttl_ms
        .is_some_and(|unknown| unknown < draft.ttl_ms)
    {
        refuse(
            "unknown_ttl_ms",
            format!("must be at least ttl_ms ({})", draft.ttl_ms),
        );
    }
    if draft.execution == Some(Execution::Detached)
        && !context.detached
        && !context.keeps_executions
    {
        refuse(
            "execution",
            "\"detached\" needs the top-level field `detached`".to_owned(),
        );
    }
    if draft.stream && draft.execution == Some(Execution::Detached) && !context.keeps_executions {
        refuse(
            "execution",
            "\"detached\" cannot stream on Envoy, where a detached answer arrives whole: leave it out, \
             or say \"inline\""
                .to_owned(),
        );
    }
    if draft.key.when_missing == WhenMissing::Derive && body(draft) == BodyMode::None {
        refuse(
            "key.when_missing",
            "a key cannot be derived where fingerprint.body is \"none\" (the default with key.from): \
             different payloads would be one"
                .to_owned(),
        );
    }
    let headers = draft.key.headers();
    if draft
        .fingerprint
        .counted_headers()
        .any(|name| headers.iter().any(|key| key == name))
    {
        refuse(
            "fingerprint.headers",
            "must not contain the key's own header".to_owned(),
        );
    }
    members(draft, &mut refuse);
    if let Some(problem) = draft.problems.with_header(context.replay_header) {
        refuse(
            "problems",
            format!(
                "{}: must not have the header that marks replays",
                problem.name()
            ),
        );
    }
    match &draft.scope {
        None if context.scoped || rule.get("scope").is_some() => {}
        None => refuse(
            "scope",
            "is required, here or in defaults: say where the tenant comes from, or \"global\""
                .to_owned(),
        ),
        Some(Scope::Header(name)) if headers.contains(name) => {
            refuse(
                "scope.header",
                "must not be the key's own header".to_owned(),
            );
        }
        Some(_) => {}
    }
}

/// Pointers to parts of the body that count for nothing.
fn members(draft: &Draft, refuse: &mut dyn FnMut(&str, String)) {
    let JsonPolicy { only, ignore } = &draft.fingerprint.json;
    if !(only.is_empty() && ignore.is_empty()) && body(draft) != BodyMode::Json {
        let message = "selects members of the body, which needs fingerprint.body: \"json\"";
        refuse("fingerprint.json", message.to_owned());
    }
    let is_inside = |inner: &String, list: &[String]| {
        let rests = list.iter().map(|outer| inner.strip_prefix(outer.as_str()));
        rests.flatten().any(|rest| rest.starts_with('/'))
    };
    let lists = [
        ("fingerprint.json.only", only, only, true),
        ("fingerprint.json.ignore", ignore, ignore, true),
        ("fingerprint.json.ignore", ignore, only, false),
    ];
    for (field, list, outer, wrong) in lists {
        let found = list.iter().find(|p| is_inside(p, outer) == wrong);
        if let Some(pointer) = found.filter(|_| !outer.is_empty()) {
            let what = match wrong {
                true => "another one of the list",
                false => "none of fingerprint.json.only",
            };
            refuse(field, format!("{pointer} is inside {what}"));
        }
    }
}

/// What of the body counts. A key that is in the body names the event that the body tells of, and senders
/// of webhooks change the rest from one try to the next.
fn body(draft: &Draft) -> BodyMode {
    draft.fingerprint.body.unwrap_or(match draft.key.from {
        Some(_) => BodyMode::None,
        None => BodyMode::Raw,
    })
}

/// On Envoy, which the cluster is for, a detached answer arrives whole.
fn execution(draft: &Draft, context: &Context<'_>) -> Execution {
    let detached = context.detached && (!draft.stream || context.keeps_executions);
    draft.execution.unwrap_or(match detached {
        true => Execution::Detached,
        false => Execution::Inline,
    })
}

/// Gives open fields the values that follow from the rest. The scope has none: a rule without one is
/// refused.
fn settle(draft: &mut Draft, context: &Context<'_>) {
    draft.execution = Some(execution(draft, context));
    draft.fingerprint.body = Some(body(draft));
    let longest = draft.ttl_ms.max(WEEK_MS);
    draft.unknown_ttl_ms.get_or_insert(longest);
}

/// Faults that only show between rules.
fn compare(rules: &[(usize, Rule)], faults: &mut Faults) {
    for (position, (index, rule)) in rules.iter().enumerate() {
        let earlier = || rules.iter().take(position);
        if let Some((other, _)) = earlier().find(|(_, r)| covers(&r.matches, &rule.matches)) {
            faults.add(
                &format!("rules[{index}].match"),
                format!("can never match: rules[{other}] covers it"),
            );
        }
        if let Some((other, _)) = earlier().find(|(_, r)| r.name == rule.name) {
            faults.add(
                &format!("rules[{index}].name"),
                format!("rules[{other}] has this name"),
            );
        }
        if let Some((other, _)) = earlier().find(|(_, r)| tenants_mix(&r.policy, &rule.policy)) {
            faults.add(
                &format!("rules[{index}].scope"),
                format!(
                    "rules[{other}] takes its tenants from another source; equal values would \
                     share keys, so give one of the rules a namespace of its own"
                ),
            );
        }
    }
}

/// Whether everything that `inner` matches is matched by `outer`.
fn covers(outer: &Match, inner: &Match) -> bool {
    let methods = outer.methods.is_empty()
        || !inner.methods.is_empty() && inner.methods.iter().all(|m| outer.methods.contains(m));
    let host = |inner: &String| {
        outer.hosts.iter().any(|outer| {
            outer == inner || rules::host_pattern_matches(outer.as_bytes(), inner.as_bytes())
        })
    };
    let hosts = outer.hosts.is_empty() || !inner.hosts.is_empty() && inner.hosts.iter().all(host);
    let ids = |outer: &[String], inner: &[String]| {
        outer.is_empty() || !inner.is_empty() && inner.iter().all(|id| outer.contains(id))
    };
    let places = ids(&outer.routes, &inner.routes) && ids(&outer.services, &inner.services);
    let trim = |path: &str| path.strip_suffix('/').unwrap_or(path).to_owned();
    let paths = match (&outer.path, &inner.path) {
        (PathMatch::Prefix(outer), PathMatch::Prefix(inner) | PathMatch::Exact(inner)) => {
            rules::covers(outer, &trim(inner))
        }
        (PathMatch::Exact(outer), PathMatch::Exact(inner)) => trim(outer) == trim(inner),
        (PathMatch::Exact(_), PathMatch::Prefix(_)) => false,
    };
    methods && hosts && places && paths
}

/// Two plain sources in one namespace. Global and credential scopes cannot collide with others.
fn tenants_mix(a: &Policy, b: &Policy) -> bool {
    let plain = |scope: &Scope| matches!(scope, Scope::Header(_) | Scope::Property(_));
    a.namespace == b.namespace && plain(&a.scope) && plain(&b.scope) && a.scope != b.scope
}
