//! What pages of other origins can read: the headers. The same with a real browser is in `tests/clients`.

use idempotency_e2e::{
    assert_problem, assert_replay_with, eventually, executions, fresh_key, inline_rule, record,
    replayed, rule, side_by_side, with_rules, Answer, Request, Shared,
};
use idempotency_stack::Route;
use serde_json::json;

use crate::support::problem;

const SHOP: &str = "https://shop.example";
const OTHER: &str = "https://other.example";

const ALLOW: &str = "access-control-allow-origin";
const CREDENTIALS: &str = "access-control-allow-credentials";
const EXPOSE: &str = "access-control-expose-headers";

static STACK: Shared = Shared::new(|| {
    let shop = json!({ "cors": { "origins": [SHOP], "credentials": true }, "max_body_bytes": 100 });
    let all = json!({ "match": { "path_prefix": "/all", "methods": "*" }, "wait_ms": 0 });
    with_rules(&[
        rule("/charges", json!({})),
        inline_rule("/inline", json!({})),
        rule("/shop", shop.clone()),
        inline_rule("/inline-shop", shop),
        rule("/anyone", json!({ "cors": { "origins": ["*"] } })),
        rule("/outside", json!({ "cors": "gateway" })),
        rule("/all", all),
    ])
});

/// What of an answer belongs to CORS.
fn cors(answer: &Answer) -> Vec<String> {
    let of_cors = |name: &str| name.starts_with("access-control-");
    let headers = answer.headers.iter().filter(|(name, _)| of_cors(name));
    let mut shown: Vec<_> = headers
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)))
        .collect();
    shown.sort();
    shown
}

/// Which headers pages may read, in lower case.
fn exposed(answer: &Answer) -> Vec<String> {
    let lines = answer.all(EXPOSE).join(",").to_ascii_lowercase();
    let names = lines.split(',').map(|name| name.trim().to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

fn assert_ours_exposed(answer: &Answer) {
    for name in ["idempotency-replayed", "idempotency-expires", "retry-after"] {
        let exposed = exposed(answer);
        assert!(exposed.iter().any(|known| known == name), "{answer:?}");
    }
}

#[test]
fn replays_carry_the_cors_headers_of_the_first_answer_for_an_equal_origin() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        let key = fresh_key("cors");
        let query = format!("header={ALLOW}:{SHOP}&header={CREDENTIALS}:true&header={EXPOSE}:x-total&header=vary:Origin");
        let request = Request::post(&format!("{path}?{query}")).key(&key);
        let from = |origin: &str| request.clone().header("origin", origin).send(&stack);
        let first = from(SHOP);
        assert_eq!(first.all(ALLOW), [SHOP]);
        let same = from(SHOP);
        assert!(replayed(&same) && same.body == first.body, "{same:?}");
        assert_eq!(same.all(ALLOW), [SHOP]);
        assert_eq!(same.all(CREDENTIALS), ["true"]);
        assert_eq!(same.all("vary"), ["Origin"]);
        assert_ours_exposed(&same);
        assert!(exposed(&same).contains(&"x-total".to_owned()), "{same:?}");
        for other in [from(OTHER), from("null"), request.send(&stack)] {
            assert!(replayed(&other) && other.body == first.body, "{other:?}");
            assert_eq!(cors(&other), [""; 0], "{other:?}");
            assert_eq!(other.all("vary"), ["Origin"], "{other:?}");
        }
        assert_eq!(executions(&stack, &key), 1, "{path}");
    }
}

#[test]
fn an_answer_that_everyone_may_read_is_replayed_as_one() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        let key = fresh_key("open");
        let request = Request::post(&format!("{path}?header={ALLOW}:*")).key(&key);
        let first = request.send(&stack);
        for origin in [SHOP, OTHER, "null"] {
            let replay = request.clone().header("origin", origin).send(&stack);
            assert!(replayed(&replay) && replay.body == first.body);
            assert_eq!(replay.all(ALLOW), ["*"], "{origin}");
            assert_ours_exposed(&replay);
        }
        assert_replay_with(
            &first,
            &request.send(&stack),
            "idempotency-replayed",
            &[ALLOW],
        );
        assert_eq!(executions(&stack, &key), 1, "{path}");
    }
}

#[test]
fn where_cors_is_made_outside_the_upstreams_headers_are_not_replayed() {
    let stack = STACK.get();
    let key = fresh_key("outside");
    let request = Request::post(&format!("/outside?header={ALLOW}:{SHOP}"))
        .key(&key)
        .header("origin", SHOP);
    assert_eq!(request.send(&stack).all(ALLOW), [SHOP]);
    let replay = request.send(&stack);
    assert!(
        replayed(&replay) && replay.all(ALLOW).is_empty(),
        "{replay:?}"
    );
    // What is outside adds its own to these.
    assert_ours_exposed(&replay);
    assert_eq!(executions(&stack, &key), 1);
}

/// Refusals from the head, from the body, from the record, and of the request's own execution.
#[test]
fn refusals_can_be_read_where_the_rule_names_the_origin() {
    let stack = STACK.get();
    for path in ["/shop", "/inline-shop"] {
        let new = |query: &str| {
            Request::post(&format!("{path}?{query}"))
                .key(&fresh_key("readable"))
                .body("{}")
        };
        let done = new("");
        assert_eq!(done.send(&stack).status, 201);
        let unknown = new("status=500");
        assert_eq!(unknown.send(&stack).status, 500);
        let refusals = [
            (Request::post(path).body("{}"), "missing-key"),
            (Request::post(path).key("a b").body("{}"), "invalid-key"),
            (new("").body("x".repeat(101)), "body-too-large"),
            (
                new("").target(&format!("{path}/a%2fb")),
                "unsupported-request",
            ),
            (done.body("[]"), "key-reused"),
            (unknown, "outcome-unknown"),
        ];
        for (request, name) in refusals {
            let from = |origin: &str| request.clone().header("origin", origin).send(&stack);
            let readable = from(SHOP);
            assert_eq!(problem(&readable), name, "{path} {readable:?}");
            assert_eq!(readable.all(ALLOW), [SHOP], "{path} {name}");
            assert_eq!(readable.all(CREDENTIALS), ["true"], "{path} {name}");
            assert_eq!(readable.all("vary"), ["Origin"], "{path} {name}");
            assert_ours_exposed(&readable);
            for other in [from(OTHER), request.send(&stack)] {
                assert_eq!(problem(&other), name, "{path} {other:?}");
                assert_eq!(cors(&other), [""; 0], "{path} {name}");
                assert_eq!(other.all("vary"), ["Origin"], "{path} {name}");
            }
        }
    }
    let missing = Request::post("/anyone")
        .header("origin", OTHER)
        .send(&stack);
    assert_problem(&missing, 400, "missing-key");
    assert_eq!(missing.all(ALLOW), ["*"]);
    assert_eq!(missing.header("vary"), None);
    let missing = Request::post("/charges")
        .header("origin", SHOP)
        .send(&stack);
    assert_problem(&missing, 400, "missing-key");
    assert_eq!(cors(&missing), [""; 0], "no rule names it");
}

#[test]
fn in_flight_can_be_read_with_the_time_to_come_again() {
    let stack = STACK.get();
    side_by_side(["/shop", "/inline-shop"], |path| {
        let key = fresh_key("busy-page");
        let request = Request::post(&format!("{path}?delay_ms=1500"))
            .key(&key)
            .header("origin", SHOP);
        let mut wire = request.start(&stack);
        eventually("it executes", || executions(&stack, &key) == 1);
        let busy = request.send(&stack);
        assert_problem(&busy, 409, "in-flight");
        assert_eq!(busy.header("retry-after").as_deref(), Some("1"));
        assert_eq!(busy.all(ALLOW), [SHOP]);
        assert_ours_exposed(&busy);
        assert_eq!(wire.answer().status, 201);
        assert_eq!(executions(&stack, &key), 1);
    });
}

/// A preflight has no key, and names the header that it asks for.
#[test]
fn preflights_are_never_protected() {
    let stack = STACK.get();
    for path in ["/charges", "/inline", "/shop", "/all"] {
        let query =
            format!("header={ALLOW}:{SHOP}&header=access-control-allow-headers:idempotency-key");
        let preflight = Request::new("OPTIONS", &format!("{path}?status=200&{query}"))
            .header("origin", SHOP)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "idempotency-key");
        // No browser sends a key with it; it would change nothing.
        let key = fresh_key("preflight");
        for request in [
            preflight.clone(),
            preflight.clone().key(&key),
            preflight.key(&key),
        ] {
            let answer = request.send(&stack);
            assert_eq!(answer.status, 200, "{path} {answer:?}");
            assert_eq!(answer.all(ALLOW), [SHOP], "{path}");
            assert!(!replayed(&answer), "{path}");
        }
        assert_eq!(executions(&stack, &key), 2, "{path}");
        assert_eq!(record(&stack, &key), None, "{path}");
    }
}

#[test]
fn a_gateways_own_cors_headers_are_on_every_answer() {
    only_on!(
        Envoy,
        "the gateway's own CORS is Envoy's filter; Kong's plugin sees answers before the filter does"
    );
    let outside = |path: &str| Route {
        cors_origin: Some(SHOP.to_owned()),
        ..Route::new(path, idempotency_stack::Cluster::Upstream)
    };
    let routes = vec![outside("/charges"), outside("/inline")];
    let rules = [
        rule("/charges", json!({})),
        inline_rule("/inline", json!({})),
    ];
    let stack = with_rules(&rules)
        .gateway(move |gateway| gateway.routes = routes)
        .start();
    for path in ["/charges", "/inline"] {
        let key = fresh_key("outside");
        let request = Request::post(path).key(&key).header("origin", SHOP);
        let first = request.send(&stack);
        assert_eq!(first.all(ALLOW), [SHOP]);
        let replay = request.send(&stack);
        assert!(replayed(&replay), "{replay:?}");
        let reused = request.clone().body("another").send(&stack);
        assert_problem(&reused, 422, "key-reused");
        for answer in [&first, &replay, &reused] {
            assert_eq!(answer.all(ALLOW), [SHOP], "{answer:?}");
            assert_ours_exposed(answer);
        }
        let other = Request::post(path)
            .key(&key)
            .header("origin", OTHER)
            .send(&stack);
        assert!(replayed(&other) && other.all(ALLOW).is_empty(), "{other:?}");
        assert_eq!(executions(&stack, &key), 1, "{path}");
    }
    let preflight = Request::new("OPTIONS", "/charges")
        .header("origin", SHOP)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "idempotency-key");
    assert_eq!(preflight.send(&stack).all(ALLOW), [SHOP]);
    assert_eq!(executions(&stack, ""), 0, "the gateway answers it");
}
