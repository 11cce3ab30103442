//! A configuration that is wrong: in the filter, in Envoy around it. It never means "no filter".

use std::process::Command;

use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, record_state, Request,
};
use idempotency_stack::{
    filter_config, tools, Gateway, GatewayConfig, ServiceAddress, Stack, Tokens,
};
use serde_json::{json, Value};

use crate::support::{assert_alive, charge, in_background, rule, with_rule, EXECUTIONS};

fn config_with(rules: Value) -> Value {
    filter_config(&Tokens::default(), rules)
}

/// A change of a working configuration, and the path that must be named.
fn mistakes() -> Vec<(&'static str, Value)> {
    let base = |more: Value| config_with(json!([rule("detached", more)]));
    let mut unknown_top = base(json!({}));
    unknown_top["sevice"] = json!({});
    let mut no_rules = base(json!({}));
    no_rules["rules"] = json!([]);
    let mut no_scope = base(json!({}));
    if let Some(rule) = no_scope["rules"][0].as_object_mut() {
        rule.remove("scope");
    }
    let mut no_cluster = base(json!({}));
    if let Some(config) = no_cluster.as_object_mut() {
        config.remove("detached");
    }
    let mut second = config_with(json!([
        rule("detached", json!({})),
        rule(
            "detached",
            json!({
                "name": "second",
                "match": { "methods": ["POST"], "path_prefix": "/second" },
            })
        ),
    ]));
    second["rules"][1]["ttl_ms"] = json!("a day");
    vec![
        ("rules[0].lease_ms", base(json!({ "lease_ms": -1 }))),
        (
            "rules[0].on_unknown",
            base(json!({ "on_unknown": "maybe" })),
        ),
        ("rules[0].wait", base(json!({ "wait": 5 }))),
        (
            "rules[0].key.syntax",
            base(json!({ "key": { "syntax": "loose" } })),
        ),
        (
            "rules[0].match.methods[0]",
            base(json!({ "match": { "methods": ["GET"] } })),
        ),
        ("rules[0].scope", no_scope),
        ("rules[0].execution", no_cluster),
        ("rules[1].ttl_ms", second),
        ("rules", no_rules),
        ("sevice", unknown_top),
        (
            "rules[0].execution_timeout_ms",
            base(json!({ "lease_ms": 20_000 })),
        ),
    ]
}

/// What `idempotencyd check-config` says: its exit code and its lines.
fn check_config(text: &str) -> (Option<i32>, Vec<String>) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("filter.json");
    std::fs::write(&path, text).expect("a file");
    let program = tools::idempotencyd().expect("the service is built");
    let output = Command::new(program)
        .arg("check-config")
        .arg(&path)
        .output()
        .expect("it runs");
    let file = path.display().to_string();
    let lines = String::from_utf8_lossy(&output.stderr)
        .lines()
        // Hints, which the filter does not give.
        .filter(|line| !line.starts_with(' '))
        .map(|line| without_place(line, &file).to_owned())
        .collect();
    (output.status.code(), lines)
}

/// A line of `check-config` without the file, and without the line and the column where it has them.
fn without_place<'a>(line: &'a str, file: &str) -> &'a str {
    let Some(rest) = line.strip_prefix(file).and_then(|l| l.strip_prefix(':')) else {
        return line;
    };
    let mut parts = rest.splitn(3, ':');
    let is_number = |part: Option<&str>| part.is_some_and(|p| p.parse::<u32>().is_ok());
    match (
        is_number(parts.next()),
        is_number(parts.next()),
        parts.next(),
    ) {
        (true, true, Some(text)) => text.trim_start(),
        _ => rest.trim_start(),
    }
}

/// Asserts that only what cannot change anything passes.
fn assert_refused(stack: &Stack) {
    for method in ["POST", "PUT", "PATCH", "DELETE", "PURGE"] {
        for target in ["/charges", "/other"] {
            let key = fresh_key("refused");
            let answer = Request::new(method, target).key(&key).body("x").send(stack);
            assert_problem(&answer, 503, "misconfigured");
            assert_eq!(executions(stack, &key), 0, "{method} {target}");
        }
    }
    for method in ["GET", "OPTIONS"] {
        let key = fresh_key("safe");
        let answer = Request::new(method, "/charges?body=hi")
            .key(&key)
            .send(stack);
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (201, "hi"),
            "{method}"
        );
    }
}

#[test]
fn mistakes_are_named_by_path_in_the_log_and_by_check_config_alike() {
    for (path, config) in mistakes() {
        let is_none = by_host!(
            "the library's layer needs no cluster to execute detached; for the native module the tests' stack makes \
             the rule an inline one",
            envoy: false,
            kong: false,
            layer: path == "rules[0].execution",
            native: path == "rules[0].execution_timeout_ms",
        );
        if is_none {
            continue;
        }
        let (code, lines) = check_config(&config.to_string());
        assert_eq!(code, Some(1), "{path}: {lines:?}");
        let named = lines
            .iter()
            .any(|line| line.starts_with(&format!("{path}:")));
        assert!(named, "{path} is not named: {lines:?}");
        let stack = Stack::builder().filter(config).start();
        for line in &lines {
            // Between them: the rules of the configuration, as far as it can be read.
            let logs = |log: &str| {
                let mut told = log.lines().filter(|l| l.contains("configuration rejected"));
                told.any(|told| told.contains(&format!(": {line}")))
            };
            eventually(&format!("the log has: {line}"), || {
                logs(&stack.gateway.log())
            });
        }
        let answer = charge("/charges", &fresh_key("mistake")).send(&stack);
        assert_problem(&answer, 503, "misconfigured");
        assert_eq!(stack.upstream.executions().total, 0, "{path}");
    }
}

#[test]
fn with_a_rejected_configuration_only_safe_requests_pass() {
    let broken = config_with(json!([rule("detached", json!({ "lease_ms": 0 }))]));
    let stack = Stack::builder().filter(broken).start();
    assert_refused(&stack);
}

#[test]
fn a_configuration_that_is_no_json_is_a_rejected_one() {
    for text in [json!("not an object"), json!([]), json!(null), json!({})] {
        let (code, lines) = check_config(&text.to_string());
        assert_eq!(code, Some(1), "{text}: {lines:?}");
        assert!(!lines.is_empty(), "{text}");
        let stack = Stack::builder().filter(text.clone()).start();
        assert_refused(&stack);
        assert!(
            stack.gateway.log().contains("configuration rejected"),
            "{text}"
        );
    }
    for text in ["", "{", "{\"rules\": [}", "\u{0}"] {
        let (code, _) = check_config(text);
        assert_eq!(code, Some(1), "{text:?}");
        let stack = Stack::builder().filter_text(text).start();
        assert_refused(&stack);
    }
}

#[test]
fn check_config_accepts_what_the_filter_accepts() {
    let config = config_with(json!([rule("detached", json!({}))]));
    let (code, lines) = check_config(&config.to_string());
    assert_eq!((code, lines.len()), (Some(0), 0), "{lines:?}");
    let stack = Stack::builder().filter(config).start();
    assert!(!stack.gateway.log().contains("configuration rejected"));
    assert_alive(&stack);
}

#[test]
fn the_missing_knob_is_reported_with_its_name() {
    not_on!(Native, "a native module needs no such setting");
    only_on!(Envoy, "allow_on_headers_stop_iteration is Envoy's");
    for execution in EXECUTIONS {
        let stack = with_rule(execution, json!({}))
            .envoy(|envoy| envoy.allow_on_headers_stop_iteration = false)
            .start();
        let key = fresh_key("knob");
        let requests = [
            charge("/charges", &key),
            charge("/charges", &key).chunked(3),
            charge("/charges", &key).body(vec![b'x'; 300_000]),
        ];
        let clients = requests.map(|request| in_background(&stack, &request));
        for client in clients {
            let answer = client.join().expect("a client").expect("an answer");
            assert_problem(&answer, 503, "misconfigured");
            let detail = answer.json()["detail"].to_string();
            assert!(
                detail.contains("allow_on_headers_stop_iteration"),
                "{detail}"
            );
        }
        assert!(stack
            .gateway
            .log()
            .contains("allow_on_headers_stop_iteration"));
        assert_eq!(stack.upstream.executions().total, 0, "{execution}");
        assert_eq!(record_state(&stack, &key), "absent");
        // What needs no body is not affected.
        let open = Request::post("/other").key(&key).body("x").send(&stack);
        assert_eq!(open.status, 201);
    }
}

/// Another gateway for the same service and upstream, with a working configuration.
fn mended(stack: &Stack) -> Gateway {
    let config = config_with(json!([rule("detached", json!({}))]));
    let service = ServiceAddress::Unix(stack.service.socket().to_owned());
    let config = GatewayConfig::new(config.to_string(), stack.upstream.address(), service);
    Gateway::start(config).expect("the gateway starts")
}

#[test]
fn a_missing_execution_cluster_is_told_and_the_key_is_free_again() {
    not_on!(Native, "the native module executes inline only");
    only_on!(Envoy, "Kong needs no cluster for detached executions");
    let mut config = config_with(json!([rule("detached", json!({}))]));
    config["detached"]["cluster"] = json!("nowhere");
    let stack = Stack::builder().filter(config).start();
    let key = fresh_key("nowhere");
    for _ in 0..3 {
        let answer = charge("/charges", &key).send(&stack);
        assert_problem(&answer, 503, "misconfigured");
        assert!(answer.text().contains("cluster"), "{answer:?}");
        assert_eq!(record_state(&stack, &key), "failed");
    }
    assert_eq!(stack.upstream.executions().total, 0);
    let mended = mended(&stack);
    let connection = idempotency_e2e::Connection::http1(mended.address());
    let first = connection.send(&charge("/charges", &key));
    assert_eq!(first.status, 201, "{first:?}");
    assert_replay(&first, &connection.send(&charge("/charges", &key)));
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn an_execution_cluster_without_its_listener_runs_nothing_twice() {
    not_on!(Native, "the native module executes inline only");
    only_on!(Envoy, "Kong needs no cluster for detached executions");
    let mut config = config_with(json!([rule("detached", json!({}))]));
    // A cluster that is there and leads nowhere.
    config["detached"]["cluster"] = json!("refused");
    let stack = Stack::builder().filter(config).start();
    let key = fresh_key("unmarked");
    let answer = charge("/charges", &key).send(&stack);
    // Without the marks of the internal listener nobody can tell what happened.
    assert_problem(&answer, 502, "outcome-unknown");
    assert_eq!(record_state(&stack, &key), "unknown");
    assert_problem(
        &charge("/charges", &key).send(&stack),
        409,
        "outcome-unknown",
    );
    assert_eq!(stack.upstream.executions().total, 0);
}

#[test]
fn an_execution_cluster_without_marks_is_told_and_leaves_the_key_unknown() {
    not_on!(Native, "the native module executes inline only");
    only_on!(Envoy, "Kong needs no cluster for detached executions");
    let mut config = config_with(json!([rule("detached", json!({}))]));
    // Straight to the upstream, past the internal listener.
    config["detached"]["cluster"] = json!("upstream");
    let stack = Stack::builder().filter(config).start();
    let key = fresh_key("unmarked");
    let answer = charge("/charges", &key).send(&stack);
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(executions(&stack, &key), 1);
    assert_problem(
        &charge("/charges", &key).send(&stack),
        409,
        "outcome-unknown",
    );
    assert_eq!(executions(&stack, &key), 1);
    assert!(stack.gateway.log().contains("marker"), "the log says why");
}

#[test]
fn a_missing_cluster_of_the_service_is_a_service_that_does_not_answer() {
    for execution in EXECUTIONS {
        let mut config = config_with(json!([rule(execution, json!({}))]));
        config["service"]["target"] = json!("nowhere");
        let stack = Stack::builder().filter(config).start();
        let key = fresh_key("target");
        for _ in 0..3 {
            let answer = charge("/charges", &key).send(&stack);
            assert_problem(&answer, 503, "store-unavailable");
        }
        assert_eq!(stack.upstream.executions().total, 0, "{execution}");
    }
}

#[test]
fn a_token_that_the_service_does_not_know_is_a_service_that_does_not_answer() {
    let mut config = config_with(json!([rule("detached", json!({}))]));
    config["service"]["token"] = json!("wrong");
    let stack = Stack::builder().filter(config).start();
    let key = fresh_key("token");
    let answer = charge("/charges", &key).send(&stack);
    assert_problem(&answer, 503, "store-unavailable");
    assert_eq!(executions(&stack, &key), 0);
    let mended = mended(&stack);
    let first =
        idempotency_e2e::Connection::http1(mended.address()).send(&charge("/charges", &key));
    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!(executions(&stack, &key), 1);
}
