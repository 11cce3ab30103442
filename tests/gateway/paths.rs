//! Every way of writing a protected path is protected or refused; none is a way around the filter.

use idempotency_e2e::{
    assert_problem, assert_replay, executions, fresh_key, recorded, replayed, Answer, Request,
    Shared, Wire,
};
use idempotency_stack::{Cluster, Host, Route, Stack};
use serde_json::json;

use crate::support::{problem, rule};

/// One rule below `/charges`, one for exactly `/refunds`, one for every method of `/accounts`.
static STACK: Shared = Shared::new(|| {
    Stack::builder().rules(json!([
        rule("detached", json!({})),
        rule(
            "inline",
            json!({
                "name": "refunds",
                "match": { "methods": ["POST", "PATCH"], "path": "/refunds" },
            })
        ),
        rule(
            "detached",
            json!({
                "name": "accounts",
                "match": { "methods": "*", "path_prefix": "/accounts" },
            })
        ),
    ]))
});

/// Sends a request with a target that an HTTP library would not send, on a socket of its own.
fn raw(stack: &Stack, method: &str, target: &str, key: &str, headers: &str) -> Option<Answer> {
    let mut wire = Wire::connect(stack.address());
    wire.send(format!(
        "{method} {target} HTTP/1.1\r\nhost: localhost\r\nidempotency-key: {key}\r\n{headers}\
         content-length: 2\r\n\r\n{{}}"
    ));
    let answer = wire.try_answer(method == "HEAD").ok();
    if answer
        .as_ref()
        .is_some_and(|answer| answer.status == 201 && !replayed(answer))
    {
        recorded(stack, key);
    }
    answer
}

/// What the gateway makes of a target.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It ran once and was replayed.
    Protected,
    /// It never ran.
    Refused,
    /// It ran each time.
    Open,
}

/// Sends the same request three times.
fn fate(stack: &Stack, method: &str, target: &str, headers: &str) -> Fate {
    let key = fresh_key("path");
    let answers: Vec<_> = (0..3)
        .map(|_| raw(stack, method, target, &key, headers))
        .collect();
    let ran = executions(stack, &key);
    let show = || format!("{method} {target} ran {ran} times: {answers:?}");
    let statuses: Vec<_> = answers.iter().flatten().map(|a| a.status).collect();
    match ran {
        0 => {
            let refused = statuses.iter().all(|status| (400..500).contains(status));
            assert!(refused, "{}", show());
            Fate::Refused
        }
        1 => {
            let [Some(first), Some(second), Some(third)] = answers.as_slice() else {
                panic!("{}", show());
            };
            assert_replay(first, second);
            assert_replay(first, third);
            Fate::Protected
        }
        3 => Fate::Open,
        _ => panic!("{}", show()),
    }
}

#[test]
fn every_writing_of_a_protected_path_is_protected_or_refused() {
    let stack = STACK.get();
    let targets = [
        "/charges",
        "/charges/",
        "/charges//",
        "//charges",
        "///charges",
        "/./charges",
        "/charges/.",
        "/x/../charges",
        "/x/y/../../charges",
        "/../charges",
        "/charges/x/..",
        "/charges/../charges",
        "/%63harges",
        "/%63%68%61%72%67%65%73",
        "/charge%73",
        "/x/%2e%2e/charges",
        "/x/%2E./charges",
        "/%2e/charges",
        "/charges/%2e",
        "/charges%2Ffoo",
        "/charges%2ffoo",
        "/%2Fcharges",
        "/x%2F..%2Fcharges",
        "/x/..%2Fcharges",
        "/charges%5Cfoo",
        "/x%5C..%5Ccharges",
        "/charges\\foo",
        "/x\\..\\charges",
        "\\charges",
        "/charges/..;/",
        "/charges/..;/charges",
        "/x/..;/charges",
        "/x/..;a=b/charges",
        "/charges;x=1",
        "/charges;x=1/y",
        "/;/charges",
        "/charges%00",
        "/charges%00.png",
        "/charges%3Fa",
        "/charges%23a",
        "/charges%3Ba",
        "/%2563harges",
        "/x/%252e%252e/charges",
        "/x/%c0%ae%c0%ae/charges",
        "/%c0%afcharges",
        "/charges%0a",
        "/charges%0d%0ax-a:b",
        "/charges%09",
        "/charges?a=1",
        "/charges?",
        "/charges?a=/../../x",
        "/charges??a",
        "/charges?a#b",
        "/charges#a",
        "/charges/x#/../../y",
        "http://localhost/charges",
        "http://localhost//charges",
        "http://localhost/x/../charges",
        "HTTP://LOCALHOST/charges",
        "https://elsewhere/charges",
        "//localhost/charges",
    ];
    let open = |target: &&&str| fate(&stack, "POST", target, "") == Fate::Open;
    let open: Vec<_> = targets.iter().filter(open).collect();
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn plain_writings_are_protected_and_ambiguous_ones_refused() {
    let stack = STACK.get();
    for (target, expected) in [
        ("/charges", Fate::Protected),
        ("/charges/", Fate::Protected),
        ("//charges", Fate::Protected),
        ("/x/../charges", Fate::Protected),
        ("/%63harges", Fate::Protected),
        ("/charges?a=1&b=2", Fate::Protected),
        ("http://localhost/charges", Fate::Protected),
        ("/charges/..;/", Fate::Protected),
        ("/charges%2Ffoo", Fate::Refused),
        ("/charges%5Cfoo", Fate::Refused),
        ("/charges%00", Fate::Refused),
        ("/x/..;/charges", Fate::Refused),
        ("/refunds", Fate::Protected),
        ("/refunds/", Fate::Protected),
        ("//refunds", Fate::Protected),
        ("/refunds%2F", Fate::Refused),
        // Other resources.
        ("/chargesx", Fate::Open),
        ("/xcharges", Fate::Open),
        ("/x/charges", Fate::Open),
        ("/refunds/1", Fate::Open),
        ("/x?/../charges", Fate::Open),
        ("/x%2Fy", Fate::Open),
        // Nobody knows what such a path is, so that it may be any.
        ("/charges%", Fate::Refused),
        ("/x%zz", Fate::Refused),
        // Paths have case (RFC 3986 section 6.2.2.1).
        ("/CHARGES", Fate::Open),
    ] {
        assert_eq!(fate(&stack, "POST", target, ""), expected, "{target}");
    }
}

#[test]
fn refusals_say_why() {
    let stack = STACK.get();
    for target in ["/charges%2Ffoo", "/x%5C..%5Ccharges", "/charges%00"] {
        let answer = raw(&stack, "POST", target, &fresh_key("why"), "").expect("an answer");
        let by_nginx = by_host!(
            "nginx itself refuses bad escapes",
            envoy: false,
            kong: target.ends_with("%00"),
        );
        if by_nginx {
            assert_eq!(answer.status, 400, "{answer:?}");
            continue;
        }
        assert_problem(&answer, 400, "unsupported-request");
        assert!(answer.text().contains("path"), "{answer:?}");
    }
}

#[test]
fn writings_of_one_path_are_one_operation() {
    let stack = STACK.get();
    let key = fresh_key("one");
    let first = raw(&stack, "POST", "/charges?a=1&b=2", &key, "").expect("an answer");
    assert_eq!(first.status, 201, "{first:?}");
    for target in [
        "//charges?a=1&b=2",
        "/x/../charges?a=1&b=2",
        "/%63harges?a=1&b=2",
        "/./charges?a=1&b=2",
        "http://localhost/charges?a=1&b=2",
        "/charges?a=%31&b=2",
    ] {
        let again = raw(&stack, "POST", target, &key, "").expect("an answer");
        assert_replay(&first, &again);
    }
    for target in ["/charges/x?a=1&b=2", "/charges?a=1&b=3", "/charges?a=1"] {
        let other = raw(&stack, "POST", target, &key, "").expect("an answer");
        assert_problem(&other, 422, "key-reused");
    }
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn the_upstream_gets_the_path_as_the_client_wrote_it() {
    let stack = STACK.get();
    for (target, kong) in [
        ("//charges", "/charges"),
        ("/x/../charges?echo=1", "/charges"),
        ("/%63harges", "/charges"),
        ("/charges/..;/?b=%20", "/charges/..;/"),
    ] {
        let key = fresh_key("asis");
        let answer = raw(&stack, "POST", target, &key, "").expect("an answer");
        assert_eq!(answer.status, 201, "{answer:?}");
        let log = stack.upstream.log();
        let entry = log.iter().find(|entry| entry.key == key);
        let entry = entry.expect("the execution");
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = match Host::chosen() {
            // A complete Kong sends on what its router matched: the normal form of the path.
            Host::Kong | Host::KongLua => kong,
            _ => path,
        };
        assert_eq!((entry.path.as_str(), entry.query.as_str()), (path, query));
    }
}

#[test]
fn methods_have_no_case_for_rules_and_overrides_are_no_way_around() {
    let stack = STACK.get();
    for method in ["POST", "post", "Post", "pOsT"] {
        let fate = fate(&stack, method, "/charges", "");
        assert_ne!(fate, Fate::Open, "{method}");
    }
    for (method, header) in [
        ("GET", "x-http-method-override: POST"),
        ("HEAD", "x-http-method-override: POST"),
        ("PUT", "x-http-method-override: POST"),
        ("PUT", "X-HTTP-Method: post"),
        ("DELETE", "x-method-override: PoSt"),
        ("PUT", "x-http-method-override: PUT, POST"),
        (
            "PUT",
            "x-http-method-override: PUT\r\nx-http-method-override: POST",
        ),
    ] {
        let headers = format!("{header}\r\n");
        let key = fresh_key("override");
        let answer = raw(&stack, method, "/charges", &key, &headers).expect("an answer");
        assert_eq!(answer.status, 400, "{method} {header}: {answer:?}");
        if method != "HEAD" {
            assert_eq!(problem(&answer), "unsupported-request", "{method} {header}");
        }
        assert_eq!(executions(&stack, &key), 0, "{method} {header}");
    }
    // What is protected anyway stays protected, whatever it is overridden to.
    for header in [
        "x-http-method-override: GET",
        "x-http-method-override: POST",
    ] {
        let fate = fate(&stack, "POST", "/charges", &format!("{header}\r\n"));
        assert_ne!(fate, Fate::Open, "{header}");
    }
    assert_eq!(
        fate(&stack, "PUT", "/charges", ""),
        Fate::Open,
        "no rule names PUT"
    );
    assert_eq!(fate(&stack, "PATCH", "/refunds", ""), Fate::Protected);
}

#[test]
fn a_rule_for_every_method_covers_unknown_ones_and_no_safe_one() {
    let stack = STACK.get();
    for method in ["POST", "PUT", "PATCH", "DELETE", "PURGE", "MKCOL"] {
        let fate = fate(&stack, method, "/accounts/1", "");
        assert_ne!(fate, Fate::Open, "{method}");
    }
    for method in ["GET", "OPTIONS", "HEAD"] {
        let key = fresh_key("safe");
        for _ in 0..2 {
            let request = Request::new(method, "/accounts/1").key(&key);
            let mut wire = Wire::connect(stack.address());
            wire.send(request.bytes());
            let answer = wire.try_answer(method == "HEAD").expect("an answer");
            assert_eq!(answer.status, 201, "{method}: {answer:?}");
            assert!(!replayed(&answer));
        }
        assert_eq!(executions(&stack, &key), 2, "{method} is not protected");
    }
    for (method, header) in [
        ("GET", "x-http-method-override: DELETE\r\n"),
        ("OPTIONS", "x-http-method-override: PURGE\r\n"),
    ] {
        let fate = fate(&stack, method, "/accounts/1", header);
        assert_eq!(fate, Fate::Refused, "{method} {header}");
    }
}

#[test]
fn no_header_exempts_a_protected_request() {
    let stack = STACK.get();
    for headers in [
        "connection: upgrade\r\nupgrade: websocket\r\n",
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n",
        "content-type: application/grpc\r\n",
        "content-type: application/grpc-web+proto\r\n",
        "content-type:  Application/GRPC\r\n",
        "x-envoy-original-path: /other\r\n",
        "x-original-url: /other\r\n",
        "x-rewrite-url: /other\r\n",
        "x-forwarded-host: other\r\n",
        "connection: idempotency-key\r\n",
        "expect: 100-continue\r\n",
    ] {
        let fate = fate_of_headers(&stack, headers);
        assert_ne!(fate, Fate::Open, "{headers}");
    }
}

/// As [`fate`], where the answer may come after an interim one.
fn fate_of_headers(stack: &Stack, headers: &str) -> Fate {
    let key = fresh_key("header");
    for _ in 0..3 {
        let _ = raw(stack, "POST", "/charges", &key, headers);
    }
    match executions(stack, &key) + executions(stack, "") {
        0 => Fate::Refused,
        1 => Fate::Protected,
        _ => Fate::Open,
    }
}

#[test]
fn a_route_on_which_envoy_disables_the_filter_is_open_and_no_way_to_another() {
    only_on!(Envoy, "a setting of Envoy");
    let stack = Stack::builder()
        .rules(json!([rule("detached", json!({}))]))
        .envoy(|envoy| {
            // What docs and examples ask for where the filter is disabled by path.
            envoy.normalize_path = true;
            let disabled = Route {
                without_filter: true,
                ..Route::new("/open", Cluster::Upstream)
            };
            envoy.routes.insert(0, disabled);
        })
        .start();
    assert_eq!(fate(&stack, "POST", "/open", ""), Fate::Open);
    assert_eq!(fate(&stack, "POST", "/charges", ""), Fate::Protected);
    for target in ["/open/../charges", "/open/%2e%2e/charges", "//charges"] {
        let fate = fate(&stack, "POST", target, "");
        assert_eq!(fate, Fate::Protected, "{target}");
    }
    for target in ["/open%2F..%2Fcharges", "/open/..%5Ccharges"] {
        assert_eq!(fate(&stack, "POST", target, ""), Fate::Refused, "{target}");
    }
}

#[test]
fn with_envoys_own_normalisation_in_front_nothing_changes() {
    only_on!(Envoy, "a setting of Envoy");
    let stack = Stack::builder()
        .rules(json!([rule("detached", json!({}))]))
        .envoy(|envoy| envoy.normalize_path = true)
        .start();
    for target in [
        "//charges",
        "/x/../charges",
        "/%63harges",
        "/charges%2Ffoo",
        "/charges/..;/",
        "/x\\..\\charges",
        "/x%5C..%5Ccharges",
    ] {
        let open = fate(&stack, "POST", target, "") == Fate::Open;
        // Envoy makes `/` of `/charges/..;/`, and that is what the upstream gets too.
        let seen = stack.upstream.log().pop().map(|entry| entry.path);
        assert!(!open || seen.as_deref() == Some("/"), "{target}: {seen:?}");
    }
}
