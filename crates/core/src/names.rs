//! Names of header fields, compared as upstreams compare them.
//!
//! WSGI, CGI, Rack and PHP make one name of `X-Tenant` and `X_Tenant`, and some servers do so with
//! every character that is neither a letter nor a digit. A field that we look for under one
//! spelling must not come in under another: under a protected path such a field is refused,
//! elsewhere it is removed. That holds for trailers too, which some upstreams merge into the
//! headers.

use crate::config::{Policies, Scope};
use crate::headers;
use crate::{rules, upstream};

/// Fields that the filter acts on, whatever the configuration says.
const ALWAYS: [&str; 4] = [
    "accept-encoding",
    "content-length",
    "content-type",
    "transfer-encoding",
];

/// What a field of a client's request is by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing to us, or what it says.
    Ordinary,
    /// Only the gateway sends it.
    Ours,
    /// Another spelling of a field that the filter acts on.
    Disguised,
}

/// The fields that a configuration compares, removes or hashes.
#[derive(Debug, Default)]
pub struct Names {
    /// In lower case, as the configuration spells them.
    known: Vec<Box<[u8]>>,
    /// One of them is not spelled with letters, digits and hyphens alone.
    odd: bool,
}

impl Names {
    /// Those of a configuration.
    pub fn of(policies: &Policies) -> Names {
        let mut known: Vec<Box<[u8]>> = Vec::new();
        let mut add = |name: &str| {
            let name = name.as_bytes().to_ascii_lowercase().into_boxed_slice();
            if !known.contains(&name) {
                known.push(name);
            }
        };
        for fixed in [&rules::OVERRIDES[..], &rules::MOVES, &ALWAYS] {
            fixed.iter().for_each(|name| add(name));
        }
        for policy in policies.rules.iter().map(|rule| &rule.policy) {
            policy.key.headers().iter().for_each(|name| add(name));
            policy.fingerprint.counted_headers().for_each(&mut add);
            match &policy.scope {
                Scope::Header(name) => add(name),
                Scope::StaticCredentials => add("authorization"),
                Scope::Global | Scope::Property(_) => {}
            }
        }
        let odd = known.iter().any(|name| !is_plain(name));
        Names { known, odd }
    }

    /// What a field is. `name` is in lower case.
    pub fn kind(&self, name: &[u8]) -> Kind {
        // No other spelling of anything begins like this.
        if name.starts_with(b":") {
            return Kind::Ordinary;
        }
        let plain = is_plain(name);
        if is_ours(name, plain) {
            return Kind::Ours;
        }
        if plain && !self.odd {
            return Kind::Ordinary;
        }
        let disguised = self.known.iter().any(|n| same(n, name) && **n != *name)
            || !plain && (is_steering(name) || headers::is_hop_by_hop(&folded(name)));
        match disguised {
            true => Kind::Disguised,
            false => Kind::Ordinary,
        }
    }

    /// Whether the filter compares, removes or hashes a field of this name, however it is spelled.
    pub fn concern(&self, name: &[u8]) -> bool {
        self.known.iter().any(|n| same(n, name)) || is_ours(name, false) || is_steering(name)
    }
}

/// Whether two names are one to some upstream.
pub fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| fold(*a) == fold(*b))
}

/// Whether some frameworks take method or path of a request from this field.
#[inline]
pub fn replaces(name: &[u8]) -> bool {
    // All of them begin alike; most names of a request do not.
    let is = |names: &[&str]| names.iter().any(|n| same(n.as_bytes(), name));
    matches!(name, [b'x' | b'X', _, ..]) && (is(&rules::OVERRIDES) || is(&rules::MOVES))
}

/// Whether only the gateway sends this field.
fn is_ours(name: &[u8], plain: bool) -> bool {
    // Most names are plain, and none of those begins as ours do.
    (!plain || name.starts_with(b"idempotency-"))
        && upstream::OURS.iter().any(|n| same(n.as_bytes(), name))
}

/// Whether Envoy would retry, hedge or give up because of it.
fn is_steering(name: &[u8]) -> bool {
    upstream::ENVOY_PREFIXES.iter().any(|prefix| {
        name.get(..prefix.len())
            .is_some_and(|begin| same(prefix.as_bytes(), begin))
    })
}

/// Each character of each name of each request is looked up here.
// (In a constant, an index that is none does not compile.)
#[allow(clippy::indexing_slicing)]
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let letters = b"abcdefghijklmnopqrstuvwxyz0123456789-";
    let mut at = 0;
    while at < letters.len() {
        plain[letters[at] as usize] = true;
        at += 1;
    }
    plain
};

fn is_plain(name: &[u8]) -> bool {
    let is = |b: &u8| PLAIN.get(usize::from(*b)).is_some_and(|plain| *plain);
    // All of it is looked at, which is faster than to stop: most names are plain.
    name.iter().fold(true, |plain, b| plain & is(b))
}

fn folded(name: &[u8]) -> Vec<u8> {
    let mut folded = name.to_vec();
    folded.iter_mut().for_each(|byte| *byte = fold(*byte));
    folded
}

fn fold(byte: u8) -> u8 {
    match byte.is_ascii_alphanumeric() {
        true => byte.to_ascii_lowercase(),
        false => b'-',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn names(rule: &str) -> Names {
        let text = format!(
            r#"{{"service":{{"target":"s"}},"rules":[{{"name":"r","match":{{"methods":["POST"],
                "path_prefix":"/"}}{rule}}}]}}"#
        );
        Names::of(&config::parse_bytes(text.as_bytes()).unwrap().policies)
    }

    #[test]
    fn spellings() {
        let names = names(
            r#","key":{"header":"X-Key"},"scope":{"header":"x-tenant"},
               "fingerprint":{"headers":["x-shop"]}"#,
        );
        for (name, kind) in [
            ("idempotency-fence", Kind::Ours),
            ("idempotency_fence", Kind::Ours),
            ("idempotency.record", Kind::Ours),
            ("idempotency-attempt", Kind::Ours),
            ("idempotency_unprotected", Kind::Ours),
            ("idempotency-key", Kind::Ordinary),
            ("idempotency-fence2", Kind::Ordinary),
            (":method", Kind::Ordinary),
            ("x-key", Kind::Ordinary),
            ("x_key", Kind::Disguised),
            ("x~tenant", Kind::Disguised),
            ("x_shop", Kind::Disguised),
            ("x_other", Kind::Ordinary),
            ("x-http-method-override", Kind::Ordinary),
            ("x_http_method_override", Kind::Disguised),
            ("x-http_method-override", Kind::Disguised),
            ("x_original_url", Kind::Disguised),
            ("content_type", Kind::Disguised),
            ("content_length", Kind::Disguised),
            ("keep_alive", Kind::Disguised),
            ("x_envoy_retry_on", Kind::Disguised),
            ("x-envoy-retry-on", Kind::Ordinary),
            ("", Kind::Ordinary),
        ] {
            assert_eq!(names.kind(name.as_bytes()), kind, "{name}");
        }
        for (name, concerned) in [
            ("x-key", true),
            ("x_key", true),
            ("idempotency_fence", true),
            ("x-rewrite-url", true),
            ("x-envoy-max-retries", true),
            ("x-checksum", false),
            ("te", false),
        ] {
            assert_eq!(names.concern(name.as_bytes()), concerned, "{name}");
        }
    }

    #[test]
    fn a_configured_name_is_no_disguise_of_itself_and_the_usual_spelling_is_one() {
        let names = names(r#","scope":"global","key":{"header":"x_key"}"#);
        assert_eq!(names.kind(b"x_key"), Kind::Ordinary);
        assert_eq!(names.kind(b"x-key"), Kind::Disguised);
        assert_eq!(names.kind(b"x-other"), Kind::Ordinary);
    }

    #[test]
    fn without_a_configuration_ours_are_known() {
        assert_eq!(Names::default().kind(b"idempotency_fence"), Kind::Ours);
        assert_eq!(Names::default().kind(b"x_key"), Kind::Ordinary);
    }
}
