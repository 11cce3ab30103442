//! What identifies a request: the key, wherever it is, and the parts of query and body that count.
//!
//! Each first request is repeated as it was, before others are taken for it: in Kong the record follows the
//! answer, and only what was sent before is known to be on its way there (`tests/src/gap.rs`).

use idempotency_e2e::{
    assert_problem, assert_replay, executions, fresh_key, inline_rule, replayed, rule, with_rules,
    Connection, Http, Request, Shared,
};
use idempotency_stack::Stack;
use serde_json::{json, Value};

/// Each rule twice: `/x` and `/inline/x`.
static STACK: Shared = Shared::new(|| {
    let hook = |when_missing: &str, body: Value| {
        json!({
            "key": { "from": "/id", "when_missing": when_missing },
            "fingerprint": body,
            "max_body_bytes": 1000,
        })
    };
    let json_with = |members: Value| json!({ "fingerprint": { "body": "json", "json": members } });
    let mut members = json_with(json!({ "only": ["/id", "/data"], "ignore": ["/data/at"] }));
    members["key"] = json!({ "when_missing": "derive" });
    let rules = [
        (
            "/signed",
            json!({ "fingerprint": { "query": { "ignore": ["timestamp", "signature"] } } }),
        ),
        (
            "/without",
            json_with(json!({ "ignore": ["/at", "/items/0/at"] })),
        ),
        ("/members", members),
        ("/hooks", hook("refuse", json!({}))),
        ("/open-hooks", hook("pass", json!({}))),
        ("/derived-hooks", hook("derive", json!({ "body": "json" }))),
        ("/strict-hooks", hook("refuse", json!({ "body": "raw" }))),
        (
            "/many",
            json!({ "key": { "headers": ["X-Request-Token", "Idempotency-Key"] } }),
        ),
        ("/json", json!({ "fingerprint": { "body": "json" } })),
        (
            "/loose",
            json!({ "key": { "placeholders": "allow" }, "namespace": "loose" }),
        ),
        ("/streams", json!({ "stream": true })),
        ("/plain", json!({})),
    ];
    let mut all: Vec<Value> = Vec::new();
    for (path, fields) in rules {
        all.push(inline_rule(&format!("/inline{path}"), fields.clone()));
        all.push(rule(path, fields));
    }
    with_rules(&all)
});

/// Both paths of a rule.
fn both(path: &str) -> [String; 2] {
    [path.to_owned(), format!("/inline{path}")]
}

fn total(stack: &Stack, path: &str) -> usize {
    let log = stack.upstream.log();
    log.iter().filter(|e| e.path == path).count()
}

fn json(target: &str, body: &str) -> Request {
    Request::post(target)
        .header("content-type", "application/json")
        .body(body)
}

/// APIs that are signed in the query change time and signature with each attempt.
#[test]
fn parameters_of_the_query_can_be_left_out() {
    let stack = STACK.get();
    for path in both("/signed") {
        let key = fresh_key("signed");
        let post = |query: &str| {
            let target = format!("{path}?{query}");
            Request::post(&target).key(&key).body("{}").send(&stack)
        };
        let first = post("a=1&timestamp=1&signature=x");
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &post("timestamp=2&a=1&sig%6eature=y"));
        assert_replay(&first, &post("a=1"));
        assert_problem(&post("a=2&timestamp=1&signature=x"), 422, "key-reused");
        assert_problem(&post("a=1&Timestamp=1"), 422, "key-reused");
        assert_eq!(executions(&stack, &key), 1);
    }
}

#[test]
fn members_of_the_body_can_be_left_out() {
    let stack = STACK.get();
    for path in both("/without") {
        let key = fresh_key("without");
        let post = |body: &str| json(&path, body).key(&key).send(&stack);
        let first = post(r#"{"amount":5,"at":1,"items":[{"sku":"a","at":1},{"at":1}]}"#);
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(
            &first,
            &post(r#"{ "items": [{"at":{"new":2},"sku":"a"},{"at":1}], "amount": 5 }"#),
        );
        for other in [
            r#"{"amount":6,"at":1,"items":[{"sku":"a","at":1},{"at":1}]}"#,
            r#"{"amount":5,"at":1,"items":[{"sku":"a","at":1},{"at":2}]}"#,
            r#"{"amount":5,"items":[{"at":1}]}"#,
            "",
        ] {
            assert_problem(&post(other), 422, "key-reused");
        }
        // What does not count is read all the same.
        for refused in [r#"{"at":1,"at":2}"#, r#"{"at":"#] {
            assert_problem(&post(refused), 400, "unsupported-request");
        }
        assert_eq!(executions(&stack, &key), 1);
    }
}

/// Some members make the key, too; without any of them there is nothing to make it of.
#[test]
fn only_some_members_of_the_body_may_count() {
    let stack = STACK.get();
    for path in both("/members") {
        let id = fresh_key("members");
        let post = |rest: &str| {
            let body = format!("{{\"id\":\"{id}\",{rest}}}");
            json(&path, &body).send(&stack)
        };
        let before = total(&stack, &path);
        let first = post(r#""data":{"amount":5,"at":1},"sent":1"#);
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &post(r#""data":{"amount":5,"at":1},"sent":1"#));
        assert_replay(&first, &post(r#""sent":2,"data":{"at":2,"amount":5}"#));
        let other = post(r#""data":{"amount":6}"#);
        assert!(other.status == 201 && !replayed(&other), "{other:?}");
        for body in [r#"{"sent":1}"#, "[]", ""] {
            let answer = json(&path, body).send(&stack);
            assert_problem(&answer, 400, "unsupported-request");
        }
        assert_eq!(total(&stack, &path), before + 2);
        // With a key of the client's, the key says which operation it is.
        let key = fresh_key("members");
        let answer = json(&path, r#"{"sent":1}"#).key(&key).send(&stack);
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_replay(
            &answer,
            &json(&path, r#"{"sent":2}"#).key(&key).send(&stack),
        );
    }
}

/// A sender of webhooks knows no keys, but each event has an id; the rest may differ from one try to the
/// next.
#[test]
fn the_key_may_be_a_member_of_the_body() {
    let stack = STACK.get();
    for path in both("/hooks") {
        for http in Http::BOTH {
            let client = Connection::new(http, stack.address());
            let id = fresh_key("evt");
            let event = |at: u8| {
                let body = format!("{{\"id\":\"{id}\",\"createdAt\":{at}}}");
                json(&format!("{path}?echo=1"), &body)
            };
            let first = client.send(&event(0));
            assert_eq!(first.status, 201, "{first:?}");
            // The upstream gets it as any other key.
            let quoted = format!("\"{id}\"");
            assert_eq!(first.echoed("idempotency-key"), Some(quoted.clone()));
            assert!(first.echoed("idempotency-fence").is_some());
            assert_replay(&first, &client.send(&event(0)));
            assert_replay(&first, &client.send(&event(5)));
            // A header is not looked at.
            assert_replay(&first, &client.send(&event(6).key("other")));
            assert_eq!(executions(&stack, &quoted), 1, "{path} {http:?}");
        }
        // Beyond what a double can tell apart.
        let number = 9_007_199_254_740_993 + path.len();
        let first = json(&path, &format!("{{\"id\":{number}}}")).send(&stack);
        assert_eq!(first.status, 201, "{first:?}");
        let again = json(&path, &format!("{{\"id\":{number}}}")).send(&stack);
        assert_replay(&first, &again);
        let text = json(&path, &format!("{{\"id\":\"{number}\"}}"));
        assert_replay(&first, &text.send(&stack));
    }
}

#[test]
fn a_body_without_its_key_is_refused() {
    let stack = STACK.get();
    let long = format!("{{\"id\":\"{}\"}}", "k".repeat(256));
    let large = format!("{{\"id\":\"evt\",\"text\":\"{}\"}}", "x".repeat(1000));
    // Other tests send to the same rule at the same time: this one counts on a path of its own.
    for path in both("/hooks/without-key") {
        for (body, status, problem) in [
            (r#"{"ID":"evt"}"#, 400, "missing-key"),
            (r#"{"data":{"id":"evt"}}"#, 400, "missing-key"),
            ("[]", 400, "missing-key"),
            (r#"{"id":null}"#, 400, "invalid-key"),
            (r#"{"id":""}"#, 400, "invalid-key"),
            (r#"{"id":1.5}"#, 400, "invalid-key"),
            (r#"{"id":["evt"]}"#, 400, "invalid-key"),
            (r#"{"id":"undefined"}"#, 400, "invalid-key"),
            (r#"{"id":"schlüssel"}"#, 400, "invalid-key"),
            (&long, 400, "invalid-key"),
            (r#"{"id":"a","id":"b"}"#, 400, "unsupported-request"),
            ("id=evt", 400, "unsupported-request"),
            (&large, 413, "body-too-large"),
        ] {
            let answer = json(&path, body).key("other").send(&stack);
            assert_problem(&answer, status, problem);
        }
        // Without any body, too. (Kong must be told that there is none.)
        let answer = Request::post(&path)
            .header("content-length", "0")
            .send(&stack);
        assert_problem(&answer, 400, "missing-key");
        assert_eq!(total(&stack, &path), 0);
    }
}

#[test]
fn a_body_without_its_key_may_pass_or_make_its_own() {
    let stack = STACK.get();
    for path in both("/open-hooks") {
        let key = fresh_key("open");
        // To the upstream it is any request; here the header shows which.
        let request = json(&format!("{path}?echo=1"), r#"{"a":1}"#).key(&key);
        for _ in 0..2 {
            let answer = request.send(&stack);
            assert!(answer.status == 201 && !replayed(&answer), "{answer:?}");
            assert_eq!(answer.echoed("idempotency-fence"), None, "not protected");
        }
        assert_eq!(executions(&stack, &key), 2);
        let id = fresh_key("open");
        let event = json(&path, &format!("{{\"id\":\"{id}\"}}"));
        let first = event.send(&stack);
        assert_replay(&first, &event.send(&stack));
        assert_eq!(executions(&stack, &format!("\"{id}\"")), 1);
        // It cannot be told from one whose key cannot be read.
        let answer = json(&path, r#"{"id":{}}"#).send(&stack);
        assert_problem(&answer, 400, "invalid-key");
    }
    for path in both("/derived-hooks") {
        let body = format!("{{\"text\":\"{}\"}}", fresh_key("derived"));
        let request = json(&format!("{path}?echo=1"), &body);
        let first = request.send(&stack);
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &request.send(&stack));
        let derived = first.echoed("idempotency-key").unwrap_or_default();
        assert_eq!(executions(&stack, &derived), 1);
    }
}

/// What a rule says of the body holds with a key out of it, too.
#[test]
fn the_rest_of_a_body_may_count_beside_its_key() {
    let stack = STACK.get();
    for path in both("/strict-hooks") {
        let id = fresh_key("strict");
        let post = |at: u8| json(&path, &format!("{{\"id\":\"{id}\",\"at\":{at}}}")).send(&stack);
        let first = post(0);
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &post(0));
        assert_problem(&post(1), 422, "key-reused");
        assert_eq!(executions(&stack, &format!("\"{id}\"")), 1);
    }
}

#[test]
fn clients_of_several_kinds_may_have_their_own_key_header() {
    let stack = STACK.get();
    for path in both("/many") {
        let key = fresh_key("many");
        let target = format!("{path}?echo=1");
        let with = |names: &[&str]| {
            let mut request = Request::post(&target).body("{}");
            for name in names {
                request = request.header(name, &key);
            }
            request
        };
        let before = total(&stack, &path);
        let first = with(&["idempotency-key"]).send(&stack);
        assert_eq!(first.echoed("idempotency-key"), Some(key.clone()));
        assert_eq!(first.echoed("x-request-token"), None, "as it was sent");
        assert_replay(&first, &with(&["idempotency-key"]).send(&stack));
        assert_replay(&first, &with(&["x-request-token"]).send(&stack));
        let both = with(&["idempotency-key", "x-request-token"]);
        assert_replay(&first, &both.send(&stack));
        let quoted = with(&["x-request-token"]).key(&format!("\"{key}\""));
        assert_replay(&first, &quoted.send(&stack));
        for other in ["other", "", "a b"] {
            let answer = with(&["x-request-token"]).key(other).send(&stack);
            assert_problem(&answer, 400, "invalid-key");
        }
        assert_problem(&with(&[]).send(&stack), 400, "missing-key");
        assert_eq!(total(&stack, &path), before + 1);
    }
}

/// JavaScript, Python, Go and others send these for a variable that is not set: every caller would share
/// one key.
#[test]
fn placeholders_are_no_keys() {
    let stack = STACK.get();
    for path in both("/plain") {
        let path = format!("{path}/placeholders");
        for key in [
            "undefined",
            "null",
            "None",
            "NaN",
            "nil",
            "<nil>",
            "{}",
            "\"[object Object]\"",
            "\"undefined\"",
        ] {
            let answer = Request::post(&path).key(key).body("x").send(&stack);
            assert_problem(&answer, 400, "invalid-key");
        }
        assert_eq!(total(&stack, &path), 0);
    }
    let zero = Request::post("/plain").key("0").body("x").send(&stack);
    assert_eq!(zero.status, 201, "{zero:?}");
    let request = Request::post("/loose").key("undefined");
    let first = request.send(&stack);
    assert_replay(&first, &request.send(&stack));
}

/// Half an emoji of a string that was cut, and a byte order mark.
#[test]
fn json_is_taken_as_writers_emit_it() {
    let stack = STACK.get();
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    for path in both("/json") {
        let post = |key: &str, body: &str| json(&path, body).key(key).send(&stack);
        for (body, same, other) in [
            (
                r#"{"memo":"pay \ud83d"}"#,
                r#"{ "memo":"pay \uD83D"}"#,
                r#"{"memo":"pay \ufffd"}"#,
            ),
            ("\u{feff}{\"a\":1}", "{\"a\": 1}", "{\"a\":\"\u{feff}1\"}"),
            (
                r#"["\ud83d\ude00"]"#,
                "[\"\u{1f600}\"]",
                r#"["\ud83d", "\ude00"]"#,
            ),
        ] {
            let key = fresh_key("form");
            let first = post(&key, body);
            assert_eq!(first.status, 201, "{body}: {first:?}");
            assert_replay(&first, &post(&key, same));
            assert_problem(&post(&key, other), 422, "key-reused");
            assert_eq!(executions(&stack, &key), 1, "{body}");
        }
        let key = fresh_key("form");
        // The limit is told in docs/semantics.md.
        let refused = post(&key, &deep(129));
        assert_problem(&refused, 400, "unsupported-request");
        assert!(refused.text().contains("nested"), "{refused:?}");
        assert_problem(&post(&key, r#"{"\ud83d":1}"#), 400, "unsupported-request");
        assert_eq!(post(&key, &deep(128)).status, 201);
        assert_eq!(executions(&stack, &key), 1);
    }
}

/// `{"a":1}`, compressed.
const GZIP: &[u8] = &[
    0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3, 0xab, 0x56, 0x4a, 0x54, 0xb2, 0x32, 0xac, 5, 0, 0xaf, 0xac,
    0x1b, 0x56, 7, 0, 0, 0,
];

#[test]
fn a_compressed_body_is_not_read_as_json() {
    let stack = STACK.get();
    for path in ["/json/compressed", "/hooks/compressed"] {
        for path in both(path) {
            let key = fresh_key("gzip");
            let zipped = json(&path, "").key(&key).header("content-encoding", "gzip");
            let answer = zipped.body(GZIP).send(&stack);
            assert_problem(&answer, 400, "unsupported-request");
            assert!(answer.text().contains("decompressor"), "{answer:?}");
            assert_eq!(total(&stack, &path), 0);
            let plain = json(&path, &format!("{{\"id\":\"{key}\"}}"));
            let plain = plain.header("content-encoding", "identity");
            assert_eq!(plain.key(&key).send(&stack).status, 201);
        }
    }
    // Where bytes are compared, it is a body like any other.
    let key = fresh_key("gzip");
    let zipped = json("/plain", "")
        .key(&key)
        .header("content-encoding", "gzip");
    let zipped = zipped.body(GZIP);
    let first = zipped.send(&stack);
    assert_replay(&first, &zipped.send(&stack));
    assert_eq!(executions(&stack, &key), 1);
}

/// What the refusal of a compressed body names.
#[test]
fn a_decompressor_in_front_makes_compressed_bodies_readable() {
    only_on!(Envoy, "a filter of Envoy");
    let decompressor = json!({
        "name": "decompressor",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.decompressor.v3.Decompressor",
            "decompressor_library": {
                "name": "gzip",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.compression.gzip.decompressor.v3.Gzip",
                },
            },
        },
    });
    let rule = rule("/json", json!({ "fingerprint": { "body": "json" } }));
    let stack = with_rules(&[rule])
        .envoy(move |envoy| envoy.filters_before = vec![decompressor.clone()])
        .start();
    let key = fresh_key("gzip");
    let zipped = json("/json", "")
        .key(&key)
        .header("content-encoding", "gzip");
    let first = zipped.body(GZIP).send(&stack);
    assert_eq!(first.status, 201, "{first:?}");
    assert_replay(
        &first,
        &json("/json", r#"{ "a":1 }"#).key(&key).send(&stack),
    );
    assert_eq!(executions(&stack, &key), 1);
}

/// gRPC-Web and Connect are HTTP as any other; what streams in Connect says so.
#[test]
fn grpc_web_and_connect_are_ordinary_unless_they_stream() {
    let stack = STACK.get();
    let call = |path: &str, kind: &str, key: &str| {
        Request::post(path)
            .key(key)
            .header("content-type", kind)
            .body(b"\0\0\0\0\x02\x08\x01".as_slice())
    };
    for path in both("/plain") {
        for kind in [
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc-web-text",
            "application/proto",
        ] {
            let key = fresh_key("web");
            let target = format!("{path}?header=grpc-status:0&header=grpc-message:ok");
            let request = call(&target, kind, &key);
            let first = request.send(&stack);
            assert_eq!(first.status, 201, "{kind}: {first:?}");
            let replay = request.send(&stack);
            assert_replay(&first, &replay);
            assert_eq!(replay.header("grpc-status").as_deref(), Some("0"), "{kind}");
            assert_eq!(executions(&stack, &key), 1, "{kind}");
        }
        let key = fresh_key("connect");
        let answer = call(&path, "application/connect+proto", &key).send(&stack);
        assert_problem(&answer, 400, "unsupported-request");
        assert_eq!(executions(&stack, &key), 0);
    }
    let key = fresh_key("connect");
    let request = call("/streams", "application/connect+json", &key);
    let first = request.send(&stack);
    assert_eq!(first.status, 201, "{first:?}");
    assert_replay(&first, &request.send(&stack));
    assert_eq!(executions(&stack, &key), 1);
}

/// Records of one setting are not measured by another: that would be a wrong 422, or a wrong replay.
#[test]
fn what_another_setting_compared_is_not_comparable() {
    let setting =
        |path: &str, fingerprint: Value| rule(path, json!({ "fingerprint": fingerprint }));
    let stack = with_rules(&[
        setting("/a", json!({ "body": "json" })),
        setting(
            "/b",
            json!({ "body": "json", "json": { "ignore": ["/at"] } }),
        ),
        setting("/c", json!({ "body": "json", "json": { "only": ["/at"] } })),
        setting(
            "/d",
            json!({ "body": "json", "query": { "ignore": ["at"] } }),
        ),
    ])
    .start();
    let paths = ["/a", "/b", "/c", "/d"];
    for path in paths {
        let key = fresh_key("scheme");
        let post = |path: &str| json(path, r#"{"at":1}"#).key(&key).send(&stack);
        assert_eq!(post(path).status, 201);
        for other in paths.into_iter().filter(|other| *other != path) {
            assert_problem(&post(other), 409, "not-comparable");
        }
        assert_eq!(executions(&stack, &key), 1);
    }
}
