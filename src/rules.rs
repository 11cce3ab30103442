//! Which rule protects a request.
//!
//! Decided from method, host, path and, in Kong, route and service. Nothing that a client adds can lead a request out of
//! a rule: methods compare without case, a trailing slash does not matter to an exact path, and a
//! path that some upstream might read as a protected one is never passed.

use std::borrow::Cow;

use bytes::Bytes;

use crate::config::{Match, PathMatch, Plan, Rule};
use crate::path::{self, Clarity, Readings};

/// What the rules say about a request.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleMatch<'p, 'r> {
    /// Not protected.
    None,
    /// Protected.
    Rule(Matched<'p, 'r>),
    /// Upstreams may disagree on whether this path falls under the rule with this index: to be
    /// refused.
    Ambiguous(usize),
    /// Not protected by its own method, but a method override header would make it a request
    /// that the rule with this index protects: to be refused.
    Overridden(usize),
}

/// A protected request.
#[derive(Clone, Debug, PartialEq)]
pub struct Matched<'p, 'r> {
    /// Index into [`Plan::rules`].
    pub index: usize,
    /// The rule itself.
    pub rule: &'p Rule,
    /// Normal form of the path.
    pub path: Cow<'r, str>,
    /// The raw query, without `?`.
    pub query: &'r [u8],
}

/// Where a request is going, apart from its path.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place<'a> {
    /// The client's authority, with or without port.
    pub host: &'a [u8],
    /// Kong: the id of the route; empty: unknown.
    pub route: &'a [u8],
    /// Kong: the id of the service; empty: unknown.
    pub service: &'a [u8],
}

impl<'a> Place<'a> {
    /// A place of which only the host is known.
    pub fn of_host(host: &'a [u8]) -> Place<'a> {
        Place {
            host,
            ..Place::default()
        }
    }

    fn matches(&self, rule: &Match) -> bool {
        let is_one_of = |id: &[u8], ids: &[String]| {
            ids.is_empty()
                || ids
                    .iter()
                    .any(|known| known.as_bytes().eq_ignore_ascii_case(id))
        };
        (rule.hosts.is_empty() || host_matches(&rule.hosts, bare_host(self.host)))
            && is_one_of(self.route, &rule.routes)
            && is_one_of(self.service, &rule.services)
    }
}

/// Headers by which some frameworks replace the method of a request.
const OVERRIDES: [&[u8]; 3] = [
    b"x-http-method-override",
    b"x-http-method",
    b"x-method-override",
];

/// [`find`], with the method override headers taken into account.
pub fn decide<'p, 'r>(
    plan: &'p Plan,
    method: &[u8],
    place: Place,
    raw_path: &'r [u8],
    headers: &[(Bytes, Bytes)],
) -> RuleMatch<'p, 'r> {
    match find(plan, method, place, raw_path) {
        RuleMatch::None => {}
        found => return found,
    }
    for method in method_override(headers) {
        match find(plan, method, place, raw_path) {
            RuleMatch::None => {}
            RuleMatch::Rule(Matched { index, .. })
            | RuleMatch::Ambiguous(index)
            | RuleMatch::Overridden(index) => return RuleMatch::Overridden(index),
        }
    }
    RuleMatch::None
}

/// The methods that override headers name.
pub fn method_override(headers: &[(Bytes, Bytes)]) -> impl Iterator<Item = &[u8]> {
    headers
        .iter()
        .filter(|(name, _)| OVERRIDES.iter().any(|o| name.eq_ignore_ascii_case(o)))
        .flat_map(|(_, value)| value.split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|method| !method.is_empty())
}

/// Whether some method is, or may be, protected at this host and path. If not, no header needs to
/// be looked at.
pub fn reaches(plan: &Plan, place: Place, raw_path: &[u8]) -> bool {
    search(plan, None, place, raw_path) != RuleMatch::None
}

/// The first rule that matches.
///
/// A request with a safe method costs one comparison, one whose method and host no rule names
/// costs no allocation and no look at the path.
pub fn find<'p, 'r>(
    plan: &'p Plan,
    method: &[u8],
    place: Place,
    raw_path: &'r [u8],
) -> RuleMatch<'p, 'r> {
    if is_safe(method) {
        return RuleMatch::None;
    }
    search(plan, Some(method), place, raw_path)
}

/// [`find`]; without a method, every method matches.
fn search<'p, 'r>(
    plan: &'p Plan,
    method: Option<&[u8]>,
    place: Place,
    raw_path: &'r [u8],
) -> RuleMatch<'p, 'r> {
    let candidates = || {
        plan.rules.iter().enumerate().filter(|(_, rule)| {
            method.is_none_or(|method| method_matches(&rule.matches.methods, method))
                && place.matches(&rule.matches)
        })
    };
    if candidates().next().is_none() {
        return RuleMatch::None;
    }
    let normal = path::normalise(raw_path);
    let hit = candidates().find(|(_, rule)| path_matches(&rule.matches.path, &normal.path));
    if normal.clarity != Clarity::Plain {
        // An odd path is fine where the ordinary reading meets the rule that any other reading
        // could meet first; an ambiguous one nowhere.
        let fine = match (normal.clarity, &hit) {
            (Clarity::Odd, Some((index, _))) => *index,
            _ => plan.rules.len(),
        };
        let readings = Readings::of(raw_path);
        let doubt = candidates()
            .take_while(|(index, _)| *index < fine)
            .find(|(_, rule)| readings.could_match(&rule.matches.path));
        if let Some((index, _)) = doubt {
            return RuleMatch::Ambiguous(index);
        }
    }
    match (hit, normal.clarity) {
        (Some((index, _)), Clarity::Ambiguous) => RuleMatch::Ambiguous(index),
        (Some((index, rule)), _) => RuleMatch::Rule(Matched {
            index,
            rule,
            path: normal.path,
            query: normal.query,
        }),
        (None, _) => RuleMatch::None,
    }
}

/// Methods that no rule can name (RFC 9110 §9.2.1: they change nothing).
pub(crate) fn is_safe(method: &[u8]) -> bool {
    let safe: [&[u8]; 4] = [b"GET", b"HEAD", b"OPTIONS", b"TRACE"];
    safe.iter().any(|s| s.eq_ignore_ascii_case(method))
}

/// An empty list is every method that is not safe.
fn method_matches(methods: &[String], method: &[u8]) -> bool {
    methods.is_empty()
        || methods
            .iter()
            .any(|m| m.as_bytes().eq_ignore_ascii_case(method))
}

/// A trailing slash does not matter: many routers ignore it.
fn path_matches(rule: &PathMatch, path: &str) -> bool {
    match rule {
        PathMatch::Exact(exact) => without_slash(path) == without_slash(exact),
        PathMatch::Prefix(prefix) => covers(prefix, path),
    }
}

fn without_slash(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

/// Whether `path` is `prefix` or below it, at a segment boundary.
pub(crate) fn covers(prefix: &str, path: &str) -> bool {
    path.strip_prefix(without_slash(prefix))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// An authority without user information, port and trailing dot.
pub(crate) fn bare_host(authority: &[u8]) -> &[u8] {
    let host = authority.rsplit(|b| *b == b'@').next().unwrap_or(authority);
    let host = match host.iter().position(|b| *b == b']') {
        // An IPv6 address, in brackets.
        Some(end) => host.get(..=end).unwrap_or(host),
        None => host.split(|b| *b == b':').next().unwrap_or(host),
    };
    host.strip_suffix(b".").unwrap_or(host)
}

fn host_matches(patterns: &[String], host: &[u8]) -> bool {
    patterns
        .iter()
        .any(|p| host_pattern_matches(p.as_bytes(), host))
}

/// `*.example.com` matches any depth below `example.com`, not `example.com` itself.
pub(crate) fn host_pattern_matches(pattern: &[u8], host: &[u8]) -> bool {
    match pattern.strip_prefix(b"*") {
        None => pattern.eq_ignore_ascii_case(host),
        Some(suffix) => host
            .len()
            .checked_sub(suffix.len())
            .filter(|head| *head > 0)
            .and_then(|head| host.get(head..))
            .is_some_and(|tail| tail.eq_ignore_ascii_case(suffix)),
    }
}

#[cfg(test)]
mod tests;
