//! Which rule protects a request.
//!
//! Decided from method, host, path and, in Kong, route and service. Nothing that a client adds can
//! lead a request out of a rule: methods compare without case, a trailing slash does not matter to an
//! exact path, and a path that some upstream might read as a protected one is never passed.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::{Match, PathMatch, Rule};
use crate::path::{self, Clarity, Readings};
use crate::{headers, names};

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
    /// A header names another path, which the rule with this index protects: to be refused.
    Moved(usize),
}

impl RuleMatch<'_, '_> {
    /// The rule's index.
    fn index(&self) -> Option<usize> {
        match self {
            RuleMatch::None => None,
            RuleMatch::Rule(matched) => Some(matched.index),
            RuleMatch::Ambiguous(index)
            | RuleMatch::Overridden(index)
            | RuleMatch::Moved(index) => Some(*index),
        }
    }
}

/// A protected request.
#[derive(Clone, Debug, PartialEq)]
pub struct Matched<'p, 'r> {
    /// Index into the rules of the configuration.
    pub index: usize,
    /// The rule itself.
    pub rule: &'p Arc<Rule>,
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
        (rule.hosts.is_empty() || authority_matches(&rule.hosts, self.host))
            && is_one_of(self.route, &rule.routes)
            && is_one_of(self.service, &rule.services)
    }
}

/// Headers by which some frameworks replace the method of a request.
pub(crate) const OVERRIDES: [&str; 3] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// Headers by which some frameworks replace the path of a request.
pub(crate) const MOVES: [&str; 2] = ["x-original-url", "x-rewrite-url"];

/// [`find`], with the headers taken into account that replace method or path.
pub fn decide<'p, 'r>(
    rules: &'p [Arc<Rule>],
    method: &[u8],
    place: Place,
    raw_path: &'r [u8],
    headers: &[(Bytes, Bytes)],
) -> RuleMatch<'p, 'r> {
    let overrides = method_override(headers);
    let mut first = First(None);
    for path in moves(headers, raw_path) {
        first.add(rules, find(rules, method, place, path));
        for method in &overrides {
            first.add(rules, find(rules, method, place, path));
        }
    }
    if let Some(index) = first.0 {
        return RuleMatch::Moved(index);
    }
    match find(rules, method, place, raw_path) {
        RuleMatch::None => {}
        found => return found,
    }
    for method in overrides {
        first.add(rules, find(rules, method, place, raw_path));
    }
    match first.0 {
        Some(index) => RuleMatch::Overridden(index),
        None => RuleMatch::None,
    }
}

/// The first rule of those that were found. One that only observes must not hide one that refuses.
struct First(Option<usize>);

impl First {
    fn add(&mut self, rules: &[Arc<Rule>], found: RuleMatch) {
        let rank = |index: usize| (rules.get(index).is_some_and(|rule| rule.observes()), index);
        if let Some(index) = found.index() {
            if self.0.is_none_or(|first| rank(index) < rank(first)) {
                self.0 = Some(index);
            }
        }
    }
}

/// The methods that override headers name.
pub fn method_override(headers: &[(Bytes, Bytes)]) -> Vec<&[u8]> {
    let mut methods = Vec::new();
    for value in named(headers, &OVERRIDES) {
        let list = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
        methods.extend(list.filter(|method| !method.is_empty()));
    }
    methods
}

/// The other paths that headers name. Gateways in front of this one may tell the request's own path
/// in such a header; that moves nothing.
fn moves<'h>(headers: &'h [(Bytes, Bytes)], raw_path: &[u8]) -> Vec<&'h [u8]> {
    let mut paths = named(headers, &MOVES);
    paths.retain(|to| {
        let to = path::normalise(to);
        to.clarity != Clarity::Plain || to.path != path::normalise(raw_path).path
    });
    paths
}

/// The values of headers with one of these names, in any spelling.
fn named<'h>(headers: &'h [(Bytes, Bytes)], wanted: &[&str]) -> Vec<&'h [u8]> {
    let mut values = Vec::new();
    for (name, value) in headers {
        if wanted.iter().any(|w| names::same(name, w.as_bytes())) {
            values.push(value.as_ref());
        }
    }
    values
}

/// Whether some method is, or may be, protected at this host and path, or at one that a header
/// names. If not, [`decide`] finds nothing either. It costs as much as [`decide`], so only
/// requests whose fields cannot be trusted are asked about this way.
pub fn reaches(
    rules: &[Arc<Rule>],
    place: Place,
    raw_path: &[u8],
    headers: &[(Bytes, Bytes)],
) -> bool {
    let reached = |path| search(rules, None, place, path) != RuleMatch::None;
    reached(raw_path) || moves(headers, raw_path).into_iter().any(reached)
}

/// The first rule that may refuse something at this host and path, whatever the method.
pub fn enforced(rules: &[Arc<Rule>], place: Place, raw_path: &[u8]) -> Option<usize> {
    // Other rules must not stand in front of it: what they only observe is not refused.
    let rules = rules.iter().enumerate();
    rules
        .filter(|(_, rule)| !rule.observes() && place.matches(&rule.matches))
        .find(|(_, rule)| may_match(&rule.matches.path, raw_path))
        .map(|(index, _)| index)
}

/// Whether some reading of the path falls under a rule.
fn may_match(rule: &PathMatch, raw_path: &[u8]) -> bool {
    let normal = path::normalise(raw_path);
    path_matches(rule, &normal.path)
        || normal.clarity != Clarity::Plain && Readings::of(raw_path).could_match(rule)
}

/// The first rule that matches.
///
/// A request with a safe method costs one comparison, one whose method and host no rule names
/// costs no allocation and no look at the path.
pub fn find<'p, 'r>(
    rules: &'p [Arc<Rule>],
    method: &[u8],
    place: Place,
    raw_path: &'r [u8],
) -> RuleMatch<'p, 'r> {
    if is_safe(method) {
        return RuleMatch::None;
    }
    search(rules, Some(method), place, raw_path)
}

/// [`find`]; without a method, every method matches.
fn search<'p, 'r>(
    rules: &'p [Arc<Rule>],
    method: Option<&[u8]>,
    place: Place,
    raw_path: &'r [u8],
) -> RuleMatch<'p, 'r> {
    #[cfg(test)]
    tests::SEARCHES.set(tests::SEARCHES.get() + 1);
    let candidates = || {
        rules.iter().enumerate().filter(|(_, rule)| {
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
        let fine = match (normal.clarity, hit) {
            (Clarity::Odd, Some((index, _))) => index,
            _ => rules.len(),
        };
        let readings = Readings::of(raw_path);
        let mut doubt = First(None);
        for (index, rule) in candidates().take_while(|(index, _)| *index < fine) {
            if readings.could_match(&rule.matches.path) {
                doubt.add(rules, RuleMatch::Ambiguous(index));
            }
        }
        let protected = fine < rules.len() && hit.is_some_and(|(_, rule)| !rule.observes());
        if let Some(index) = doubt.0 {
            if !(protected && rules.get(index).is_some_and(|rule| rule.observes())) {
                return RuleMatch::Ambiguous(index);
            }
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
    safe.iter().any(|s| headers::is(s, method))
}

/// An empty list is every method that is not safe.
fn method_matches(methods: &[String], method: &[u8]) -> bool {
    methods.is_empty() || methods.iter().any(|m| headers::is(m.as_bytes(), method))
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

/// No client needs `user@host`, and not everybody takes the same end of it for the host: either
/// counts.
fn authority_matches(patterns: &[String], authority: &[u8]) -> bool {
    authority
        .split(|b| *b == b'@')
        .any(|part| host_matches(patterns, bare_host(part)))
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
