use super::*;
use crate::config;
use crate::decide::{self, RequestHead, Verdict};
use crate::headers::Headers;
use crate::settings::{Capabilities, Settings};
use proptest::prelude::*;
use std::cell::Cell;

thread_local! {
    /// How often this thread has looked through the rules.
    pub(super) static SEARCHES: Cell<usize> = const { Cell::new(0) };
}

fn plan(rules: &str) -> Vec<Arc<Rule>> {
    let text = format!(
        r#"{{"service":{{"target":"s"}},"defaults":{{"scope":"global"}},"rules":[{rules}]}}"#
    );
    config::parse(&text).unwrap().policies.rules
}

/// A short form of the answer: `-`, the rule's index, `?` with the index, or `!` with the index.
fn short(found: RuleMatch<'_, '_>) -> String {
    match found {
        RuleMatch::None => "-".into(),
        RuleMatch::Rule(matched) => matched.index.to_string(),
        RuleMatch::Ambiguous(index) => format!("?{index}"),
        RuleMatch::Overridden(index) => format!("!{index}"),
        RuleMatch::Moved(index) => format!("@{index}"),
    }
}

fn seen(plan: &[Arc<Rule>], method: &str, host: &str, path: &str) -> String {
    short(find(
        plan,
        method.as_bytes(),
        Place::of_host(host.as_bytes()),
        path.as_bytes(),
    ))
}

#[test]
fn methods() {
    let plan = plan(
        r#"{"match":{"methods":["POST"],"path_prefix":"/a"}},
           {"match":{"path_prefix":"/b"}},
           {"match":{"methods":"*","path_prefix":"/c"}}"#,
    );
    for (method, a, b, c) in [
        ("POST", "0", "1", "2"),
        ("post", "0", "1", "2"),
        ("PATCH", "-", "1", "2"),
        ("PUT", "-", "-", "2"),
        ("DELETE", "-", "-", "2"),
        ("PURGE", "-", "-", "2"),
        ("GET", "-", "-", "-"),
        ("get", "-", "-", "-"),
        ("HEAD", "-", "-", "-"),
        ("OPTIONS", "-", "-", "-"),
        ("TRACE", "-", "-", "-"),
    ] {
        let got = ["/a", "/b", "/c"].map(|path| seen(&plan, method, "h", path));
        assert_eq!(got, [a, b, c], "{method}");
    }
}

#[test]
fn hosts() {
    let plan = plan(r#"{"match":{"hosts":["api.example.com","*.pay.example.com","[::1]"]}}"#);
    for (host, want) in [
        ("api.example.com", "0"),
        ("API.example.COM:8443", "0"),
        ("api.example.com.", "0"),
        ("api.example.com.:80", "0"),
        ("user@api.example.com", "0"),
        ("api.example.com@other", "0"),
        ("api.example.com:80@other:81", "0"),
        ("other@other", "-"),
        ("a.pay.example.com", "0"),
        ("a.b.pay.example.com", "0"),
        ("pay.example.com", "-"),
        (".pay.example.com", "-"),
        ("xpay.example.com", "-"),
        ("[::1]:8080", "0"),
        ("[::2]", "-"),
        ("example.com", "-"),
        ("", "-"),
    ] {
        assert_eq!(seen(&plan, "POST", host, "/x"), want, "{host}");
    }
}

#[test]
fn paths() {
    let plan = plan(
        r#"{"match":{"path":"/charges/preview"},"mode":"observe"},
           {"match":{"path_prefix":"/charges"}},
           {"match":{"path":"/v1/orders/"}}"#,
    );
    for (path, want) in [
        ("/charges", "1"),
        ("/charges/", "1"),
        ("/charges?x=/other", "1"),
        ("/charges/1/capture", "1"),
        ("/charges/preview", "0"),
        ("/charges/preview/", "0"),
        ("/charges/preview/x", "1"),
        ("/chargesx", "-"),
        ("/CHARGES", "-"),
        ("/", "-"),
        ("/v1/orders", "2"),
        ("/v1/orders/", "2"),
        ("/v1/orders/7", "-"),
        // normal forms
        ("//charges", "1"),
        ("/x/../charges", "1"),
        ("/%63harges", "1"),
        ("/charges/.", "1"),
        ("/charges/%7Ex", "1"),
        ("/charges//1", "1"),
        ("/charges/a%20b", "1"),
        ("/charges/50%2525off", "1"),
        ("/charges/1;v=2", "1"),
        // odd: what another reading would only observe hides nothing
        ("/charges/preview;x", "1"),
        ("/charges/x/../preview", "0"),
        ("/charges/preview/../x", "1"),
        ("/charges;x=1", "?1"),
        ("/;a/charges", "?1"),
        // protected by the rule that any reading meets
        ("/charges/..;/", "1"),
        ("/charges/../other", "?1"),
        ("/charges//..", "?1"),
        ("/x%252F..%252Fcharges", "?1"),
        ("//host/charges", "?1"),
        // ambiguous
        ("/charges%2Ffoo", "?1"),
        ("/charges/a%2Fb", "?1"),
        ("/x%2F..%2Fcharges", "?1"),
        ("/charges%00", "?1"),
        ("/charges%5Cx", "?1"),
        ("/charges\\x", "?1"),
        ("/charges#x", "?1"),
        ("/charges/%", "?1"),
        ("/charges/ü", "?1"),
        ("http://h/charges", "?1"),
        ("/charges.", "?1"),
        ("/charges%20", "?1"),
        ("/index.php/charges", "?1"),
        ("/%EF%BC%8Fcharges", "?1"),
        ("/%u0063harges", "?1"),
        ("/other%u0063", "?1"),
        // dots and scripts elsewhere
        ("/other./x", "-"),
        ("/index.php/other", "-"),
        // ambiguous, and nowhere near
        ("/other%2Fcharges", "-"),
        ("/other/%2F%5C%00", "-"),
        ("/other;x=1//y", "-"),
        ("/files/%25zz", "-"),
        ("", "-"),
        ("*", "-"),
    ] {
        assert_eq!(seen(&plan, "POST", "h", path), want, "{path}");
    }
    assert_eq!(seen(&plan, "GET", "h", "/charges%2F"), "-");
}

#[test]
fn a_catch_all_refuses_only_what_is_ambiguous() {
    let plan = plan(r#"{"match":{}}"#);
    for (path, want) in [
        ("/", "0"),
        ("/a;b/../c//d", "0"),
        ("//x", "0"),
        ("/a%2Fb", "?0"),
        ("", "?0"),
    ] {
        assert_eq!(seen(&plan, "POST", "h", path), want, "{path}");
    }
}

#[test]
fn a_match_brings_path_and_query() {
    let plan = plan(r#"{"match":{"path":"/charges"}}"#);
    let RuleMatch::Rule(matched) =
        find(&plan, b"POST", Place::default(), b"/x/..//charges?b=1&a=2")
    else {
        panic!("no match");
    };
    assert_eq!(
        (matched.path.as_ref(), matched.query),
        ("/charges", &b"b=1&a=2"[..])
    );
    assert_eq!(matched.rule, &plan[0]);
}

#[test]
fn reach() {
    let plan = plan(r#"{"match":{"path":"/charges","hosts":["api"]}}"#);
    for (host, path, want) in [
        ("api", "/charges", true),
        ("api:80", "/x%2F..%2Fcharges", true),
        ("api", "/other", false),
        ("other", "/charges", false),
    ] {
        assert_eq!(
            reaches(&plan, Place::of_host(host.as_bytes()), path.as_bytes(), &[]),
            want,
            "{host}{path}"
        );
    }
}

#[test]
fn method_overrides() {
    let plan = plan(
        r#"{"match":{"methods":["POST"],"path":"/charges"}},
           {"match":{"methods":["DELETE"],"path":"/charges"}}"#,
    );
    for (method, name, value, path, want) in [
        ("GET", "x-http-method-override", "POST", "/charges", "!0"),
        ("GET", "x-http-method-override", " post ", "/charges", "!0"),
        ("GET", "x-http-method", "DELETE", "/charges", "!1"),
        ("GET", "x-method-override", "GET, DELETE", "/charges", "!1"),
        ("GET", "X-HTTP-Method-Override", "POST", "/charges", "!0"),
        ("PUT", "x-http-method-override", "POST", "/charges", "!0"),
        ("GET", "x-http-method-override", "POST", "/charges%2F", "!0"),
        ("GET", "x-http-method-override", "POST", "/other", "-"),
        ("GET", "x-http-method-override", "PUT", "/charges", "-"),
        ("GET", "x-http-method-override", "", "/charges", "-"),
        ("GET", "x-other", "POST", "/charges", "-"),
        // a protected request stays protected by its own rule
        ("POST", "x-http-method-override", "GET", "/charges", "0"),
        ("POST", "x-http-method-override", "DELETE", "/charges", "0"),
    ] {
        let headers = [(
            Bytes::from_static(name.as_bytes()),
            Bytes::from_static(value.as_bytes()),
        )];
        let got = decide(
            &plan,
            method.as_bytes(),
            Place::default(),
            path.as_bytes(),
            &headers,
        );
        assert_eq!(short(got), want, "{method} {name}: {value} {path}");
    }
}

#[test]
fn moves_to_other_paths() {
    let plan = plan(
        r#"{"match":{"methods":["PATCH"],"path":"/charges"},"mode":"observe"},
           {"match":{"methods":["POST","PATCH"],"path":"/charges"}},
           {"match":{"methods":["POST"],"path":"/refunds"}}"#,
    );
    for (method, path, list, want) in [
        (
            "POST",
            "/other",
            &[("x-original-url", "/charges")][..],
            "@1",
        ),
        ("POST", "/other", &[("x-rewrite-url", "/charges?a")], "@1"),
        (
            "POST",
            "/other",
            &[("x_original_url", "/x/..%2fcharges")],
            "@1",
        ),
        (
            "POST",
            "/other",
            &[("x-original-url", "http://h/charges")],
            "@1",
        ),
        ("POST", "/charges", &[("x-original-url", "/refunds")], "@2"),
        // What a gateway in front tells.
        (
            "POST",
            "/charges",
            &[("x-original-url", "/charges?a=1")],
            "1",
        ),
        ("POST", "/other", &[("x-original-url", "/other")], "-"),
        // From one that is not protected to another.
        ("POST", "/charges", &[("x-original-url", "/other")], "1"),
        ("GET", "/other", &[("x-original-url", "/charges")], "-"),
        (
            "GET",
            "/other",
            &[("x-original-url", "/charges"), ("x-http-method", "post")],
            "@1",
        ),
        (
            "PATCH",
            "/other",
            &[("x-original-url", "/charges"), ("x-http-method", "post")],
            "@1",
        ),
        ("PATCH", "/other", &[("x-original-url", "/charges")], "@0"),
    ] {
        let headers: Vec<_> = list
            .iter()
            .map(|(name, value)| (Bytes::from_static(name.as_bytes()), (*value).into()))
            .collect();
        let (method, path) = (method.as_bytes(), path.as_bytes());
        let place = Place::default();
        let got = short(decide(&plan, method, place, path, &headers));
        assert_eq!(got, want, "{list:?}");
        if want != "-" {
            assert!(reaches(&plan, place, path, &headers), "{list:?}");
        }
    }
}

#[test]
fn what_refuses_is_not_hidden_by_what_observes() {
    let plan = plan(
        r#"{"match":{"path_prefix":"/a"},"mode":"observe"},
           {"match":{"methods":["PUT"],"path":"/a/b"}}"#,
    );
    let at = |path: &str| enforced(&plan, Place::default(), path.as_bytes());
    assert_eq!(at("/a/b"), Some(1));
    assert_eq!(at("/a/x/..%2Fb"), Some(1));
    assert_eq!(at("/a/c"), None);
    assert_eq!(at("/other"), None);
}

/// What a request costs: one look through the rules, none where its method is safe. A second one is
/// for what a header adds.
#[test]
fn rules_are_matched_once_for_each_request() {
    let text = r#"{"service":{"target":"s"},"defaults":{"scope":"global"},
        "rules":[{"match":{"path":"/a"}},{"match":{"path_prefix":"/charges"}}]}"#;
    let capabilities = Capabilities {
        removes_fields: true,
    };
    let settings = Settings::new(config::parse(text).unwrap().policies, capabilities);
    let settings = Arc::new(settings);
    let key = ("idempotency-key", "k");
    for (method, target, fields, protected, looks) in [
        ("POST", "/charges/1", &[key][..], true, 1),
        ("POST", "/x/../charges", &[key], true, 1),
        ("POST", "/other", &[key], false, 1),
        ("GET", "/charges", &[key], false, 0),
        ("DELETE", "/charges", &[key], false, 1),
        // A safe method is not looked for, the one that a header names is.
        ("GET", "/other", &[("x-http-method", "POST")], false, 1),
        (
            "POST",
            "/charges",
            &[key, ("x-rewrite-url", "/other")],
            true,
            2,
        ),
    ] {
        let fields = fields.iter().map(|(n, v)| ((*n).into(), (*v).into()));
        let head = RequestHead {
            method: method.into(),
            target: target.into(),
            headers: fields.collect::<Headers>(),
            bodiless: true,
            ..RequestHead::default()
        };
        let before = SEARCHES.get();
        let decision = decide::decide(&settings, head, &());
        assert_eq!(SEARCHES.get() - before, looks, "{method} {target}");
        let is_protected = matches!(decision.verdict, Verdict::Protect { .. });
        assert_eq!(is_protected, protected, "{method} {target}");
    }
}

proptest! {
    /// What is decided to be more than nothing is within reach of the rules. (So nothing has to be
    /// asked before [`decide`] is.)
    #[test]
    fn nothing_is_decided_beyond_reach(
        method in prop_oneof![Just("POST"), Just("PUT"), Just("GET")],
        host in prop_oneof![Just("api"), Just("other")],
        path in "/(charges|refunds|x)(/|%2[fF]|;|//|\\.\\.|%2e|\\\\|\\.)?(charges|x)?",
        moved in "(/(charges|refunds)|/x)?(%2f|;)?",
        override_ in prop_oneof![Just(""), Just("PUT"), Just("GET, POST")],
    ) {
        let plan = plan(
            r#"{"match":{"methods":["PUT"],"path_prefix":"/charges/x"},"mode":"observe"},
               {"match":{"path_prefix":"/charges","hosts":["api"]}},
               {"match":{"methods":"*","path":"/refunds"}}"#,
        );
        let headers: Vec<(Bytes, Bytes)> = [("x-original-url", &*moved), ("x-http-method", override_)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.into(), Bytes::copy_from_slice(value.as_bytes())))
            .collect();
        let place = Place::of_host(host.as_bytes());
        let found = decide(&plan, method.as_bytes(), place, path.as_bytes(), &headers);
        if found != RuleMatch::None {
            prop_assert!(reaches(&plan, place, path.as_bytes(), &headers), "{found:?}");
        }
    }
}
