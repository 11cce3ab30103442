//! Configurations that are right, and such that are wrong in one way. Values of single policy fields are
//! not here but in their table (`policy.rs`).

use super::described::{PARSER, SCHEMA};

/// A configuration that is right but for what is given.
pub(super) enum Text {
    /// The whole.
    Whole(&'static str),
    /// Top-level members besides `service` and one plain rule.
    Top(&'static str),
    /// Members of the only rule, besides `match` and `scope`.
    Policy(&'static str),
    /// The `match` of the only rule.
    Match(&'static str),
    /// The rules.
    Rules(&'static str),
    /// The `scope` of the only rule.
    Scope(&'static str),
}

/// `top` must end in a comma if it is not empty.
pub(super) fn config(top: &str, rules: &str) -> String {
    format!(r#"{{{top}"service":{{"target":"idempotencyd"}},"rules":[{rules}]}}"#)
}

fn rule(matches: &str, scope: &str, policy: &str) -> String {
    let comma = if policy.is_empty() { "" } else { "," };
    format!(r#"{{"match":{matches},"scope":{scope}{comma}{policy}}}"#)
}

impl Text {
    pub fn text(&self) -> String {
        let global = r#""global""#;
        match self {
            Text::Whole(text) => (*text).to_owned(),
            Text::Top(top) => config(&format!("{top},"), &rule("{}", global, "")),
            Text::Policy(policy) => config("", &rule("{}", global, policy)),
            Text::Match(matches) => config("", &rule(matches, global, "")),
            Text::Rules(rules) => config("", rules),
            Text::Scope(scope) => config("", &rule("{}", scope, "")),
        }
    }
}

use Text::{Match, Policy, Rules, Scope, Top, Whole};

pub(super) const VALID: &[Text] = &[
    Top(r#""problem_base":"https://errors.example.com/idempotency#""#),
    Top(r#""replay_header":"X-Idempotency-Replayed""#),
    Top(r#""detached":{"cluster":"detached"},"defaults":{"execution":"inline"}"#),
    Top(r#""hop":{"key":"0123456789abcdef"}"#),
    Top(r#""hop":{"key_env":"HOP_KEYS","last":true}"#),
    Top(r#""hop":{"key":["0123456789abcdef","fedcba9876543210"],"last":true}"#),
    Top(r#""defaults":{"scope":"global","key":{},"fingerprint":{},"outcomes":{}}"#),
    Top(r#""host":"kong""#),
    Top(r#""host":"auto""#),
    Top(r#""kong":{"bodies":"late"}"#),
    Top(r#""kong":{}"#),
    Whole(r#"{"service":{"target":"s:8443","tls":true},"rules":[{"match":{},"scope":"global"}]}"#),
    Match(r#"{"methods":"*"}"#),
    Match(
        r#"{"kong_routes":["0c2b4a0e-9a5e-4d8c-8a51-3f2d2a9d5f10"],
            "kong_services":["4f2d2a9d-9a5e-4d8c-8a51-0c2b4a0e5f10"]}"#,
    ),
    Match(r#"{"methods":["PUT","DELETE","PURGE"],"hosts":["API.example.com","*.x.y","[::1]"]}"#),
    Match(r#"{"path":"/v1/charges"}"#),
    Match(r#"{"path":"/v1/a%20b%C3%BC/"}"#),
    Match(r#"{"path_prefix":"/.well-known/x"}"#),
    Policy(r#""mode":"observe","on_unknown":"retry","on_service_failure":"pass""#),
    Policy(r#""on_complete_failure":"withhold","cors":"stored","accept_encoding":"keep""#),
    Policy(r#""key":{"header":"X-Request-Key","syntax":"strict","when_missing":"derive"}"#),
    Policy(r#""fingerprint":{"body":"none","headers":[],"host":true}"#),
    Policy(r#""key":{"from":"/id"}"#),
    Policy(r#""key":{"from":"/id","when_missing":"derive"},"fingerprint":{"body":"json"}"#),
    Policy(r#""key":{"headers":["Idempotency-Key","X-Request-Id"],"syntax":"strict"}"#),
    Policy(r#""fingerprint":{"query":{"ignore":["timestamp"]}},"key":{"when_missing":"derive"}"#),
    Policy(
        r#""fingerprint":{"body":"json","json":{"only":["/data","/id"],"ignore":["/data/at"]}}"#,
    ),
    Policy(r#""stream":true,"execution":"inline""#),
    Whole(
        r#"{"host":"kong","service":{"target":"s"},
            "rules":[{"match":{},"scope":"global","stream":true,"execution":"detached"}]}"#,
    ),
    // A rule says where its keys are, in place of the defaults.
    Whole(
        r#"{"service":{"target":"s"},"defaults":{"scope":"global",
             "key":{"header":"x-key","syntax":"strict"}},
            "rules":[{"match":{"path":"/a"},"key":{"from":"/id"}},
                     {"match":{"path":"/b"},"key":{"headers":["x-a","x-b"]}}]}"#,
    ),
    Policy(r#""lease_ms":9e4,"lease_margin_ms":2000.0,"ttl_ms":316224000000"#),
    Policy(r#""ttl_ms":1,"unknown_ttl_ms":1,"wait_ms":0,"retry_after_s":86400"#),
    Policy(r#""max_body_bytes":268435456,"max_response_bytes":15728640,"wait_ms":60000"#),
    Policy(r#""outcomes":"all""#),
    Policy(r#""cors":{},"problems":{}"#),
    Policy(r#""outcomes":{"200":"failed","599":"unknown","2xx":"completed"}"#),
    Policy(r#""replay_headers":["X-Request-Cost","retry-after"]"#),
    Policy(r#""namespace":"Zahlungen Süd","name":"charges""#),
    Rules(
        r#"{"match":{"path":"/a/b"},"scope":{"header":"x-t"}},
           {"match":{"path_prefix":"/a"},"scope":"global"},
           {"match":{"path_prefix":"/b"},"scope":{"header":"x-u"},"namespace":"u"}"#,
    ),
];

/// (configuration, the beginning of its only fault, who can tell)
pub(super) const INVALID: &[(Text, &str, bool)] = &[
    // structure
    (Whole("[]"), "must be an object", SCHEMA),
    (
        Whole(r#"{"rules":[{"match":{},"scope":"global"}]}"#),
        "service: is required",
        SCHEMA,
    ),
    (
        Whole(r#"{"service":{"target":"t"}}"#),
        "rules: is required",
        SCHEMA,
    ),
    (Rules(""), "rules: must not be empty", SCHEMA),
    (Rules("1"), "rules[0]: must be an object", SCHEMA),
    (
        Rules(r#"{"scope":"global"}"#),
        "rules[0].match: is required",
        SCHEMA,
    ),
    (
        Top(r#""rule":[]"#),
        "rule: unknown field; did you mean `rules`?",
        SCHEMA,
    ),
    (Top(r#""zzz":[]"#), "zzz: unknown field", SCHEMA),
    (
        Top(r#""detached":{}"#),
        "detached.cluster: is required",
        SCHEMA,
    ),
    (Top(r#""hop":{}"#), "hop.key: is required", SCHEMA),
    (
        Top(r#""hop":{"key_env":"A-B"}"#),
        "hop.key_env: must be the name",
        SCHEMA,
    ),
    (
        Top(r#""hop":{"key":"0123456789abcdef","key_env":"HOP"}"#),
        "hop.key_env: goes without hop.key",
        SCHEMA,
    ),
    (
        Top(r#""hop":{"key":"too short"}"#),
        "hop.key: must be 16 to 255",
        SCHEMA,
    ),
    (
        Top(r#""hop":{"key":["0123456789abcdef","with space 0123456789"]}"#),
        "hop.key[1]: must be 16 to 255",
        SCHEMA,
    ),
    (
        Top(r#""hop":{"key":[]}"#),
        "hop.key: must be a key, or a list",
        SCHEMA,
    ),
    (
        Top(r#""hop":{"key":"0123456789abcdef","last":1}"#),
        "hop.last: must be",
        SCHEMA,
    ),
    (
        Top(r#""hop":{"key":"0123456789abcdef","first":true}"#),
        "hop.first: ",
        SCHEMA,
    ),
    (
        Whole(
            r#"{"service":{"target":"s","token":"0123456789abcdef"},
                "hop":{"key":["fedcba9876543210","0123456789abcdef"]},
                "rules":[{"match":{},"scope":"global"}]}"#,
        ),
        "hop.key: must be a key of its own",
        PARSER,
    ),
    (
        Top(r#""detached":null"#),
        "detached: must be an object",
        SCHEMA,
    ),
    (
        Top(r#""detached":{"cluster":""}"#),
        "detached.cluster: must be the name",
        SCHEMA,
    ),
    (
        Top(r#""defaults":{"name":"x"}"#),
        "defaults.name: unknown field",
        SCHEMA,
    ),
    (
        Top(r#""defaults":{"lease":1}"#),
        "defaults.lease: unknown field",
        SCHEMA,
    ),
    (
        Top(r#""problem_base":"errors/""#),
        "problem_base: must be the beginning",
        SCHEMA,
    ),
    (
        Top(r#""problem_base":"urn:a b""#),
        "problem_base: must be the beginning",
        SCHEMA,
    ),
    (
        Top(r#""replay_header":"a b""#),
        "replay_header: must be the name of a header",
        SCHEMA,
    ),
    (
        Top(r#""replay_header":"date""#),
        "replay_header: must be a header of its own",
        SCHEMA,
    ),
    (
        Top(r#""replay_header":"ETag""#),
        "replay_header: must be a header of its own",
        PARSER,
    ),
    (
        Whole(r#"{"service":{"target":"http://s"},"rules":[{"match":{},"scope":"global"}]}"#),
        "service.target: must not be a URL",
        SCHEMA,
    ),
    (
        Whole(
            r#"{"service":{"target":"s","authority":"a/b"},
                "rules":[{"match":{},"scope":"global"}]}"#,
        ),
        "service.authority: must be a host name",
        SCHEMA,
    ),
    (
        Whole(
            r#"{"service":{"target":"s","token":"a b"},"rules":[{"match":{},"scope":"global"}]}"#,
        ),
        "service.token: must be",
        SCHEMA,
    ),
    (
        Whole(
            r#"{"service":{"target":"s","token_env":"A-B"},"rules":[{"match":{},"scope":"global"}]}"#,
        ),
        "service.token_env: must be the name",
        SCHEMA,
    ),
    (
        Whole(
            r#"{"service":{"target":"s","token":"0123456789abcdef","token_env":"T"},
                "rules":[{"match":{},"scope":"global"}]}"#,
        ),
        "service.token_env: goes without service.token",
        PARSER,
    ),
    (
        Whole(
            r#"{"service":{"target":"s","timeout_ms":4294967296},
                "rules":[{"match":{},"scope":"global","lease_ms":86400000}]}"#,
        ),
        "service.timeout_ms: must be an integer",
        SCHEMA,
    ),
    (
        Whole(
            r#"{"service":{"target":"s","batch":{"max_operations":65}},
                "rules":[{"match":{},"scope":"global"}]}"#,
        ),
        "service.batch.max_operations: must be an integer",
        SCHEMA,
    ),
    (
        Whole(
            r#"{"service":{"target":"s","batch":{"max_operations":0}},
                "rules":[{"match":{},"scope":"global"}]}"#,
        ),
        "service.batch.max_operations: must be an integer",
        SCHEMA,
    ),
    (
        Whole(
            r#"{"service":{"target":"s","batch":{"max_in_flight":1001}},
                "rules":[{"match":{},"scope":"global"}]}"#,
        ),
        "service.batch.max_in_flight: must be an integer",
        SCHEMA,
    ),
    (
        Whole(
            r#"{"service":{"target":"s","batch":{"interval_ms":1}},
                "rules":[{"match":{},"scope":"global"}]}"#,
        ),
        "service.batch.interval_ms: ",
        SCHEMA,
    ),
    // match
    (
        Match(r#"{"methods":[]}"#),
        "rules[0].match.methods: must not be empty",
        SCHEMA,
    ),
    (
        Match(r#"{"methods":"POST"}"#),
        "rules[0].match.methods: must be an array",
        SCHEMA,
    ),
    (
        Match(r#"{"methods":["post"]}"#),
        "rules[0].match.methods[0]: must be the name",
        SCHEMA,
    ),
    (
        Match(r#"{"methods":["GET"]}"#),
        "rules[0].match.methods[0]: GET, HEAD",
        SCHEMA,
    ),
    (
        Match(r#"{"methods":["OPTIONS"]}"#),
        "rules[0].match.methods[0]: GET, HEAD",
        SCHEMA,
    ),
    (
        Match(r#"{"methods":["CONNECT"]}"#),
        "rules[0].match.methods[0]: a tunnel",
        SCHEMA,
    ),
    (
        Match(r#"{"methods":["PUT","PUT"]}"#),
        "rules[0].match.methods[1]: is in the list",
        SCHEMA,
    ),
    (
        Match(r#"{"path":"/a","path_prefix":"/b"}"#),
        "rules[0].match: must have path or",
        SCHEMA,
    ),
    (
        Match(r#"{"path":"a"}"#),
        "rules[0].match.path: must start",
        SCHEMA,
    ),
    (
        Match(r#"{"path":"/a?b"}"#),
        "rules[0].match.path: must be a path without",
        SCHEMA,
    ),
    (
        Match(r#"{"path":"/a/*"}"#),
        "rules[0].match.path: wildcards",
        SCHEMA,
    ),
    (
        Match(r#"{"path":"/a%2Fb"}"#),
        "rules[0].match.path: cannot be matched",
        SCHEMA,
    ),
    (
        Match(r#"{"path":"/a%25"}"#),
        "rules[0].match.path: cannot be matched",
        SCHEMA,
    ),
    (
        Match(r#"{"path":"/a;b"}"#),
        "rules[0].match.path: cannot be matched",
        SCHEMA,
    ),
    (
        Match(r#"{"path":"/ü"}"#),
        "rules[0].match.path: cannot be matched",
        SCHEMA,
    ),
    (
        Match(r#"{"path":"/a%"}"#),
        "rules[0].match.path: cannot be matched",
        SCHEMA,
    ),
    (
        Match(r#"{"path":"/a//b"}"#),
        "rules[0].match.path: must be in normal form",
        SCHEMA,
    ),
    (
        Match(r#"{"path":"/a/../b"}"#),
        "rules[0].match.path: must be in normal form",
        SCHEMA,
    ),
    (
        Match(r#"{"path":"/a/."}"#),
        "rules[0].match.path: must be in normal form",
        SCHEMA,
    ),
    (
        Match(r#"{"path":"/%61"}"#),
        "rules[0].match.path: must be in normal form",
        SCHEMA,
    ),
    (
        Match(r#"{"path":"/%c3%bc"}"#),
        "rules[0].match.path: must be in normal form",
        SCHEMA,
    ),
    (
        Match(r#"{"path":"/{id}"}"#),
        "rules[0].match.path: must be in normal form",
        SCHEMA,
    ),
    (
        Top(r#""kong":{"bodies":true}"#),
        "kong.bodies: must be one of",
        SCHEMA,
    ),
    (
        Top(r#""host":"nginx""#),
        "host: must be one of \"auto\", \"envoy\", \"kong\"",
        SCHEMA,
    ),
    (
        Whole(r#"{"service":{"target":"s","tls":"yes"},"rules":[{"match":{},"scope":"global"}]}"#),
        "service.tls: must be",
        SCHEMA,
    ),
    (
        Match(r#"{"kong_routes":[]}"#),
        "rules[0].match.kong_routes: must not be empty",
        SCHEMA,
    ),
    (
        Match(r#"{"kong_services":["charges"]}"#),
        "rules[0].match.kong_services[0]: must be the id",
        SCHEMA,
    ),
    (
        Match(r#"{"hosts":[]}"#),
        "rules[0].match.hosts: must not be empty",
        SCHEMA,
    ),
    (
        Match(r#"{"hosts":["a:80"]}"#),
        "rules[0].match.hosts[0]: must be a host",
        SCHEMA,
    ),
    (
        Match(r#"{"hosts":["a.*"]}"#),
        "rules[0].match.hosts[0]: must be a host",
        SCHEMA,
    ),
    (
        Match(r#"{"hosts":["*"]}"#),
        "rules[0].match.hosts[0]: must be a host",
        SCHEMA,
    ),
    (
        Match(r#"{"hosts":["a."]}"#),
        "rules[0].match.hosts[0]: must be a host",
        SCHEMA,
    ),
    (
        Match(r#"{"hosts":["*.[::1]"]}"#),
        "rules[0].match.hosts[0]: must be a host",
        SCHEMA,
    ),
    (
        Match(r#"{"hosts":["a","A"]}"#),
        "rules[0].match.hosts[1]: is in the list",
        PARSER,
    ),
    (
        Match(r#"{"paths":[]}"#),
        "rules[0].match.paths: unknown field; did you mean",
        SCHEMA,
    ),
    // rules
    (
        Rules(r#"{"match":{}}"#),
        "rules[0].scope: is required",
        PARSER,
    ),
    (
        Policy(r#""name":"""#),
        "rules[0].name: must be 1 to 64",
        SCHEMA,
    ),
    // contradictions
    (
        Policy(r#""lease_ms":1000,"lease_margin_ms":1000"#),
        "rules[0].lease_ms: must be greater than lease_margin_ms (1000)",
        PARSER,
    ),
    (
        Policy(r#""lease_ms":2000"#),
        "rules[0].lease_ms: must exceed service.timeout_ms (1000) by more than",
        PARSER,
    ),
    (
        Top(r#""detached":{"cluster":"d"},"defaults":{"lease_ms":31000}"#),
        "rules[0].execution_timeout_ms: must be less than lease_ms - lease_margin_ms (30000)",
        PARSER,
    ),
    (
        Policy(r#""unknown_ttl_ms":86399999"#),
        "rules[0].unknown_ttl_ms: must be at least ttl_ms (86400000)",
        PARSER,
    ),
    (
        Scope(r#"{"header":"Idempotency-Key"}"#),
        "rules[0].scope.header: must not be the key's own header",
        PARSER,
    ),
    (
        Policy(r#""execution":"detached""#),
        "rules[0].execution: \"detached\" needs",
        PARSER,
    ),
    (
        Policy(r#""key":{"when_missing":"derive"},"fingerprint":{"body":"none"}"#),
        "rules[0].key.when_missing: a key cannot be derived",
        PARSER,
    ),
    (
        Whole(
            r#"{"replay_header":"X-Again","service":{"target":"s"},"rules":[{"match":{},
                "scope":"global","problems":{"in-flight":{"headers":{"x-again":"1"}}}}]}"#,
        ),
        "rules[0].problems: in-flight: must not have the header that marks replays",
        PARSER,
    ),
    (
        Policy(r#""fingerprint":{"headers":["idempotency-key"]}"#),
        "rules[0].fingerprint.headers: must not contain the key's own header",
        PARSER,
    ),
    // between rules
    (
        Rules(
            r#"{"match":{"path_prefix":"/a"},"scope":"global"},
               {"match":{"path":"/a/b/"},"scope":"global"}"#,
        ),
        "rules[1].match: can never match: rules[0] covers it",
        PARSER,
    ),
    (
        Rules(
            r#"{"match":{"methods":"*","hosts":["*.b"]},"scope":"global"},
               {"match":{"methods":["PUT"],"hosts":["a.b","*.c.b"]},"scope":"global"}"#,
        ),
        "rules[1].match: can never match: rules[0] covers it",
        PARSER,
    ),
    (
        Rules(
            r#"{"match":{"path":"/a"},"scope":"global","name":"x"},
               {"match":{"path":"/b"},"scope":"global","name":"x"}"#,
        ),
        "rules[1].name: rules[0] has this name",
        PARSER,
    ),
    (
        Rules(
            r#"{"match":{"path":"/a"},"scope":{"header":"x-a"}},
               {"match":{"path":"/b"},"scope":{"header":"x-b"}}"#,
        ),
        "rules[1].scope: rules[0] takes its tenants from another source",
        PARSER,
    ),
    // what identifies a request
    (
        Policy(r#""key":{"from":"/id","when_missing":"derive"}"#),
        "rules[0].key.when_missing: a key cannot be derived",
        PARSER,
    ),
    (
        Policy(r#""key":{"from":"/id","header":"x-key"}"#),
        "rules[0].key: must have one of header, headers, from",
        PARSER,
    ),
    (
        Policy(r#""fingerprint":{"json":{"only":["/id"]}}"#),
        "rules[0].fingerprint.json: selects members of the body, which needs fingerprint.body",
        PARSER,
    ),
    (
        Policy(r#""key":{"from":"/id"},"fingerprint":{"json":{"ignore":["/at"]}}"#),
        "rules[0].fingerprint.json: selects members",
        PARSER,
    ),
    (
        Policy(r#""fingerprint":{"body":"json","json":{"only":["/a/b","/a"]}}"#),
        "rules[0].fingerprint.json.only: /a/b is inside another one",
        PARSER,
    ),
    (
        Policy(r#""fingerprint":{"body":"json","json":{"ignore":["/a/0","/ab","/a"]}}"#),
        "rules[0].fingerprint.json.ignore: /a/0 is inside another one",
        PARSER,
    ),
    (
        Policy(r#""fingerprint":{"body":"json","json":{"only":["/a"],"ignore":["/a"]}}"#),
        "rules[0].fingerprint.json.ignore: /a is inside none of fingerprint.json.only",
        PARSER,
    ),
    (
        Policy(r#""key":{"headers":["x-a","x-b"]},"fingerprint":{"headers":["X-B"]}"#),
        "rules[0].fingerprint.headers: must not contain the key's own header",
        PARSER,
    ),
    (
        Rules(r#"{"match":{},"key":{"headers":["x-a","x-b"]},"scope":{"header":"x-b"}}"#),
        "rules[0].scope.header: must not be the key's own header",
        PARSER,
    ),
    (
        Whole(
            r#"{"service":{"target":"s"},"detached":{"cluster":"d"},
                "rules":[{"match":{},"scope":"global","stream":true,"execution":"detached"}]}"#,
        ),
        "rules[0].execution: \"detached\" cannot stream on Envoy",
        PARSER,
    ),
    (
        Whole(
            r#"{"host":"envoy","service":{"target":"s"},"detached":{"cluster":"d"},
                "defaults":{"execution":"detached"},
                "rules":[{"match":{},"scope":"global","stream":true}]}"#,
        ),
        "rules[0].execution: \"detached\" cannot stream on Envoy",
        PARSER,
    ),
];
