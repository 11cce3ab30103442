//! Kong's declarative configuration: every filter's own part, and what around it would take the
//! protection away. Kong itself sees nothing wrong there. [`lua`] does the same for the Lua plugin.

mod lua;

use super::rules;
use idempotency_core::config::{self, ConfigError, Gateway};
use serde_json::Value;
use std::fmt;

/// Plugins of Kong 3.9 that hold a whole response back. Kong then sends the request by itself, from
/// Lua, and no filter sees the response: every retry executes.
const BUFFERING: [&str; 3] = [
    "ai-proxy",
    "ai-request-transformer",
    "ai-response-transformer",
];

/// The plugin that runs last before the filter, and what its code must do there.
const GUARD: &str = "post-function";
const READS_BODIES: &str = "get_raw_body";
const REFUSES_BUFFERING: &str = "buffered_proxying";

/// Something that is wrong, or worth a thought.
#[derive(Debug)]
pub(super) struct KongProblem<'a> {
    /// Where: a configuration, or an entity around it.
    pub at: &'a Value,
    /// Of a configuration: the field.
    pub error: Option<ConfigError>,
    /// The place first, then the field.
    pub text: String,
    pub is_note: bool,
}

/// The places with the filter, and what is wrong.
pub(super) fn find<'a>(document: &'a Value, filter: &str) -> (Vec<String>, Vec<KongProblem<'a>>) {
    let tree = Tree::of(document);
    let mut problems = Vec::new();
    let mut found = Vec::new();
    for place in tree.places() {
        let configs = tree.filters(place, filter);
        if configs.is_empty() {
            continue;
        }
        let mut tell = |at: &'a Value, text: String, is_note: bool| {
            problems.push(KongProblem {
                at,
                error: None,
                text: format!("{place}: {text}"),
                is_note,
            });
        };
        let mut count = 0;
        let mut reads_itself = true;
        let mut lease_ms = None;
        let mut wrong = Vec::new();
        for config in &configs {
            match plan(config) {
                Ok(plan) => {
                    count += plan.policies.rules.len();
                    reads_itself &= plan.kong_late_bodies;
                    let leases = plan.policies.rules.iter().map(|rule| rule.policy.lease_ms);
                    lease_ms = lease_ms.into_iter().chain(leases).min();
                }
                Err(errors) => wrong.extend(errors.into_iter().map(|error| (*config, error))),
            }
        }
        if let Some(second) = configs.get(1) {
            let text = "the filter stands here twice: it would meet its own lock";
            tell(second, text.to_owned(), false);
        }
        tree.around(place, filter, reads_itself, &mut |at, text| {
            tell(at, text, false)
        });
        if let (Some(service), Some(lease_ms)) = (place.service(), lease_ms) {
            // Kong's default is a minute.
            let given = service.get("read_timeout");
            let ms = given.map_or(Some(60_000), Value::as_u64);
            if let Some(ms) = ms.filter(|ms| *ms >= lease_ms) {
                let text = format!(
                    "read_timeout ({ms} ms) is not less than lease_ms ({lease_ms} ms): an execution \
                     may go on after its lease"
                );
                tell(given.unwrap_or(service), text, true);
            }
        }
        problems.extend(wrong.into_iter().map(|(at, error)| KongProblem {
            at,
            text: format!("{place}: {error}"),
            error: Some(error),
            is_note: false,
        }));
        found.push(format!("{place} ({})", rules(count)));
    }
    lua::find(&tree, filter, &mut found, &mut problems);
    (found, problems)
}

/// What is in it, or what is wrong.
#[cfg(test)]
fn check(document: &Value, filter: &str) -> Result<String, Vec<String>> {
    let (found, problems) = find(document, filter);
    let wrong = problems.into_iter().filter(|problem| !problem.is_note);
    let wrong: Vec<String> = wrong.map(|problem| problem.text).collect();
    match (found.is_empty(), wrong.is_empty()) {
        (true, true) => Err(vec![nothing(filter)]),
        (_, false) => Err(wrong),
        (false, true) => Ok(found.join(", ")),
    }
}

/// What to say of a document without the filter.
pub(super) fn nothing(filter: &str) -> String {
    format!("there is no filter or plugin {filter} in it")
}

/// The filter's configuration in a plugin of Kong's ingress controller, if this manifest is one. What stands around it
/// there is in annotations of other manifests, and is not looked at.
pub(super) fn of_ingress<'a>(manifest: &'a Value, filter: &str) -> Option<&'a Value> {
    let kind = manifest.get("kind")?.as_str()?;
    let is_plugin = ["KongPlugin", "KongClusterPlugin"].contains(&kind);
    let is_ours = is_plugin && manifest.get("plugin").is_some_and(|name| name == filter);
    manifest.get("config").filter(|_| is_ours)
}

/// The filter's configuration: Kong hands objects on as JSON, and texts as they are.
pub(super) fn plan(config: &Value) -> Result<config::Plan, Vec<ConfigError>> {
    let text = match config {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    config::parse(&text).and_then(|plan| config::fit(plan, Gateway::Kong))
}

/// Where a filter can be.
#[derive(Clone, Copy)]
enum KongPlace<'a> {
    Service(&'a Value),
    /// A route, and its service.
    Route(&'a Value, Option<&'a Value>),
}

impl<'a> KongPlace<'a> {
    fn entity(self) -> &'a Value {
        match self {
            KongPlace::Service(entity) | KongPlace::Route(entity, _) => entity,
        }
    }

    fn service(self) -> Option<&'a Value> {
        match self {
            KongPlace::Service(service) => Some(service),
            KongPlace::Route(_, service) => service,
        }
    }

    /// The member by which other entities refer to it.
    fn reference(self) -> &'static str {
        match self {
            KongPlace::Service(_) => "service",
            KongPlace::Route(..) => "route",
        }
    }
}

impl fmt::Display for KongPlace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = names(self.entity()).next().unwrap_or("without a name");
        write!(f, "{} {name}", self.reference())
    }
}

/// The entities of a document.
struct Tree<'a> {
    document: &'a Value,
    services: Vec<&'a Value>,
    /// Each with its service.
    routes: Vec<(&'a Value, Option<&'a Value>)>,
}

impl<'a> Tree<'a> {
    fn of(document: &'a Value) -> Self {
        let services: Vec<&Value> = members(document, "services").collect();
        let nested = services
            .iter()
            .flat_map(|service| members(service, "routes").map(move |r| (r, Some(*service))));
        let own = members(document, "routes").map(|route| {
            let service = services
                .iter()
                .find(|service| refers(route, "service", service));
            (route, service.copied())
        });
        let routes = nested.chain(own).collect();
        Self {
            document,
            services,
            routes,
        }
    }

    fn places(&self) -> impl Iterator<Item = KongPlace<'a>> + '_ {
        let services = self
            .services
            .iter()
            .map(|service| KongPlace::Service(service));
        let routes = self.routes.iter();
        services.chain(routes.map(|(route, service)| KongPlace::Route(route, *service)))
    }

    /// What belongs to a place: inside it, or at the top with its name.
    fn at(&self, place: KongPlace<'a>, kind: &'static str) -> impl Iterator<Item = &'a Value> {
        let entity = place.entity();
        let inside = members(entity, kind);
        let top = members(self.document, kind)
            .filter(move |other| refers(other, place.reference(), entity));
        inside.chain(top).filter(|entity| is_enabled(entity))
    }

    /// The configurations of the filter at a place, from its chains and its plugins.
    fn filters(&self, place: KongPlace<'a>, name: &str) -> Vec<&'a Value> {
        let chains = self.at(place, "filter_chains");
        let in_chains = chains.flat_map(|chain| members(chain, "filters"));
        // (Kong takes a filter among the plugins, too.)
        let plugins = self.at(place, "plugins");
        let all = in_chains.chain(plugins.filter(|plugin| !lua::is_plugin(plugin)));
        let ours = all.filter(|entity| entity["name"] == name && is_enabled(entity));
        ours.map(|entity| &entity["config"]).collect()
    }

    /// The plugins that run for requests of a place, the nearest ones first.
    fn plugins(&self, place: KongPlace<'a>) -> Vec<(String, &'a Value)> {
        let mut all = Vec::new();
        let mut add = |at: KongPlace<'a>| {
            let plugins = self.at(at, "plugins");
            all.extend(plugins.map(|plugin| (at.to_string(), plugin)));
        };
        add(place);
        match place {
            KongPlace::Service(service) => {
                let of_service =
                    |(_, own): &&(&Value, Option<&Value>)| own.is_some_and(|s| same(s, service));
                for (route, own) in self.routes.iter().filter(of_service) {
                    add(KongPlace::Route(route, *own));
                }
            }
            KongPlace::Route(_, Some(service)) => add(KongPlace::Service(service)),
            KongPlace::Route(_, None) => {}
        }
        let global = members(self.document, "plugins").filter(|plugin| {
            is_enabled(plugin)
                && ["service", "route"]
                    .iter()
                    .all(|at| plugin.get(*at).is_none_or(Value::is_null))
        });
        all.extend(global.map(|plugin| ("everywhere".to_owned(), plugin)));
        for kind in ["consumers", "consumer_groups"] {
            for owner in members(self.document, kind) {
                let plugins = members(owner, "plugins").filter(|plugin| is_enabled(plugin));
                let name = names(owner).next().unwrap_or_default();
                let at = format!("{} {name}", kind.trim_end_matches('s'));
                all.extend(plugins.map(|plugin| (at.clone(), plugin)));
            }
        }
        all
    }

    /// What stands around a filter.
    fn around(
        &self,
        place: KongPlace<'a>,
        filter: &str,
        reads_itself: bool,
        tell: &mut impl FnMut(&'a Value, String),
    ) {
        let entity = place.entity();
        if let Some(service) = place.service() {
            let name = names(service).next().unwrap_or_default();
            // Kong's default is 5.
            let retries = service.get("retries").unwrap_or(&Value::Null);
            if *retries != 0 {
                tell(
                    service.get("retries").unwrap_or(service),
                    format!(
                    "retries of service {name} must be 0: Kong would send a request again by itself"
                ),
                );
            }
            if matches!(place, KongPlace::Route(..))
                && !self.filters(KongPlace::Service(service), filter).is_empty()
            {
                tell(
                    entity,
                    format!(
                        "the filter stands on service {name}, too: both would run, and the second \
                     would meet the first one's lock"
                    ),
                );
            }
        }
        let plugins = self.plugins(place);
        for (at, plugin) in &plugins {
            let name = plugin["name"].as_str().unwrap_or_default();
            if BUFFERING.contains(&name) {
                tell(
                    plugin,
                    format!(
                    "plugin {name} ({at}) holds whole responses back: the filter would never see \
                     them, and every retry would execute"
                ),
                );
            }
        }
        self.guard(entity, &plugins, reads_itself, tell);
    }

    /// The code that must run before the filter. Of one plugin's instances Kong runs the nearest.
    fn guard(
        &self,
        entity: &'a Value,
        plugins: &[(String, &'a Value)],
        reads_itself: bool,
        tell: &mut impl FnMut(&'a Value, String),
    ) {
        let mut guards = plugins.iter().filter(|(_, plugin)| plugin["name"] == GUARD);
        let code = guards.next().map(|(_, plugin)| self.code(plugin));
        let has = |word: &str| code.as_ref().is_some_and(|code| code.contains(word));
        if !reads_itself && !has(READS_BODIES) {
            tell(
                entity,
                format!(
                "no {GUARD} that reads bodies in access ({READS_BODIES}): requests with bodies \
                 would be refused"
            ),
            );
        }
        if !has(REFUSES_BUFFERING) {
            tell(
                entity,
                format!(
                "no {GUARD} that refuses what another plugin buffers ({REFUSES_BUFFERING}): such \
                 a request would run without protection"
            ),
            );
        }
    }

    /// The code of a serverless plugin in `access`, its own or a shared one.
    fn code(&self, plugin: &Value) -> String {
        let shared = plugin["_config"].as_str().unwrap_or_default();
        let configs = [&plugin["config"], &self.document["_plugin_configs"][shared]];
        let lines = configs.iter().flat_map(|config| members(config, "access"));
        lines.filter_map(Value::as_str).collect()
    }
}

/// The elements of a list in an object; none if there is no such list.
fn members<'a>(of: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    of.get(name).and_then(Value::as_array).into_iter().flatten()
}

/// By what others may call it.
fn names(entity: &Value) -> impl Iterator<Item = &str> {
    let all = ["name", "username", "custom_id", "id"].into_iter();
    all.filter_map(|name| entity.get(name)?.as_str())
}

/// Whether an entity refers to another one: by name or id, as a text or in an object.
fn refers(from: &Value, member: &str, to: &Value) -> bool {
    let reference = match from.get(member) {
        Some(Value::Object(object)) => object.get("name").or_else(|| object.get("id")),
        other => other,
    };
    let reference = reference.and_then(Value::as_str);
    reference.is_some_and(|reference| names(to).any(|name| name == reference))
}

fn same(one: &Value, other: &Value) -> bool {
    std::ptr::eq(one, other)
}

fn is_enabled(entity: &Value) -> bool {
    entity.get("enabled") != Some(&Value::Bool(false))
}

#[cfg(test)]
mod tests;
