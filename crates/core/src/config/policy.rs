//! The policy fields: the one place where each of them is declared.
//!
//! From these tables come the structs, the readers, the built-in values, the merge of `defaults` and
//! rules, the published schemas, the tables of `docs/configuration.md` and the values that the tests
//! try. After a change,
//!
//! ```text
//! UPDATE_META=1 cargo test -p idempotency-core config
//! ```
//!
//! writes the files that are made from them. What a contradiction between two fields is, and what an
//! open field becomes, is said in `validate.rs`.
//!
//! The order is that in which faults are told, and that of the schemas and of the documentation.

use super::cors::{Cors, Sharing};
use super::kinds::{
    words, Flag, Group, Header, HeaderNames, Integer, KeyPlaces, Ordered, Text, Texts, ValueKind,
    Words,
};
use super::outcomes::{default_outcomes, Meanings, Outcomes};
use super::problems::{Problems, Refusals};
use super::reader::{Faults, Object};
use super::scope::TenantSource;
use super::table::{declare, Table};
#[cfg(test)]
use super::tests::described::{About, Described, EXECUTION, PARSER, RESULTS, SCHEMA, WHO};
use super::{checks, BodyMode, Execution, KeySyntax, Mode, OnCompleteFailure};
use super::{OnServiceFailure, OnUnknown, Scope, WhenMissing, MAX_TIMEOUT_MS};
use idempotency_protocol::limits::{MAX_LEASE_MS, MAX_RESPONSE_BYTES, MAX_TTL_MS, MAX_WAIT_MS};

/// Largest body that can be stored.
const MAX_BYTES: u64 = 256 << 20;
// Sizes are read as 64 bits, and kept as a `usize`.
const _: () = assert!(MAX_BYTES <= usize::MAX as u64 && MAX_RESPONSE_BYTES as u64 <= MAX_BYTES);

/// Headers that count where the configuration does not say which do.
const FINGERPRINT_HEADERS: [&str; 2] = ["content-encoding", "content-range"];

#[cfg(test)]
const NO_POINTERS: &[(&str, &str, bool)] = &[
    (r#""id""#, ": must be a JSON Pointer", SCHEMA),
    (r#""""#, ": must be a JSON Pointer", SCHEMA),
    (r#""$.id""#, ": must be a JSON Pointer", SCHEMA),
    (r#""/a~""#, ": must be a JSON Pointer", SCHEMA),
    (r#""/a~2/b""#, ": must be a JSON Pointer", SCHEMA),
    (r##""#/id""##, ": must be a JSON Pointer", SCHEMA),
];
#[cfg(test)]
const NO_POINTERS_IN_LIST: &[(&str, &str, bool)] = &[
    (r#"["/a","id"]"#, "[1]: must be a JSON Pointer", SCHEMA),
    (r#"[""]"#, "[0]: must be a JSON Pointer", SCHEMA),
    (r#"["/a~"]"#, "[0]: must be a JSON Pointer", SCHEMA),
];

declare! {
    /// How keys are read. One of `header`, `headers` and `from` says where they are.
    #[derive(Clone, Debug, PartialEq)]
    pub struct KeyPolicy {
        /// Request header that carries the key.
        ///
        /// In lower case.
        header: String = "idempotency-key".to_owned(), Header(checks::key_header), {
            docs: "request header that carries the key",
            schema: r##"{"allOf": [
                {"$ref": "#/$defs/header"},
                {"not": {"$ref": "#/$defs/credentials"}},
                {"not": {"$ref": "#/$defs/content_type"}}
            ]}"##,
            wrong: &[
                (r#""authorization""#, ": must be a header of its own", SCHEMA),
                (r#""Cookie""#, ": must be a header of its own", PARSER),
                (r#""content-type""#, ": must be a header of its own", SCHEMA),
            ],
        }
        /// Request headers that carry the key: the first that is there; two different keys are refused.
        ///
        /// In lower case; empty: only [`KeyPolicy::header`].
        headers: Vec<String> = Vec::new(), Ordered(checks::key_header), {
            docs: "several such headers, for clients of more than one kind: the first that is there has the \
                   key, and two different keys get 400. Instead of `key.header`",
            schema: r##"{"allOf": [
                {"$ref": "#/$defs/header"},
                {"not": {"$ref": "#/$defs/credentials"}},
                {"not": {"$ref": "#/$defs/content_type"}}
            ]}"##,
            wrong: &[
                (r#"["authorization"]"#, "[0]: must be a header of its own", SCHEMA),
                (r#"["a","Content-Type"]"#, "[1]: must be a header of its own", PARSER),
            ],
        }
        /// JSON Pointer to the member of the body that is the key, instead of a header.
        from: Option<String> = None, Text(checks::pointer), {
            docs: "[JSON Pointer](#what-identifies-a-request) to the member of the body that is the key \
                   (`/id`, for webhooks); no header is read then. The body must be JSON. Instead of \
                   `key.header`",
            values: "JSON Pointer",
            usual: "–",
            schema: r##"{"$ref": "#/$defs/pointer"}"##,
            right: &[r#""/id""#, r#""/data/object/0/a~1b""#],
            wrong: NO_POINTERS,
        }
        /// any: a quoted string (RFC 9651) or a bare one; strict: quoted only.
        syntax: KeySyntax = KeySyntax::Any, words![
            "any" = KeySyntax::Any,
            "strict" = KeySyntax::Strict,
        ], {
            docs: "`strict`: a quoted string as in RFC 9651. `any`: also bare, 1–255 visible \
                   characters without `\" , ; \\`; then `abc` and `\"abc\"` are one key. Case-sensitive",
        }
        /// What a program sends whose variable is not set (`undefined`, `null`, …). refuse: 400; allow: a
        /// key like any other.
        placeholders: bool = false, words![
            "refuse" = false,
            "allow" = true,
        ], {
            docs: "`undefined`, `null`, `(null)`, `None`, `nil`, `<nil>`, `NaN`, `[object Object]`, `{}` and \
                   `[]` are what programs write for a key that is not set, so that all would share one: 400; \
                   or keys like any other",
        }
        /// refuse: 400; pass: not protected; derive: a hash of tenant, operation and payload is the
        /// key.
        when_missing: WhenMissing = WhenMissing::Refuse, words![
            "refuse" = WhenMissing::Refuse,
            "pass" = WhenMissing::Pass,
            "derive" = WhenMissing::Derive,
        ], {
            docs: "400; or not protected; or a hash of tenant, operation and payload is the key: then \
                   two *intended* equal operations within `ttl_ms` are one",
        }
    }
}

impl KeyPolicy {
    /// The request headers that may carry the key, in lower case; also where it is in the body, and the
    /// first one only takes it upstream.
    pub fn headers(&self) -> &[String] {
        match self.headers.as_slice() {
            [] => std::slice::from_ref(&self.header),
            headers => headers,
        }
    }
}

impl Default for KeyPolicy {
    fn default() -> KeyPolicy {
        KeyPolicy::built_in()
    }
}

declare! {
    /// Which members of a JSON body count.
    #[derive(Clone, Debug, PartialEq)]
    pub struct JsonPolicy {
        /// JSON Pointers to the only members of the body that count.
        ///
        /// Sorted; none of them is inside another. Empty: all.
        only: Vec<String> = Vec::new(), Texts(checks::pointer), {
            docs: "[JSON Pointers](#what-identifies-a-request) to the only members of the body that must be \
                   equal. Needs `fingerprint.body: \"json\"`",
            schema: r##"{"$ref": "#/$defs/pointer"}"##,
            right: &[r#"["/id"]"#, r#"["/b/0","/a~0b","/B"]"#],
            wrong: NO_POINTERS_IN_LIST,
        }
        /// JSON Pointers to members of the body that do not count.
        ///
        /// Sorted; none of them is inside another.
        ignore: Vec<String> = Vec::new(), Texts(checks::pointer), {
            docs: "JSON Pointers to members that may differ. Needs `fingerprint.body: \"json\"`",
            schema: r##"{"$ref": "#/$defs/pointer"}"##,
            right: &[r#"["/created_at"]"#, r#"["/b/0","/a~0b","/B"]"#],
            wrong: NO_POINTERS_IN_LIST,
        }
    }
}

impl Default for JsonPolicy {
    fn default() -> JsonPolicy {
        JsonPolicy::built_in()
    }
}

declare! {
    /// Which parameters of the query count.
    #[derive(Clone, Debug, PartialEq)]
    pub struct QueryPolicy {
        /// Names of parameters that do not count.
        ///
        /// Sorted.
        ignore: Vec<String> = Vec::new(), Texts(checks::property), {
            docs: "names of query parameters that may differ (`timestamp`, `signature`), without escapes; \
                   case counts",
            schema: r#"{
                "type": "string",
                "minLength": 1,
                "maxLength": 255,
                "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
            }"#,
            right: &[r#"["timestamp","signature"]"#, r#"["X-Sig","x-sig","filter[a]"]"#],
            wrong: &[
                (r#"[""]"#, "[0]: must be 1 to 255 bytes", SCHEMA),
                (r#"["a\u0000"]"#, "[0]: must be 1 to 255 bytes", SCHEMA),
            ],
        }
    }
}

declare! {
    /// What the fingerprint covers besides method, path and content-type.
    #[derive(Clone, Debug, PartialEq)]
    pub struct FingerprintPolicy {
        /// raw: its bytes; json: its canonical form; none: nothing, and content-type counts without
        /// parameters. Default: raw; none where key.from is set.
        ///
        /// `None`: not settled yet.
        body: Option<BodyMode> = None, words![
            "raw" = BodyMode::Raw,
            "json" = BodyMode::Json,
            "none" = BodyMode::None,
        ], {
            usual: "`raw`; `none` with `key.from`",
            docs: "what of the body must be equal. `json`: its meaning, with numbers as written; a body \
                   that is neither empty nor JSON without duplicate members gets 400, and so does a compressed \
                   one. `none`: nothing (multipart, whose boundary changes); not together with `derive`",
        }
        /// Which members of a JSON body count.
        json: JsonPolicy = JsonPolicy::built_in(), Group, {}
        /// Which parameters of the query count.
        query: QueryPolicy = QueryPolicy::built_in(), Group, {}
        /// Request headers that count. Replaces the default list.
        ///
        /// In lower case, sorted, no duplicates. `None`: the default list, which keeps the scheme that it
        /// had when it was longer ([`crate::fingerprint::scheme`]).
        headers: Vec<String>, HeaderNames(checks::fingerprint_header), {
            usual: "`content-encoding`, `content-range`",
            docs: "request headers that must be equal, besides content-type. `if-match` and the like are \
                   not among them: a client that resumes an answer sends them on the retry only",
            schema: r##"{"allOf": [
                {"$ref": "#/$defs/header"},
                {"not": {"$ref": "#/$defs/content_type"}}
            ]}"##,
            wrong: &[
                (r#"["content-type"]"#, "[0]: content-type always counts", SCHEMA),
                (r#"["a","Content-Type"]"#, "[1]: content-type always counts", PARSER),
            ],
        }
        /// Whether the host counts.
        host: bool = false, Flag, {
            docs: "whether the host must be equal; clients that fail over between host names need `false`",
        }
    }
}

impl FingerprintPolicy {
    /// What of the body counts.
    pub fn body(&self) -> BodyMode {
        self.body.unwrap_or(BodyMode::Raw)
    }

    /// The request headers that count, in lower case.
    pub fn counted_headers(&self) -> impl Iterator<Item = &str> {
        let (listed, usual) = match &self.headers {
            Some(listed) => (&listed[..], &[][..]),
            None => (&[][..], &FINGERPRINT_HEADERS[..]),
        };
        listed
            .iter()
            .map(String::as_str)
            .chain(usual.iter().copied())
    }
}

impl Default for FingerprintPolicy {
    fn default() -> FingerprintPolicy {
        FingerprintPolicy::built_in()
    }
}

declare! {
    /// How matched requests are protected.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Policy from Draft {
        /// observe: only count and log what would have been done.
        mode: Mode = Mode::Enforce, words![
            "enforce" = Mode::Enforce,
            "observe" = Mode::Observe,
        ], {
            section: EXECUTION,
            docs: "`observe` only counts and logs what would have been done. Start with it",
        }
        /// Separates key spaces. Requests with the same tenant, namespace and key share a record.
        namespace: String = String::new(), Text(checks::namespace), {
            section: WHO,
            docs: "separates key spaces within a tenant. Records belong to tenant + namespace + key: \
                   never to a rule, so rules can be renamed and reordered",
            schema: r#"{
                "type": "string",
                "maxLength": 255,
                "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
            }"#,
            right: &[r#""""#, r#""Zahlungen Süd""#],
            wrong: &[(r#""a\u0000""#, ": must be at most 255 bytes without", SCHEMA)],
        }
        /// Largest request body; above it 413.
        max_body_bytes: usize = 1 << 20, Integer { min: 1, max: MAX_BYTES }, {
            section: EXECUTION,
            docs: "larger requests get 413",
        }
        /// Largest response body that is stored; above it, retries learn that it is done, but not the
        /// answer.
        max_response_bytes: usize = 1 << 20, Integer { min: 1, max: MAX_RESPONSE_BYTES as u64 }, {
            section: EXECUTION,
            most: "15 MiB: what the service takes in one message",
            docs: "larger responses reach the client, but retries get 409 `not-replayable`",
        }
        /// detached: the client may leave; inline: a client that leaves cuts the execution off.
        /// Default: detached if the top-level field `detached` is there.
        execution: Execution, words![
            "inline" = Execution::Inline,
            "detached" = Execution::Detached,
        ], {
            section: EXECUTION,
            usual: "`detached` if the top-level field is there and `stream` is not, else `inline`",
            docs: "`detached`: the client may hang up, the upstream finishes, and the retry gets the \
                   answer. `inline`: responses stream; a client that leaves cuts the upstream off, and \
                   the outcome is unknown",
        }
        /// Answers stream. On Envoy such requests are executed inline.
        stream: bool = false, Flag, {
            section: EXECUTION,
            docs: "`true`: answers stream (server-sent events, gRPC-Web, Connect). [Where they do \
                   anyway](semantics.md#streams). On Envoy, whose detached answers arrive whole, it means \
                   `inline`, and not together with `detached`. It also admits streaming calls of Connect",
        }
        /// Timeout of a detached execution. Must be less than lease_ms - lease_margin_ms.
        execution_timeout_ms: u64 = 30_000, Integer { min: 1, max: MAX_TIMEOUT_MS }, {
            section: EXECUTION,
            docs: "limit of a detached execution; less than `lease_ms - lease_margin_ms`",
        }
        /// How long one execution may hold the key without renewal.
        lease_ms: u64 = 60_000, Integer { min: 1, max: MAX_LEASE_MS }, {
            section: EXECUTION,
            most: "a day",
            docs: "how long one execution holds its key without renewal. Longer than your route's timeout",
        }
        /// A grant older than lease_ms - lease_margin_ms is not forwarded.
        lease_margin_ms: u64 = 1_000, Integer { min: 1, max: MAX_LEASE_MS }, {
            section: EXECUTION,
            docs: "a grant older than `lease_ms - lease_margin_ms` is not forwarded any more",
        }
        /// How long results are kept.
        ttl_ms: u64 = 24 * 3600 * 1000, Integer { min: 1, max: MAX_TTL_MS }, {
            section: RESULTS,
            most: "ten years",
            usual: "a day",
            docs: "how long results are kept. **The promise ends with it**: a retry after that executes again",
        }
        /// How long unknown outcomes are kept; at least ttl_ms. Default: the larger of ttl_ms and 7
        /// days.
        unknown_ttl_ms: u64, Integer { min: 1, max: MAX_TTL_MS }, {
            section: RESULTS,
            most: "ten years",
            usual: "the larger of `ttl_ms` and 7 days",
            docs: "how long unknown outcomes are kept; at least `ttl_ms`",
        }
        /// How long a duplicate waits for the first answer.
        wait_ms: u64 = 0, Integer { min: 0, max: MAX_WAIT_MS }, {
            section: EXECUTION,
            docs: "how long a duplicate waits for the first answer before it gets 409",
        }
        /// What a retry of an unknown outcome gets: 409, or a new execution.
        on_unknown: OnUnknown = OnUnknown::Refuse, words![
            "refuse" = OnUnknown::Refuse,
            "retry" = OnUnknown::Retry,
        ], {
            section: RESULTS,
            docs: "a retry after an unknown outcome gets 409, or executes again. `retry` gives up \
                   \"at most once\"",
        }
        /// Without an answer from the service: 503, or forward without protection.
        on_service_failure: OnServiceFailure = OnServiceFailure::Refuse, words![
            "refuse" = OnServiceFailure::Refuse,
            "pass" = OnServiceFailure::Pass,
        ], {
            section: RESULTS,
            docs: "the service, or its store, is down: 503, or forward **unprotected**, marked and \
                   counted. [What counts as down](semantics.md#when-the-service-gives-no-answer)",
        }
        /// When the response cannot be stored: the client gets it, or 503.
        on_complete_failure: OnCompleteFailure = OnCompleteFailure::Deliver, words![
            "deliver" = OnCompleteFailure::Deliver,
            "withhold" = OnCompleteFailure::Withhold,
        ], {
            section: RESULTS,
            docs: "if the answer cannot be stored: the client gets it, and the filter goes on trying; or \
                   503 `outcome-unrecorded`",
        }
        /// Response headers that are stored and replayed besides the built-in list.
        ///
        /// In lower case, sorted, no duplicates.
        replay_headers: Vec<String> = Vec::new(), HeaderNames(checks::replayed_header), {
            section: RESULTS,
            docs: "response headers to keep besides the built-in list. Never `set-cookie`, `date`, \
                   credentials or connection headers",
            schema: r##"{"allOf": [
                {"$ref": "#/$defs/header"},
                {"not": {"$ref": "#/$defs/never_replayed"}},
                {"not": {"pattern": "^access-control-"}}
            ]}"##,
            wrong: &[
                (r#"["set-cookie"]"#, "[0]: this header must never be replayed", SCHEMA),
                (r#"["Date"]"#, "[0]: this header must never be replayed", PARSER),
                (r#"["access-control-allow-origin"]"#, "[0]: CORS headers are replayed without", SCHEMA),
            ],
        }
        /// stored: replays carry the CORS headers of the first answer, for an equal Origin; gateway: they
        /// are made outside the filter. An object also names the origins whose pages may read refusals.
        cors: Cors = Cors::BUILT_IN, Sharing, {
            section: RESULTS,
            values: "`\"stored\"`, `\"gateway\"`, object",
            docs: "what browsers may read of other origins. See below",
            schema: r##"{"oneOf": [
                {"$ref": "#/$defs/cors_replay"},
                {
                    "type": "object",
                    "additionalProperties": false,
                    "properties": {
                        "replay": {
                            "description": "stored: replays carry the access-control-* headers of the first answer, for an equal Origin; gateway: none.",
                            "$ref": "#/$defs/cors_replay"
                        },
                        "origins": {
                            "description": "Origins whose pages may read the filter's own refusals; * is every origin.",
                            "type": "array",
                            "uniqueItems": true,
                            "items": {
                                "type": "string",
                                "maxLength": 255,
                                "pattern": "^(\\*|[a-z0-9+.-]+://[a-z0-9._:\\[\\]-]+)$"
                            }
                        },
                        "credentials": {
                            "description": "They may read them where the page asked with credentials.",
                            "type": "boolean"
                        }
                    }
                }
            ]}"##,
            right: &[
                r#""stored""#,
                r#""gateway""#,
                r#"{"replay":"gateway","origins":["*"],"credentials":false}"#,
                r#"{"origins":["https://shop.example","http://localhost:3000","http://[::1]"]}"#,
                r#"{"origins":["capacitor://localhost"],"credentials":true}"#,
            ],
            wrong: &[
                (r#""*""#, ": must be one of \"stored\", \"gateway\"", SCHEMA),
                ("[]", ": must be \"stored\", \"gateway\" or an object", SCHEMA),
                (r#"{"origin":[]}"#, ".origin: unknown field; did you mean `origins`?", SCHEMA),
                (r#"{"replay":true}"#, ".replay: must be one of", SCHEMA),
                (r#"{"origins":"*"}"#, ".origins: must be an array", SCHEMA),
                (r#"{"origins":["null"]}"#, ".origins[0]: must be an origin", SCHEMA),
                (r#"{"origins":["https://shop.example/"]}"#, ".origins[0]: must be an origin", SCHEMA),
                (r#"{"origins":["https://Shop.example"]}"#, ".origins[0]: must be an origin", SCHEMA),
                (r#"{"origins":["https://*.example"]}"#, ".origins[0]: must be an origin", SCHEMA),
                (r#"{"origins":["https://a@b.example"]}"#, ".origins[0]: must be an origin", SCHEMA),
                (r#"{"origins":["shop.example"]}"#, ".origins[0]: must be an origin", SCHEMA),
                (r#"{"origins":["https://a\r\nx: y"]}"#, ".origins[0]: must be an origin", SCHEMA),
                (r#"{"origins":["http://a","http://a"]}"#, ".origins[1]: is in the list", SCHEMA),
                (r#"{"credentials":1}"#, ".credentials: must be true or false", SCHEMA),
                (r#"{"origins":["*"],"credentials":true}"#, ".credentials: must be false", PARSER),
            ],
        }
        /// What refusals carry besides their documents, by type, so that client libraries recognise them.
        problems: Problems = Problems::default(), Refusals, {
            section: RESULTS,
            values: "`\"default\"`, `\"stripe\"`, object",
            docs: "members and headers of refusals besides their own, for client libraries. See below",
            schema: r##"{"oneOf": [
                {"enum": ["default", "stripe"]},
                {
                    "type": "object",
                    "additionalProperties": false,
                    "patternProperties": {"@types": {
                        "type": "object",
                        "additionalProperties": false,
                        "properties": {
                            "members": {
                                "description": "Members of the document besides its own.",
                                "type": "object",
                                "maxProperties": 16,
                                "patternProperties": {
                                    "^(detail|instance|retryable|reuse_key|status|title|type)$": {"not": {}}
                                }
                            },
                            "headers": {
                                "description": "Headers besides its own.",
                                "type": "object",
                                "maxProperties": 16,
                                "additionalProperties": {
                                    "type": "string",
                                    "minLength": 1,
                                    "maxLength": 1024,
                                    "pattern": "^[!-~]([\\t -~]*[!-~])?$"
                                }
                            }
                        }
                    }}
                }
            ]}"##,
            right: &[
                r#""default""#,
                r#""stripe""#,
                r#"{"key-reused":{},"in-flight":{"members":{},"headers":{}}}"#,
                r#"{"key-reused":{"members":{"error":{"type":"idempotency_error","n":[1,null,true,"ä"]}},
                    "headers":{"X-Should-Retry":"false"}}}"#,
            ],
            wrong: &[
                (r#""Stripe""#, ": must be one of \"default\", \"stripe\"", SCHEMA),
                ("[]", ": must be \"default\", \"stripe\" or an object", SCHEMA),
                (r#"{"key-resued":{}}"#, ".key-resued: unknown field; did you mean `key-reused`?", SCHEMA),
                (r#"{"key-reused":1}"#, ".key-reused: must be an object", SCHEMA),
                (r#"{"key-reused":{"member":{}}}"#, ".key-reused.member: unknown field", SCHEMA),
                (r#"{"key-reused":{"members":1}}"#, ".key-reused.members: must be an object", SCHEMA),
                (r#"{"key-reused":{"members":{"type":"x"}}}"#, ".key-reused.members.type: every", SCHEMA),
                (r#"{"key-reused":{"members":{"":1}}}"#, ".key-reused.members.: must have a name", PARSER),
                (r#"{"key-reused":{"headers":{"x":1}}}"#, ".key-reused.headers.x: must be a string", SCHEMA),
                (r#"{"key-reused":{"headers":{"x":""}}}"#, ".key-reused.headers.x: must be 1 to", SCHEMA),
                (r#"{"key-reused":{"headers":{"x":"a "}}}"#, ".key-reused.headers.x: must be 1 to", SCHEMA),
                (r#"{"key-reused":{"headers":{"x":"a\r\nb: c"}}}"#, ".key-reused.headers.x: must be 1 to", SCHEMA),
                (r#"{"key-reused":{"headers":{"x":"ä"}}}"#, ".key-reused.headers.x: must be 1 to", SCHEMA),
                (r#"{"key-reused":{"headers":{"a b":"c"}}}"#, ".key-reused.headers.a b: must be the name", PARSER),
                (r#"{"key-reused":{"headers":{"TE":"c"}}}"#, ".key-reused.headers.TE: must not be a header of", PARSER),
                (r#"{"key-reused":{"headers":{"a":"b","A":"c"}}}"#, ".key-reused.headers.A: is there already", PARSER),
            ],
        }
        /// identity: protected requests ask the upstream for an uncompressed answer; keep: as the client
        /// sent it.
        identity_encoding as "accept_encoding": bool = true, words![
            "identity" = true,
            "keep" = false,
        ], {
            section: EXECUTION,
            docs: "`identity`: ask the upstream for an uncompressed answer, so that it can be replayed \
                   to every client. Compress on the client's side of the filter",
        }
        /// The Retry-After of refusals, in seconds.
        retry_after_s: u64 = 1, Integer { min: 1, max: 86_400 }, {
            section: EXECUTION,
            docs: "the `Retry-After` of refusals",
        }
        /// How keys are read.
        key: KeyPolicy = KeyPolicy::built_in(), KeyPlaces, {
            section: WHO,
        }
        /// What counts as the same payload, besides method, path, query and content-type.
        fingerprint: FingerprintPolicy = FingerprintPolicy::built_in(), Group, {
            section: WHO,
        }
        /// Where the tenant comes from. Required in each rule or in defaults.
        scope: Scope, TenantSource, {
            section: WHO,
            values: "`\"global\"`, `{\"header\": name}`, `{\"property\": [path…]}`, `{\"credentials\": \"static\"}`",
            usual: "**required**",
            docs: "where the tenant comes from; keys of different tenants never meet. See below",
            schema: r##"{"oneOf": [
                {"const": "global"},
                {
                    "type": "object",
                    "additionalProperties": false,
                    "minProperties": 1,
                    "maxProperties": 1,
                    "properties": {
                        "header": {
                            "description": "A header that authentication in front of the filter sets, and that a client cannot.",
                            "allOf": [
                                {"$ref": "#/$defs/header"},
                                {"not": {"$ref": "#/$defs/credentials"}}
                            ]
                        },
                        "property": {
                            "description": "Path of a property of the host.",
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "string",
                                "minLength": 1,
                                "maxLength": 255,
                                "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
                            }
                        },
                        "credentials": {
                            "description": "A hash of Authorization, for credentials that never change.",
                            "const": "static"
                        }
                    }
                }
            ]}"##,
            right: &[
                r#""global""#,
                r#"{"header":"X-Consumer-Id"}"#,
                r#"{"property":["metadata","filter_metadata","envoy.filters.http.jwt_authn","sub"]}"#,
                r#"{"credentials":"static"}"#,
            ],
            wrong: &[
                (r#""tenant""#, ": must be one of \"global\"", SCHEMA),
                ("1", ": must be \"global\" or an object", SCHEMA),
                ("{}", ": must have exactly one of header, property, credentials", SCHEMA),
                (r#"{"header":"a","credentials":"static"}"#, ": must have exactly one", SCHEMA),
                (r#"{"header":""}"#, ".header: must be the name of a header", SCHEMA),
                (r#"{"header":":path"}"#, ".header: must be the name of a header", SCHEMA),
                (r#"{"header":"authorization"}"#, ".header: credentials are not a tenant", SCHEMA),
                (r#"{"header":"Cookie"}"#, ".header: credentials are not a tenant", PARSER),
                (r#"{"property":"a.b"}"#, ".property: must be an array", SCHEMA),
                (r#"{"property":[]}"#, ".property: must not be empty", SCHEMA),
                (r#"{"property":[""]}"#, ".property[0]: must be 1 to 255 bytes", SCHEMA),
                (r#"{"credentials":"bearer"}"#, ".credentials: must be one of \"static\"", SCHEMA),
            ],
        }
        /// What answers mean for their key; the most specific name wins.
        outcomes: Outcomes = default_outcomes(), Meanings, {
            section: RESULTS,
            values: "`\"default\"`, `\"all\"`, object",
            docs: "what an upstream's answer means. See below",
            schema: r##"{"oneOf": [
                {"enum": ["default", "all"]},
                {
                    "type": "object",
                    "additionalProperties": false,
                    "patternProperties": {
                        "^[2-5]([0-9][0-9]|xx)([+]retry-after)?$": {"$ref": "#/$defs/outcome"}
                    }
                }
            ]}"##,
            right: &[
                r#""default""#,
                r#""all""#,
                r#"{"200":"failed","599":"unknown","2xx":"completed","503+retry-after":"unknown"}"#,
                r#"{"409+retry-after":"completed","4xx+retry-after":"failed"}"#,
            ],
            wrong: &[
                (r#""stripe""#, ": must be one of \"default\", \"all\"", SCHEMA),
                ("[]", ": must be \"default\", \"all\" or an object", SCHEMA),
                (r#"{"100":"failed"}"#, ".100: must be a status (\"200\" to \"599\")", SCHEMA),
                (r#"{"0200":"failed"}"#, ".0200: must be a status", SCHEMA),
                (r#"{"+20":"failed"}"#, ".+20: must be a status", SCHEMA),
                (r#"{"1xx+retry-after":"failed"}"#, ".1xx+retry-after: must be a status", SCHEMA),
                (r#"{"409 + retry-after":"failed"}"#, ".409 + retry-after: must be a status", SCHEMA),
                (r#"{"409+retry-after":1}"#, ".409+retry-after: must be one of", SCHEMA),
                (r#"{"500":"stored"}"#, ".500: must be one of \"completed\", \"failed\"", SCHEMA),
            ],
        }
    }
}
