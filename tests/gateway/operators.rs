//! The ways out of an unknown outcome: an operator's word, by API or command line, and the
//! upstream's own.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use idempotency_e2e::relay::{raw, Received, Server};
use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, record, record_state,
    replayed, Shared,
};
use idempotency_stack::{http, tools, Stack};
use serde_json::{json, Value};

use crate::support::{charge, persist, rule, with_rule, EXECUTIONS};

static STACK: Shared = Shared::new(|| Stack::builder().rules(json!([rule("detached", json!({}))])));

/// Executes, without an answer.
const NO_ANSWER: &str = "/charges?reset=before";

/// A key whose outcome is unknown.
fn unknown(stack: &Stack) -> String {
    let key = fresh_key("unknown");
    let request = charge(NO_ANSWER, &key);
    let first = request.try_send(stack).map(|answer| answer.status);
    assert!(first.map_or(true, |status| status >= 500));
    assert_problem(&persist(stack, &request), 409, "outcome-unknown");
    assert_eq!(executions(stack, &key), 1);
    key
}

fn version(stack: &Stack, key: &str) -> u64 {
    let record = record(stack, key).expect("a record");
    record["version"].as_u64().expect("a version")
}

fn resolve(stack: &Stack, key: &str, version: u64, to: Value) -> http::Answer {
    let body = json!({ "key": key, "version": version, "to": to }).to_string();
    stack.service.operator("POST", "/v1/record/resolve", &body)
}

/// `idempotencyd keys …`.
fn keys(stack: &Stack, arguments: &[&str]) -> Output {
    Command::new(tools::idempotencyd().expect("the service is built"))
        .arg("keys")
        .args(arguments)
        .args(["--url", &format!("http://{}", stack.service.address())])
        .args(["--token", &stack.service.tokens().operator])
        .output()
        .expect("it runs")
}

#[test]
fn a_record_that_is_resolved_to_failed_runs_again_at_the_next_retry() {
    let stack = STACK.get();
    let key = unknown(&stack);
    let seen = record(&stack, &key).expect("a record");
    assert_eq!(
        (&seen["state"], &seen["attempt"]),
        (&json!("unknown"), &json!(1))
    );
    let answer = resolve(
        &stack,
        &key,
        version(&stack, &key),
        json!({ "state": "failed" }),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(record_state(&stack, &key), "failed");
    assert_eq!(executions(&stack, &key), 1, "the word alone runs nothing");
    let _ = charge(NO_ANSWER, &key).try_send(&stack);
    assert_eq!(executions(&stack, &key), 2);
    let log = stack.upstream.log();
    let mine: Vec<_> = log.iter().filter(|entry| entry.key == key).collect();
    let attempts: Vec<_> = mine.iter().filter_map(|e| e.attempt.as_deref()).collect();
    assert_eq!(attempts, ["1", "2"]);
    let fence = |n: usize| mine[n].fence.as_deref().and_then(|f| f.parse::<u64>().ok());
    assert!(fence(0) < fence(1), "fences only grow");
}

#[test]
fn a_record_that_is_resolved_to_completed_is_replayed_as_the_operator_said() {
    let stack = STACK.get();
    let key = unknown(&stack);
    let to = json!({
        "state": "completed",
        "status": 201,
        "headers": [["content-type", "application/json"], ["location", "/charges/7"]],
        "body": "{\"id\":7}",
    });
    let answer = resolve(&stack, &key, version(&stack, &key), to);
    assert_eq!(answer.status, 200, "{answer:?}");
    let replay = charge(NO_ANSWER, &key).send(&stack);
    assert!(replayed(&replay), "{replay:?}");
    assert_eq!((replay.status, replay.text().as_str()), (201, "{\"id\":7}"));
    assert_eq!(replay.header("location").as_deref(), Some("/charges/7"));
    let other = charge(NO_ANSWER, &key).body("{}").send(&stack);
    assert_problem(&other, 422, "key-reused");
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn a_tombstone_tells_that_it_was_done() {
    let stack = STACK.get();
    let key = unknown(&stack);
    let to = json!({ "state": "completed", "status": 201, "tombstone": true });
    assert_eq!(resolve(&stack, &key, version(&stack, &key), to).status, 200);
    let answer = charge(NO_ANSWER, &key).send(&stack);
    assert_problem(&answer, 409, "not-replayable");
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn an_operator_who_looked_at_an_older_version_changes_nothing() {
    let stack = STACK.get();
    let key = unknown(&stack);
    let seen = version(&stack, &key);
    let failed = || json!({ "state": "failed" });
    assert_eq!(resolve(&stack, &key, seen - 1, failed()).status, 412);
    assert_eq!(record_state(&stack, &key), "unknown");
    assert_eq!(resolve(&stack, &key, seen, failed()).status, 200);
    assert_eq!(resolve(&stack, &key, seen, failed()).status, 412);
    assert_eq!(resolve(&stack, "nobody-has-this", 1, failed()).status, 404);
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn a_deleted_record_is_a_new_key() {
    let stack = STACK.get();
    let key = fresh_key("deleted");
    let first = charge("/charges", &key).send(&stack);
    assert_eq!(record_state(&stack, &key), "completed");
    let version = version(&stack, &key);
    let target = format!("/v1/record?key={key}&version={version}");
    assert_eq!(stack.service.operator("DELETE", &target, "").status, 200);
    assert_eq!(record_state(&stack, &key), "absent");
    let second = charge("/charges", &key).send(&stack);
    assert_ne!(first.body, second.body);
    assert_replay(&second, &charge("/charges", &key).send(&stack));
    assert_eq!(executions(&stack, &key), 2);
}

#[test]
fn the_command_line_looks_up_and_resolves() {
    let stack = STACK.get();
    let key = unknown(&stack);
    let shown = keys(&stack, &["get", &key]);
    assert!(shown.status.success(), "{shown:?}");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("unknown") && text.contains(&key), "{text}");
    let listed = keys(&stack, &["list", "--state", "unknown", "--json"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&key));

    let version = version(&stack, &key).to_string();
    let resolve = |more: &[&str]| keys(&stack, &[&["resolve", &key], more].concat());
    let confirmed = ["--yes", "--reason", "the charge is in the ledger"];
    let wrong = ["--version", "1", "--to", "failed"];
    let wrong = resolve(&[&wrong[..], &confirmed].concat());
    assert_eq!(wrong.status.code(), Some(4), "{wrong:?}");
    let right = [
        "--version",
        &version,
        "--to",
        "completed",
        "--status",
        "201",
        "--header",
        "location: /charges/9",
    ];
    // Not confirmed: it says what would happen, and does nothing.
    let asked = resolve(&right);
    assert_eq!(asked.status.code(), Some(6), "{asked:?}");
    let resolved = resolve(&[&right[..], &confirmed].concat());
    assert!(resolved.status.success(), "{resolved:?}");
    let replay = charge(NO_ANSWER, &key).send(&stack);
    assert!(replayed(&replay));
    assert_eq!((replay.status, replay.body.len()), (201, 0));
    assert_eq!(replay.header("location").as_deref(), Some("/charges/9"));
    assert_eq!(executions(&stack, &key), 1);
    let absent = keys(&stack, &["get", "nobody-has-this"]);
    assert_eq!(absent.status.code(), Some(3), "{absent:?}");
}

/// An upstream that keeps what it received and never answers.
struct Silent {
    server: Server,
    received: Arc<Mutex<Vec<Received>>>,
    count: Arc<AtomicU32>,
}

impl Silent {
    fn start() -> Self {
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let count: Arc<AtomicU32> = Arc::default();
        let (keep, counted) = (received.clone(), count.clone());
        let server = Server::start(move |request| {
            counted.fetch_add(1, Ordering::SeqCst);
            keep.lock()
                .expect("no server thread panicked")
                .push(request.clone());
            None
        });
        Self {
            server,
            received,
            count,
        }
    }

    fn executions(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }

    /// The query and the fence by which the newest execution can be settled.
    fn settle_target(&self, outcome: &str) -> String {
        let received = self.received.lock().expect("no server thread panicked");
        let last = received.last().expect("an execution");
        let record = last.header("idempotency-record").expect("the record");
        let fence = last.header("idempotency-fence").expect("the fence");
        format!("/v1/settle?{record}&fence={fence}&outcome={outcome}")
    }
}

/// A stack in front of such an upstream.
fn in_front_of(silent: &Silent, execution: &str, more: Value) -> Stack {
    let address = silent.server.address();
    with_rule(execution, more)
        .gateway(move |gateway| gateway.upstream = address)
        .start()
}

fn settle(stack: &Stack, target: &str, body: &str) -> http::Answer {
    http::Request::post(target)
        .bearer(&stack.service.tokens().upstream)
        .header("Content-Type", "application/json")
        .body(body)
        .send(stack.service.address())
        .expect("the service answers")
}

#[test]
fn the_upstream_settles_its_own_execution_with_what_it_was_sent() {
    for execution in EXECUTIONS {
        for key in [
            fresh_key("settle"),
            "a b/c?d=é&f%".to_owned(),
            "\"quoted\"".to_owned(),
        ] {
            let silent = Silent::start();
            let policy = json!({ "scope": { "header": "x-tenant" }, "namespace": "pay+ments" });
            let stack = in_front_of(&silent, execution, policy);
            // Keys with other characters travel as an RFC 9651 string, in which é cannot be.
            let sent = if key.starts_with('"') {
                key.clone()
            } else {
                format!("\"{}\"", key.replace('é', "e"))
            };
            let request = charge("/charges", &sent).header("x-tenant", "a&b=c");
            assert!(request.try_send(&stack).map_or(true, |a| a.status >= 500));
            eventually("the outcome is unknown", || {
                let retry = request.send(&stack);
                crate::support::problem(&retry) == "outcome-unknown"
            });
            let target = silent.settle_target("completed") + "&status=201";
            let settled = settle(&stack, &target, "{\"id\":\"é\"}");
            assert_eq!(settled.status, 200, "{key}: {}", settled.text());
            let replay = request.send(&stack);
            assert!(replayed(&replay), "{replay:?}");
            assert_eq!(
                (replay.status, replay.text().as_str()),
                (201, "{\"id\":\"é\"}")
            );
            let again = settle(&stack, &target, "{\"id\":\"é\"}");
            assert_eq!(again.status, 200, "the same outcome is the same answer");
            let other = settle(&stack, &target, "{\"id\":\"other\"}");
            assert_eq!(other.status, 409, "{}", other.text());
            assert_eq!(request.send(&stack).body, replay.body);
            assert_eq!(silent.executions(), 1, "{execution}");
        }
    }
}

#[test]
fn an_upstream_that_did_nothing_says_so_and_the_retry_runs() {
    for execution in EXECUTIONS {
        let silent = Silent::start();
        let stack = in_front_of(&silent, execution, json!({}));
        let key = fresh_key("nothing");
        let request = charge("/charges", &key);
        assert!(request.try_send(&stack).map_or(true, |a| a.status >= 500));
        assert_problem(&persist(&stack, &request), 409, "outcome-unknown");
        let target = silent.settle_target("failed");
        assert_eq!(settle(&stack, &target, "").status, 200);
        silent.server.handle(|_| Some(raw(201, "", b"done")));
        let first = request.send(&stack);
        assert_eq!(
            (first.status, first.text().as_str()),
            (201, "done"),
            "{first:?}"
        );
        assert_replay(&first, &request.send(&stack));
        // The fence of the first execution is an old one now.
        let late = settle(
            &stack,
            &(target.replace("failed", "completed") + "&status=201"),
            "x",
        );
        assert_eq!(late.status, 409, "{}", late.text());
        assert_eq!(request.send(&stack).body, first.body);
        assert_eq!(silent.executions(), 1);
    }
}

#[test]
fn an_upstream_may_settle_before_it_answers() {
    for execution in EXECUTIONS {
        let stack = Arc::new(Mutex::new(None::<(std::net::SocketAddr, String)>));
        let service = stack.clone();
        let count = Arc::new(AtomicU32::new(0));
        let counted = count.clone();
        // It settles with the very answer that it then gives.
        let server = Server::start(move |request| {
            counted.fetch_add(1, Ordering::SeqCst);
            let (address, token) = service.lock().ok()?.clone()?;
            let record = request.header("idempotency-record")?;
            let fence = request.header("idempotency-fence")?;
            let target = format!("/v1/settle?{record}&fence={fence}&outcome=completed&status=201");
            let settled = http::Request::post(&target)
                .bearer(&token)
                .header("Content-Type", "application/json")
                .body("{\"id\":1}")
                .send(address)
                .ok()?;
            let head = "content-type: application/json\r\n";
            Some(raw(
                if settled.status == 200 { 201 } else { 500 },
                head,
                b"{\"id\":1}",
            ))
        });
        let address = server.address();
        let gateway = with_rule(execution, json!({}))
            .gateway(move |gateway| gateway.upstream = address)
            .start();
        let tokens = gateway.service.tokens().upstream.clone();
        *stack.lock().expect("no server thread panicked") =
            Some((gateway.service.address(), tokens));
        let key = fresh_key("before");
        let first = charge("/charges", &key).send(&gateway);
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &charge("/charges", &key).send(&gateway));
        assert_eq!(record_state(&gateway, &key), "completed");
        assert_eq!(count.load(Ordering::SeqCst), 1, "{execution}");
        assert_eq!(crate::support::counter(&gateway, "complete_refused"), 0);
    }
}

#[test]
fn tokens_of_other_roles_settle_and_resolve_nothing() {
    let stack = STACK.get();
    let key = unknown(&stack);
    let tokens = stack.service.tokens();
    let fence = record(&stack, &key).map(|record| record["fence"].to_string());
    let fence = fence.expect("a record");
    let target = format!("/v1/settle?key={key}&fence={fence}&outcome=failed");
    let resolve = json!({
        "key": key, "version": version(&stack, &key), "to": { "state": "failed" },
    });
    for token in [
        &tokens.gateway,
        &tokens.upstream,
        &tokens.operator,
        &"none".to_owned(),
    ] {
        let send = |target: &str, body: &str| {
            let request = http::Request::post(target).bearer(token).body(body);
            let answer = request.send(stack.service.address());
            answer.expect("the service answers").status
        };
        if *token != tokens.upstream {
            assert!([401, 403].contains(&send(&target, "")), "{token}");
        }
        if *token != tokens.operator {
            let status = send("/v1/record/resolve", &resolve.to_string());
            assert!([401, 403].contains(&status), "{token}");
        }
    }
    assert_eq!(record_state(&stack, &key), "unknown");
    assert_eq!(executions(&stack, &key), 1);
}
