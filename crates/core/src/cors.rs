//! What pages of other origins may read of an answer (Fetch, §3.2 "CORS protocol").
//!
//! Preflights are not handled here: OPTIONS is never protected.

use crate::config::{Policies, Policy};
use crate::headers::Headers;
use crate::reply::EXPIRES_HEADER;
use bytes::Bytes;
use idempotency_protocol::StoredResponse;

/// Name under which the `Origin` of the first request is stored beside `access-control-*`.
pub const STORED_ORIGIN: &str = "idempotency-stored-origin";

const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const ANY: &[u8] = b"*";

/// Whether a field of an answer belongs to CORS. `name` is in lower case.
pub fn is_cors(name: &[u8]) -> bool {
    name.starts_with(b"access-control-")
}

/// Whether the stored `access-control-*` are for a request with this origin as well: it is that of the first
/// request, or they name it, or everyone.
pub(crate) fn is_shared(response: &StoredResponse, origin: Option<&Bytes>) -> bool {
    let stored = |wanted: &str| {
        let mut headers = response.headers.iter();
        let found = headers.find(|(name, _)| name.as_ref() == wanted.as_bytes());
        found.map(|(_, value)| value)
    };
    let allowed = stored(ALLOW_ORIGIN);
    stored(STORED_ORIGIN) == origin
        || allowed.is_some_and(|allowed| allowed.as_ref() == ANY || Some(allowed) == origin)
}

/// Says to caches that an answer is another one for another origin, unless it does already.
pub(crate) fn vary(headers: &mut Vec<(Bytes, Bytes)>) {
    let names = |value: &Bytes| {
        let mut names = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
        names.any(|name| name == ANY || name.eq_ignore_ascii_case(b"origin"))
    };
    let is_said = |(name, value): &(Bytes, Bytes)| name.as_ref() == b"vary" && names(value);
    if !headers.iter().any(is_said) {
        headers.push(("vary".into(), "Origin".into()));
    }
}

/// Lets a page read what we tell in headers, and these.
pub(crate) fn expose(policies: &Policies, more: &[(Bytes, Bytes)]) -> (Bytes, Bytes) {
    let marker = &policies.replay_header;
    let mut names = format!("{marker}, {EXPIRES_HEADER}, retry-after").into_bytes();
    for (name, _) in more {
        names.extend_from_slice(b", ");
        names.extend_from_slice(name);
    }
    ("access-control-expose-headers".into(), names.into())
}

/// Lets pages of the origins that the rule names read an answer of ours. `more`: headers of it that they may
/// read, too.
pub(crate) fn share(
    policies: &Policies,
    policy: &Policy,
    request: &Headers,
    headers: &mut Vec<(Bytes, Bytes)>,
    more: &[(Bytes, Bytes)],
) {
    let cors = &policy.cors;
    if cors.origins.is_empty() {
        return;
    }
    let anyone = cors.origins.iter().any(|known| known.as_bytes() == ANY);
    if !anyone {
        vary(headers);
    }
    let Some(origin) = request.get("origin") else {
        return;
    };
    let allowed = match anyone {
        true => Bytes::from_static(ANY),
        false if cors.origins.iter().any(|known| known.as_bytes() == origin) => origin.clone(),
        false => return,
    };
    headers.push((ALLOW_ORIGIN.into(), allowed));
    if cors.credentials {
        headers.push(("access-control-allow-credentials".into(), "true".into()));
    }
    headers.push(expose(policies, more));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Capture;
    use crate::config;
    use crate::problem::{Problem, ProblemSettings};
    use crate::reply::{replay, LocalReply};
    use idempotency_protocol::{Outcome, Stored};

    const SHOP: &str = "https://shop.example";
    const OTHER: &str = "https://other.example";

    fn policies(cors: &str) -> Policies {
        let text = format!(r#"{{"rules":[{{"match":{{}},"scope":"global","cors":{cors}}}]}}"#);
        config::parse_policies(&text).unwrap()
    }

    fn fields(all: &[(&'static str, &'static str)]) -> Headers {
        all.iter()
            .map(|(n, v)| ((*n).into(), (*v).into()))
            .collect()
    }

    fn shown(reply: &LocalReply) -> Vec<String> {
        let of_interest = |name: &[u8]| is_cors(name) || name == b"vary";
        let headers = reply.headers.iter().filter(|(name, _)| of_interest(name));
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let mut shown: Vec<_> = headers
            .map(|(n, v)| format!("{}: {}", text(n).replace("access-control-", ""), text(v)))
            .collect();
        shown.sort();
        shown
    }

    /// What a request with the origin `second` is answered after one with `first`, for which the upstream sent
    /// these headers.
    fn replayed(
        cors: &str,
        first: Option<&'static str>,
        upstream: &[(&'static str, &'static str)],
        second: Option<&'static str>,
    ) -> Vec<String> {
        let policies = policies(cors);
        let policy = &policies.rules[0].policy;
        let [first, second] = [first, second].map(|origin| origin.map(Bytes::from));
        let outcome = Capture::new(policy, 201, &fields(upstream), first.as_ref()).outcome();
        let Outcome::Response(response) = &outcome else {
            panic!("{outcome:?}");
        };
        let stored = Stored {
            outcome: outcome.clone().into(),
            fence: 1,
            attempt: 1,
            age_ms: 0,
            expires_at_ms: 0,
        };
        let reply = replay(&policies, policy, &stored, response, second.as_ref());
        let told = |(name, _): &(Bytes, Bytes)| name.as_ref() == STORED_ORIGIN.as_bytes();
        assert!(!reply.headers.iter().any(told), "it is nobody's business");
        shown(&reply)
    }

    const EXPOSED: &str = "expose-headers: Idempotency-Replayed, idempotency-expires, retry-after";

    #[test]
    fn replays_carry_what_the_first_answer_carried_for_an_equal_origin() {
        let echo = [
            ("access-control-allow-origin", SHOP),
            ("access-control-allow-credentials", "true"),
            ("vary", "accept, origin"),
        ];
        let all = [
            "allow-credentials: true",
            "allow-origin: https://shop.example",
            EXPOSED,
            "vary: accept, origin",
        ];
        let none = ["vary: accept, origin"];
        let stored = "\"stored\"";
        assert_eq!(replayed(stored, Some(SHOP), &echo, Some(SHOP)), all);
        assert_eq!(replayed(stored, Some(SHOP), &echo, Some(OTHER)), none);
        assert_eq!(replayed(stored, Some(SHOP), &echo, None), none);
        assert_eq!(replayed(stored, None, &echo, Some(OTHER)), none);
        // An upstream that names one origin, whoever asks.
        assert_eq!(replayed(stored, None, &echo, Some(SHOP)), all);
        let without_exposed = [all[0], all[1], all[3]];
        assert_eq!(replayed(stored, None, &echo, None), without_exposed);
        // The first answer was for nobody to read, and so is its replay.
        let refused = replayed(stored, Some(OTHER), &echo, Some(OTHER));
        assert_eq!(refused, all);
    }

    #[test]
    fn an_answer_for_everyone_is_replayed_to_everyone() {
        let open = [
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", "x-total"),
        ];
        for second in [Some(SHOP), Some(OTHER), Some("null")] {
            for first in [Some(SHOP), None] {
                let want = ["allow-origin: *", EXPOSED, "expose-headers: x-total"];
                assert_eq!(replayed("\"stored\"", first, &open, second), want);
            }
        }
        let want = ["allow-origin: *", "expose-headers: x-total"];
        assert_eq!(replayed("\"stored\"", Some(SHOP), &open, None), want);
    }

    #[test]
    fn a_replay_that_withholds_says_that_origins_matter() {
        let echo = [("access-control-allow-origin", SHOP)];
        let got = replayed("\"stored\"", Some(SHOP), &echo, Some(OTHER));
        assert_eq!(got, ["vary: Origin"]);
    }

    #[test]
    fn where_the_gateway_makes_cors_nothing_of_the_upstream_is_replayed() {
        let open = [("access-control-allow-origin", "*")];
        for cors in ["\"gateway\"", r#"{"replay":"gateway","origins":["*"]}"#] {
            assert_eq!(replayed(cors, Some(SHOP), &open, Some(SHOP)), [EXPOSED]);
        }
        // An upstream without CORS: what the gateway adds is for a page that may read the marker.
        assert_eq!(replayed("{}", Some(SHOP), &[], Some(OTHER)), [EXPOSED]);
    }

    #[test]
    fn refusals_can_be_read_where_the_rule_names_the_origin() {
        let refused = |cors: &str, origin: Option<&'static str>| {
            let policies = policies(cors);
            let origin = origin.map(|origin| ("origin", origin));
            let request = fields(&origin.into_iter().collect::<Vec<_>>());
            let policy = &policies.rules[0].policy;
            let settings = ProblemSettings::new(&policies, policy, &request);
            shown(&Problem::InFlight.reply(&settings, None))
        };
        let nothing: [&str; 0] = [];
        let one = r#"{"origins":["https://shop.example"],"credentials":true}"#;
        let all = [
            "allow-credentials: true",
            "allow-origin: https://shop.example",
            EXPOSED,
            "vary: Origin",
        ];
        assert_eq!(refused(one, Some(SHOP)), all);
        assert_eq!(refused(one, Some(OTHER)), ["vary: Origin"]);
        assert_eq!(
            refused(one, Some("https://shop.example:8443")),
            ["vary: Origin"]
        );
        assert_eq!(refused(one, None), ["vary: Origin"]);
        let any = r#"{"origins":["*"]}"#;
        assert_eq!(refused(any, Some("null")), ["allow-origin: *", EXPOSED]);
        assert_eq!(refused(any, None), nothing);
        assert_eq!(refused("\"stored\"", Some(SHOP)), nothing);
    }
}
