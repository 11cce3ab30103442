//! The first answer, and the same bytes again.

use idempotency_e2e::{
    assert_replay, assert_replay_with, eventually, executions, fresh_key, inline_rule, recorded,
    rule, with_config, with_rules, Answer, Connection, Http, Request, Shared, Wire,
};
use idempotency_stack::Host;
use serde_json::json;

static STACK: Shared = Shared::new(|| {
    with_rules(&[
        rule("/charges", json!({ "ttl_ms": 3_600_000 })),
        rule("/more", json!({ "replay_headers": ["x-cost"] })),
        inline_rule("/inline", json!({ "ttl_ms": 3_600_000 })),
    ])
});

/// What the upstream is asked for, and the length of the body that comes of it, if it is known.
const ANSWERS: [(&str, Option<usize>); 19] = [
    ("", None),
    ("body=x", Some(1)),
    ("bytes=1", Some(1)),
    ("bytes=256", Some(256)),
    ("bytes=65536", Some(65_536)),
    ("bytes=65537", Some(65_537)),
    ("bytes=1048576", Some(1 << 20)),
    ("chunked=1&bytes=300000", Some(300_000)),
    ("chunked=1&bytes=1048576", Some(1 << 20)),
    ("chunk_delay_ms=20&bytes=4", Some(4)),
    ("status=200&content_length=0", Some(0)),
    ("content_length=0&header=content-type:text/html", Some(0)),
    ("no_content=1", Some(0)),
    ("status=304", Some(0)),
    ("status=302&header=location:/elsewhere", None),
    ("status=404", None),
    ("status=422", None),
    (
        "header=link:%3Ca%3E&header=link:%3Cb%3E&header=vary:a&header=vary:b",
        None,
    ),
    ("set_cookie=1&header=etag:%22v1%22&header=x-other:1", None),
];

fn check_replays(path: &str, http: Http) {
    let stack = STACK.get();
    let retry = match http {
        Http::One => Http::Two,
        Http::Two => Http::One,
    };
    for (query, length) in ANSWERS {
        let key = fresh_key("same-bytes");
        let request = Request::post(&format!("{path}?{query}"))
            .key(&key)
            .body("{\"amount\":1}");
        let first = Connection::new(http, stack.address()).send(&request);
        assert!(
            length.is_none_or(|length| first.body.len() == length),
            "{query}: {first:?}"
        );
        assert!(
            length.is_some() || !first.body.is_empty(),
            "{query}: {first:?}"
        );
        for http in [http, retry] {
            let replay = Connection::new(http, stack.address()).send(&request);
            assert_replay(&first, &replay);
            assert_eq!(replay.header("set-cookie"), None, "{query}");
        }
        assert_eq!(executions(&stack, &key), 1, "{query}");
    }
}

#[test]
fn every_answer_is_replayed_byte_for_byte_detached() {
    check_replays("/charges", Http::One);
}

#[test]
fn every_answer_is_replayed_byte_for_byte_detached_over_http2() {
    check_replays("/charges", Http::Two);
}

#[test]
fn every_answer_is_replayed_byte_for_byte_inline() {
    check_replays("/inline", Http::One);
}

#[test]
fn every_answer_is_replayed_byte_for_byte_inline_over_http2() {
    check_replays("/inline", Http::Two);
}

/// Asserts that two executions of one request answered alike, but for the time and the charge's id.
/// Whether the gateway itself adds this header to whatever an upstream answers. Kong names itself and its
/// latencies; on a complete Kong, `via` is its own.
fn is_of_the_gateway(name: &str) -> bool {
    match Host::chosen() {
        Host::Envoy | Host::Native => name.starts_with("x-envoy-"),
        Host::Kong | Host::KongLua => name == "via" || name.starts_with("x-kong-"),
        Host::KongHost | Host::Nginx | Host::Layer => false,
    }
}

fn assert_alike(direct: &Answer, first: &Answer, why: &str) {
    let of_one_hop = [
        "date",
        "server",
        "connection",
        "transfer-encoding",
        "content-length",
    ];
    let of_one_execution = ["location", "idempotency-expires"];
    let comparable = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        if matches!(Host::chosen(), Host::Kong | Host::KongLua) {
            // Kong has nginx say which character set a text is in, where its upstream does not.
            for (name, value) in &mut headers {
                if name == "content-type" {
                    *value = value
                        .strip_suffix(b"; charset=UTF-8")
                        .unwrap_or(value)
                        .to_vec();
                }
            }
        }
        headers.retain(|(name, _)| {
            let name = name.as_str();
            !of_one_hop.contains(&name)
                && !of_one_execution.contains(&name)
                && !is_of_the_gateway(name)
        });
        headers.sort_by(|a, b| a.0.cmp(&b.0));
        headers
    };
    assert_eq!(direct.status, first.status, "{why}");
    assert_eq!(comparable(direct), comparable(first), "{why}");
    assert_eq!(direct.body, first.body, "{why}");
    // HTTP/2 needs no length of an empty body.
    if !first.body.is_empty() {
        if let Some(length) = first.header("content-length") {
            assert_eq!(length, first.body.len().to_string(), "{why}");
        }
    }
}

#[test]
fn the_first_answer_is_what_the_upstream_sent() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        for query in [
            "body=hello",
            "body=hello&chunked=1&header=x-a:1&header=x-a:2&set_cookie=1",
            "status=200&content_length=0",
            "no_content=1&header=x-a:%ff%80",
            "status=302&body=elsewhere&retry_after=3",
            "status=404&body=no&header=cache-control:no-store",
            "status=500&body=broken",
        ] {
            let request = Request::post(&format!("{path}?{query}")).body("{}");
            let direct = Connection::http1(stack.upstream.address()).send(&request);
            for http in Http::BOTH {
                let key = fresh_key("first");
                let keyed = request.clone().key(&key);
                let first = Connection::new(http, stack.address()).send(&keyed);
                assert_alike(&direct, &first, &format!("{path}?{query} {http:?}"));
                assert_eq!(executions(&stack, &key), 1);
            }
        }
    }
}

#[test]
fn a_replay_keeps_listed_headers_in_order_and_no_others() {
    let stack = STACK.get();
    let key = fresh_key("listed");
    let query = "set_cookie=1&header=x-cost:1&header=x-cost:2&header=x-cost:1&header=x-other:1\
                 &header=link:%3Ca%3E&header=link:%3Cb%3E&header=date:never\
                 &header=connection:x-hop&header=x-hop:1";
    let request = Request::post(&format!("/more?{query}")).key(&key);
    let first = request.send(&stack);
    assert_eq!(
        first.all("set-cookie").len(),
        2,
        "the first client gets its cookies"
    );
    assert_eq!(first.header("x-other").as_deref(), Some("1"));
    let replay = request.send(&stack);
    assert_replay_with(&first, &replay, "idempotency-replayed", &["x-cost"]);
    assert_eq!(replay.all("x-cost"), ["1", "2", "1"]);
    assert_eq!(replay.all("link"), ["<a>", "<b>"]);
    assert_eq!(replay.header("x-other"), None);
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn one_connection_carries_all_sorts_of_requests() {
    let stack = STACK.get();
    for http in Http::BOTH {
        let connection = Connection::new(http, stack.address());
        for path in ["/charges", "/inline"] {
            let (a, b) = (fresh_key("keep-alive"), fresh_key("keep-alive"));
            let small = Request::post(path).key(&a).body("{}");
            let large = Request::post(&format!("{path}?bytes=1048576"))
                .key(&b)
                .body(vec![7; 100_000]);
            let empty = Request::post(&format!("{path}?no_content=1")).key(&format!("{b}-0"));
            let first = connection.send(&small);
            let first_large = connection.send(&large);
            let first_empty = connection.send(&empty);
            assert_replay(&first, &connection.send(&small));
            assert_eq!(connection.send(&small.clone().body("[]")).status, 422);
            assert_replay(&first_large, &connection.send(&large));
            assert_replay(&first_empty, &connection.send(&empty));
            assert_eq!(connection.send(&Request::get("/healthz")).text(), "ok\n");
            assert_replay(&first, &connection.send(&small));
            assert_eq!(executions(&stack, &a), 1);
            assert_eq!(executions(&stack, &b), 1);
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        let key = fresh_key("pipelined");
        let request = Request::post(&format!("{path}?bytes=70000"))
            .key(&key)
            .body("{}");
        let empty = Request::post(&format!("{path}?no_content=1")).key(&format!("{key}-0"));
        let mut wire = Wire::connect(stack.address());
        let firsts = [&request, &empty];
        let others = [&request, &empty, &request];
        wire.send(firsts.map(Request::bytes).concat());
        let at_once = by_host!(
            "on Kong the record follows the answer: a duplicate right behind it is in flight",
            envoy: true,
            kong: false,
        );
        if at_once {
            wire.send(others.map(Request::bytes).concat());
        }
        let [first, first_empty] = firsts.map(|_| wire.answer());
        if !at_once {
            recorded(&stack, &key);
            recorded(&stack, &format!("{key}-0"));
            wire.send(others.map(Request::bytes).concat());
        }
        let [again, again_empty, last] = others.map(|_| wire.answer());
        assert_replay(&first, &again);
        assert_replay(&first_empty, &again_empty);
        assert_replay(&first, &last);
        assert_eq!(executions(&stack, &key), 1);
        assert_eq!(executions(&stack, &format!("{key}-0")), 1);
    }
}

#[test]
fn a_replay_tells_its_age_and_how_long_the_record_is_kept() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        let key = fresh_key("age");
        let request = Request::post(path).key(&key);
        let before = now();
        let first = request.send(&stack);
        let told = by_host!(
            "on Kong an answer leaves before its record: only replays tell when it expires",
            envoy: first.clone(),
            kong: request.send(&stack),
        );
        let expires: u64 = told
            .header("idempotency-expires")
            .and_then(|value| value.strip_prefix('@')?.parse().ok())
            .unwrap_or_default();
        assert!(
            (before + 3600..=now() + 3600).contains(&expires),
            "{first:?}"
        );
        assert_eq!(request.send(&stack).header("age").as_deref(), Some("0"));
        eventually("the record is a second old", || {
            let replay = request.send(&stack);
            assert_replay(&first, &replay);
            replay.header("age").as_deref() == Some("1")
        });
        assert_eq!(executions(&stack, &key), 1);
    }
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[test]
fn the_marker_has_the_name_that_the_configuration_gives() {
    let rules = [
        rule("/charges", json!({})),
        inline_rule("/inline", json!({})),
    ];
    let name = json!({ "replay_header": "X-Idempotency-Replayed" });
    let stack = with_config(&rules, name).start();
    for path in ["/charges", "/inline"] {
        let key = fresh_key("marker");
        let request = Request::post(path).key(&key);
        let first = request.send(&stack);
        let replay = request.send(&stack);
        assert_replay_with(&first, &replay, "x-idempotency-replayed", &[]);
        assert_eq!(replay.header("idempotency-replayed"), None);
        assert_eq!(executions(&stack, &key), 1);
    }
}

#[test]
fn a_record_does_not_care_how_it_was_executed() {
    // The two rules share keys; a key's record can be met through the other one, as another
    // operation: never as its replay.
    let stack = STACK.get();
    let key = fresh_key("rules");
    assert_eq!(Request::post("/charges").key(&key).send(&stack).status, 201);
    assert_eq!(Request::post("/inline").key(&key).send(&stack).status, 422);
    assert_eq!(executions(&stack, &key), 1);
}
