//! The parser against a corpus, and the published schema against the parser.

mod corpus;
pub(super) mod described;
mod draft04;
mod hosts;
mod json;
mod kinds;
mod lua;
mod made;
mod schema;
mod values;

use super::*;
use corpus::{config, Text, INVALID, VALID};
use proptest::prelude::*;

fn shown(result: Result<Plan, Vec<ConfigError>>) -> Vec<String> {
    result
        .err()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_minimal_configuration_has_the_documented_defaults() {
    let plan = parse(&config("", r#"{"match":{},"scope":"global"}"#)).unwrap();
    assert_eq!(
        plan.service,
        Service {
            target: "idempotencyd".into(),
            tls: false,
            authority: "idempotencyd".into(),
            timeout_ms: 1_000,
            token: None,
            token_env: None,
            bearer: None,
            batch: BatchLimits {
                max_in_flight: 4,
                max_operations: 64,
            },
        }
    );
    assert_eq!(plan.host, None);
    assert_eq!(plan.detached_cluster, None);
    assert_eq!(
        plan.policies.problem_base,
        "urn:idempotency-gateway:problem:"
    );
    assert_eq!(plan.policies.replay_header, "Idempotency-Replayed");
    let rule = &plan.policies.rules[0];
    assert_eq!(rule.name, "rules[0]");
    assert_eq!(
        rule.matches,
        Match {
            methods: vec!["POST".into(), "PATCH".into()],
            path: PathMatch::Prefix("/".into()),
            hosts: vec![],
            routes: vec![],
            services: vec![],
        }
    );
    let policy = &rule.policy;
    assert_eq!(policy.mode, Mode::Enforce);
    assert_eq!(policy.key.headers(), ["idempotency-key"]);
    assert_eq!(policy.fingerprint.body(), BodyMode::Raw);
    assert_eq!(policy.execution, Execution::Inline);
    assert_eq!(
        (policy.ttl_ms, policy.unknown_ttl_ms),
        (86_400_000, 604_800_000)
    );
    assert_eq!(
        (policy.lease_ms, policy.lease_margin_ms, policy.wait_ms),
        (60_000, 1_000, 0)
    );
    assert_eq!(
        (policy.max_body_bytes, policy.max_response_bytes),
        (1 << 20, 1 << 20)
    );
    assert!(policy.identity_encoding);
}

#[test]
fn defaults_are_overridden_field_by_field() {
    let top = r#""detached":{"cluster":"d"},"defaults":{"scope":{"header":"X-Tenant"},
        "key":{"syntax":"strict","header":"X-Key"},"ttl_ms":6e8,"mode":"observe",
        "fingerprint":{"headers":["B","a"]},"outcomes":{"500":"completed","4xx":"unknown"}},"#;
    let rules = r#"{"match":{"path":"/a"}},
        {"match":{"path":"/b"},"key":{"header":"X-Other"},"mode":"enforce","execution":"inline",
         "fingerprint":{"body":"json"},"outcomes":{"500":"failed"},"ttl_ms":700000000.0},
        {"match":{"path":"/c"},"outcomes":"default","scope":"global"}"#;
    let plan = parse(&config(top, rules)).unwrap();
    let [a, b, c] = [0, 1, 2].map(|i: usize| &plan.policies.rules[i].policy);
    assert_eq!((a.mode, a.execution), (Mode::Observe, Execution::Detached));
    assert_eq!((b.mode, b.execution), (Mode::Enforce, Execution::Inline));
    assert_eq!(
        (a.key.header.as_str(), a.key.syntax),
        ("x-key", KeySyntax::Strict)
    );
    assert_eq!(
        (b.key.header.as_str(), b.key.syntax),
        ("x-other", KeySyntax::Strict)
    );
    assert!(a.fingerprint.counted_headers().eq(["a", "b"]));
    assert_eq!(
        (b.fingerprint.body(), &b.fingerprint.headers),
        (BodyMode::Json, &a.fingerprint.headers)
    );
    assert_eq!((a.ttl_ms, a.unknown_ttl_ms), (600_000_000, 604_800_000));
    assert_eq!((b.ttl_ms, b.unknown_ttl_ms), (700_000_000, 700_000_000));
    assert_eq!(
        (&a.scope, &c.scope),
        (&Scope::Header("x-tenant".into()), &Scope::Global)
    );
    let class = |policy: &Policy, status| policy.outcomes.class(status, false);
    for (status, in_a, in_b, in_c) in [
        (
            200,
            OutcomeClass::Completed,
            OutcomeClass::Completed,
            OutcomeClass::Completed,
        ),
        (
            404,
            OutcomeClass::Unknown,
            OutcomeClass::Unknown,
            OutcomeClass::Completed,
        ),
        (
            429,
            OutcomeClass::Failed,
            OutcomeClass::Failed,
            OutcomeClass::Failed,
        ),
        (
            500,
            OutcomeClass::Completed,
            OutcomeClass::Failed,
            OutcomeClass::Unknown,
        ),
        (
            502,
            OutcomeClass::Unknown,
            OutcomeClass::Unknown,
            OutcomeClass::Unknown,
        ),
    ] {
        let got = [a, b, c].map(|policy| class(policy, status));
        assert_eq!(got, [in_a, in_b, in_c], "{status}");
    }
}

#[test]
fn outcomes_take_the_most_specific_name() {
    let cases = [503, 500, 401, 404, 409, 302];
    // (setting, each of these statuses without Retry-After, and with it)
    for (setting, without, with) in [
        (r#""default""#, "uufccc", "fufcfc"),
        ("{}", "uufccc", "fufcfc"),
        (r#""all""#, "cccccc", "cccccc"),
        (r#"{"5xx":"completed"}"#, "ccfccc", "fcfcfc"),
        (r#"{"503":"completed"}"#, "cufccc", "cufcfc"),
        (
            r#"{"503+retry-after":"failed","503":"completed"}"#,
            "cufccc",
            "fufcfc",
        ),
        (
            r#"{"503":"completed","503+retry-after":"unknown"}"#,
            "cufccc",
            "uufcfc",
        ),
        (r#"{"4xx":"unknown","404":"failed"}"#, "uuffuc", "fufffc"),
        (r#"{"401":"completed"}"#, "uucccc", "fuccfc"),
        (r#"{"409":"completed"}"#, "uufccc", "fufccc"),
        (
            r#"{"409":"unknown","409+retry-after":"completed"}"#,
            "uufcuc",
            "fufccc",
        ),
        (r#"{"409+retry-after":"unknown"}"#, "uufccc", "fufcuc"),
        (r#"{"4xx+retry-after":"failed"}"#, "uufccc", "fufffc"),
        (
            r#"{"4xx":"unknown","4xx+retry-after":"failed"}"#,
            "uufuuc",
            "fufffc",
        ),
        (
            r#"{"3xx+retry-after":"failed","5xx+retry-after":"failed"}"#,
            "uufccc",
            "fffcff",
        ),
    ] {
        let rule = format!(r#"{{"match":{{}},"scope":"global","outcomes":{setting}}}"#);
        let plan = parse(&config("", &rule)).unwrap();
        let outcomes = &plan.policies.rules[0].policy.outcomes;
        let letters = |retry_after| -> String {
            let letter = |status| match outcomes.class(status, retry_after) {
                OutcomeClass::Completed => 'c',
                OutcomeClass::Failed => 'f',
                OutcomeClass::Unknown => 'u',
            };
            cases.map(letter).iter().collect()
        };
        assert_eq!(
            (letters(false).as_str(), letters(true).as_str()),
            (without, with),
            "{setting}"
        );
    }
    // What a rule says of a status, it says of all its answers, whatever the defaults say of some.
    let top =
        r#""defaults":{"outcomes":{"409+retry-after":"unknown","4xx+retry-after":"unknown"}},"#;
    let rule = r#"{"match":{},"scope":"global","outcomes":{"409":"failed"}}"#;
    let plan = parse(&config(top, rule)).unwrap();
    let outcomes = &plan.policies.rules[0].policy.outcomes;
    let got = [409, 404, 100, 600].map(|status| outcomes.class(status, true));
    let unknown = OutcomeClass::Unknown;
    assert_eq!(got, [OutcomeClass::Failed, unknown, unknown, unknown]);
}

#[test]
fn valid_configurations_are_accepted() {
    for text in VALID {
        assert_eq!(
            shown(parse(&text.text())),
            Vec::<String>::new(),
            "{}",
            text.text()
        );
    }
}

/// The examples of `docs/configuration.md`.
fn examples() -> Vec<&'static str> {
    let reference = include_str!("../../../../../docs/configuration.md");
    let fences = reference.split("```json\n").skip(1);
    fences.filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn documented_examples_are_accepted() {
    assert_eq!(examples().len(), 3);
    for text in examples() {
        assert_eq!(shown(parse(text)), Vec::<String>::new(), "{text}");
    }
}

/// Every field is in the reference. (The tables of the policy fields are made, see `made.rs`.)
#[test]
fn every_field_is_documented() {
    let reference = include_str!("../../../../../docs/configuration.md");
    for names in [fields::TOP, fields::SERVICE, fields::RULE, fields::MATCH] {
        for name in names {
            assert!(reference.contains(&format!("`{name}`")), "{name}");
        }
    }
}

#[test]
fn faults_are_told_with_their_path() {
    for (text, want, _) in INVALID {
        let got = shown(parse(&text.text()));
        assert!(
            got.len() == 1 && got[0].starts_with(want),
            "{}\n got {got:?}\nwant {want}",
            text.text()
        );
    }
}

#[test]
fn a_hop_has_one_key_or_several_and_shows_none_of_them() {
    let hop = |hop: &str| {
        let text = format!(
            r#"{{"service":{{"target":"s"}},"hop":{hop},"rules":[{{"match":{{}},"scope":"global"}}]}}"#
        );
        parse(&text).unwrap().policies.hop.unwrap()
    };
    let (old, new) = ("0123456789abcdef", "fedcba9876543210");
    let one = hop(&format!(r#"{{"key":"{old}"}}"#));
    assert_eq!(one.keys, [old]);
    assert!(!one.last);
    let two = hop(&format!(r#"{{"key":["{new}","{old}"],"last":true}}"#));
    assert_eq!(two.keys, [new, old]);
    assert!(two.last);
    let shown = format!("{two:?}");
    assert!(!shown.contains(old) && !shown.contains(new), "{shown}");
}

#[test]
fn batches_are_limited_or_none() {
    let limits = |batch: &str| {
        let text = format!(
            r#"{{"service":{{"target":"s","batch":{batch}}},
                "rules":[{{"match":{{}},"scope":"global"}}]}}"#
        );
        let batch = parse(&text).unwrap().service.batch;
        (batch.max_in_flight, batch.max_operations)
    };
    assert_eq!(limits("{}"), (4, 64));
    assert_eq!(limits(r#"{"max_in_flight":0}"#), (0, 64));
    assert_eq!(limits(r#"{"max_operations":32}"#), (4, 32));
}

#[test]
fn all_faults_are_told_at_once() {
    let text = r#"{"service":{"timeout_ms":0,"tokn":"x"},"detached":{},"rules":[
        {"match":{"methods":["OPTIONS","post"],"path":"charges"},"leas_ms":1},
        {"match":{"path_prefix":"/a","hosts":["a b"]},"scope":"global","lease_ms":"1s",
         "outcomes":{"600":"completed","500":"done"}}]}"#;
    let got: Vec<_> = parse(text)
        .unwrap_err()
        .into_iter()
        .map(|e| e.path)
        .collect();
    let want = [
        "service.tokn",
        "service.target",
        "service.timeout_ms",
        "detached.cluster",
        "rules[0].leas_ms",
        "rules[0].match.methods[0]",
        "rules[0].match.methods[1]",
        "rules[0].match.path",
        "rules[0].scope",
        "rules[1].match.hosts[0]",
        "rules[1].lease_ms",
        "rules[1].outcomes.600",
        "rules[1].outcomes.500",
    ];
    assert_eq!(got, want);
}

/// Lua, through which Kong passes configurations, has one empty table for both.
#[test]
fn an_empty_object_is_an_empty_list() {
    let rules = |lists: &str| {
        let policy = format!(r#"{{"fingerprint":{{"headers":{lists}}},"replay_headers":{lists}}}"#);
        let top = format!(r#""defaults":{policy},"#);
        parse(&config(&top, r#"{"match":{},"scope":"global"}"#)).unwrap()
    };
    assert_eq!(rules("{}"), rules("[]"));
    let got = shown(parse(&config("", "").replace("[]", "{}")));
    assert_eq!(
        got,
        ["rules: must not be empty: nothing would be protected"]
    );
    let got = shown(parse(&Text::Match(r#"{"hosts":{"a":1}}"#).text()));
    assert_eq!(got, ["rules[0].match.hosts: must be an array"]);
}

#[test]
fn text_that_is_no_json() {
    for (bytes, want) in [
        (
            &b""[..],
            "the configuration is not valid JSON: the text ends too early (at byte 0)",
        ),
        (
            b"{\"a\":1,\"a\":2}",
            "the configuration is not valid JSON: an object names a member twice",
        ),
        (b"\xff", "the configuration is not valid JSON: not UTF-8"),
        (b"[]", "must be an object"),
    ] {
        let got = shown(parse_bytes(bytes));
        assert!(got.len() == 1 && got[0].starts_with(want), "{got:?}");
    }
}

#[test]
fn a_token_is_not_shown() {
    let service =
        r#""service":{"target":"t","token":"s3cret"},"rules":[{"match":{},"scope":"global"}]"#;
    let plan = parse(&format!("{{{service}}}")).unwrap();
    assert_eq!(plan.service.token.as_deref(), Some("s3cret"));
    assert!(!format!("{plan:?}").contains("s3cret"));
}

#[test]
fn a_token_of_the_environment_is_taken_and_never_told() {
    let text =
        r#"{"service":{"target":"t","token_env":"TOKEN"},"rules":[{"match":{},"scope":"global"}]}"#;
    let plan = || parse(text).unwrap();
    assert_eq!(plan().service.bearer, None);
    let taken = plan().take_secrets(|name| (name == "TOKEN").then(|| "s3cret\n".into()));
    let service = taken.unwrap().service;
    assert_eq!(service.bearer.as_deref(), Some(&b"Bearer s3cret"[..]));
    assert!(!format!("{service:?}").contains("s3cret"));
    let refused = |value: Option<&'static [u8]>| {
        let result = plan().take_secrets(|_| value.map(bytes::Bytes::from_static));
        shown(result).join("; ")
    };
    let absent = "service.token_env: TOKEN: the environment of the VM has no such variable";
    assert_eq!(refused(None), absent);
    for value in [&b""[..], b"\n", b"two words-s3cret", b"\xff"] {
        let said = refused(Some(value));
        assert!(
            said.starts_with("service.token_env: TOKEN: its value must be"),
            "{said}"
        );
        assert!(!said.contains("s3cret"), "{said}");
    }
    // Without the field, nobody is asked.
    let plain = parse(&config("", r#"{"match":{},"scope":"global"}"#)).unwrap();
    assert!(plain.take_secrets(|_| panic!("asked")).is_ok());
}

#[test]
fn keys_between_gateways_are_taken_from_the_environment_and_never_told() {
    let with = |token: &str| {
        let text = format!(
            r#"{{"service":{{"target":"t"{token}}},"hop":{{"key_env":"HOP","last":true}},
                "rules":[{{"match":{{}},"scope":"global"}}]}}"#
        );
        parse(&text).unwrap()
    };
    let (old, new) = ("0123456789abcdef", "fedcba9876543210");
    let hop = with("").policies.hop.unwrap();
    assert!(hop.keys.is_empty() && hop.last);
    let value = format!("{new}\n{old}\n");
    let give = |name: &str| (name == "HOP").then(|| bytes::Bytes::from(value.clone()));
    let taken = with("").take_secrets(give).unwrap().policies.hop.unwrap();
    assert_eq!(taken.keys, [new, old]);
    assert!(!format!("{taken:?}").contains(new), "{taken:?}");
    let absent = "hop.key_env: HOP: the environment of the VM has no such variable";
    assert_eq!(shown(with("").take_secrets(|_| None)).join("; "), absent);
    for value in [
        &b""[..],
        b"\n",
        b"too-short",
        b"0123456789abcdef short",
        b"\xff",
    ] {
        let value = bytes::Bytes::from_static(value);
        let said = shown(with("").take_secrets(|_| Some(value.clone()))).join("; ");
        assert!(
            said.starts_with("hop.key_env: HOP: its value must be"),
            "{said}"
        );
        assert!(!said.contains("0123"), "{said}");
    }
    // A token is none, whichever of them is in the environment.
    let own = "hop: its key must be one of its own, not service.token";
    for token in [
        format!(r#","token":"{old}""#),
        r#","token_env":"HOP""#.to_owned(),
    ] {
        let one = |_: &str| Some(bytes::Bytes::from(old));
        assert_eq!(shown(with(&token).take_secrets(one)).join("; "), own);
    }
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse_bytes(&bytes);
    }

    /// Values of a valid configuration, replaced by others at random.
    #[test]
    fn never_panics_on_nearly_valid_input(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        value in prop_oneof![
            Just("null"), Just("[]"), Just("{}"), Just("-1"), Just("1e400"), Just("1e-400"),
            Just("\"\""), Just("true"), Just("[[]]"), Just("{\"\":{}}"), Just("9007199254740993"),
            Just("\"é\\u0000\""), Just("[\"a\",\"A\"]"),
        ],
    ) {
        let text = which.get(VALID).text();
        let starts: Vec<usize> =
            text.match_indices([':', '[', ',']).map(|(i, _)| i + 1).collect();
        let from = *at.get(&starts);
        let rest = &text[from..];
        let len = rest.find([',', '}', ']']).unwrap_or(rest.len());
        let mutated = format!("{}{value}{}", &text[..from], &rest[len..]);
        let _ = parse(&mutated);
    }
}
