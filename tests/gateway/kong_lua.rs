//! A complete Kong with the Lua plugin: ordinary reloads and stops, pushes of another configuration, several readers of
//! the metrics, killed workers, consumers. Nothing runs twice, and nothing is lost without a drain.

use std::net::SocketAddr;

use idempotency_e2e::{
    assert_replay, eventually, executions, fresh_key, record_state, side_by_side, Connection,
    Request,
};
use idempotency_stack::{ports, Stack, StackBuilder};
use serde_json::{json, Value};

use crate::load::Load;
use crate::support::{assert_alive, charge};

fn charges() -> Value {
    json!({
        "name": "charges",
        "match": { "methods": ["POST"], "path_prefix": "/charges" },
        "scope": "global",
        "wait_ms": 5000,
    })
}

/// Two workers, and what a test changes.
fn kong(change: impl FnOnce(&mut idempotency_stack::KongSettings) + 'static) -> StackBuilder {
    Stack::builder()
        .rules(json!([charges()]))
        .gateway(|gateway| {
            gateway.workers = 2;
            change(&mut gateway.kong);
        })
}

#[test]
fn ordinary_reloads_under_load_lose_nothing() {
    only_on!(KongLua, "the filter needs a drain before");
    let mut stack = kong(|_| {}).start();
    let load = Load::start(&stack, 8, 100);
    load.await_answers(100);
    let before = stack.gateway.kong().workers();
    for _ in 0..3 {
        let seen = load.answers();
        let output = stack.gateway.kong().run(&["reload"]);
        assert!(output.status.success(), "{output:?}");
        load.await_answers(seen + 100);
    }
    eventually("only new workers serve", || {
        let after = stack.gateway.kong().workers();
        !after.is_empty() && after.iter().all(|worker| !before.contains(worker))
    });
    let told = load.stop();
    let verdict = told.verify(&stack);
    eprintln!("ordinary reloads: {verdict:?}");
    assert_eq!((verdict.lost, verdict.twice), (0, 0), "{verdict:?}");
}

/// Longer than Kong takes to tell its workers, on a busy machine too.
const SLOW: &str = "/charges?delay_ms=6000";

fn in_mid_execution(command: &str) {
    let mut stack = kong(|_| {}).start();
    let keys: Vec<_> = (0..6).map(|_| fresh_key("mid")).collect();
    let address = stack.address();
    let clients: Vec<_> = keys
        .iter()
        .map(|key| {
            let request = charge(SLOW, key);
            std::thread::spawn(move || Connection::http1(address).try_send(&request))
        })
        .collect();
    for key in &keys {
        eventually("it executes", || executions(&stack, key) == 1);
    }
    let output = stack.gateway.kong().run(&[command]);
    assert!(output.status.success(), "{output:?}");
    let mut answers = Vec::new();
    for client in clients {
        answers.push(client.join().expect("a client").expect("an answer"));
    }
    if command == "quit" {
        stack.gateway.restart().expect("Kong starts again");
    }
    for (key, first) in keys.iter().zip(&answers) {
        assert_eq!(first.status, 201, "{first:?}");
        assert_eq!(record_state(&stack, key), "completed");
        let replay = charge(SLOW, key).send(&stack);
        assert_replay(first, &replay);
        assert_eq!(executions(&stack, key), 1);
    }
}

#[test]
fn a_reload_in_mid_execution_finishes_and_records_it() {
    only_on!(KongLua, "the filter's outcomes end unknown");
    in_mid_execution("reload");
}

#[test]
fn a_stop_in_mid_execution_finishes_and_records_it() {
    only_on!(KongLua, "the filter's outcomes end unknown");
    in_mid_execution("quit");
}

#[test]
fn pushes_of_other_configurations_under_load_lose_nothing() {
    only_on!(KongLua, "workers with changed filter chains die");
    let admin = SocketAddr::from(([127, 0, 0, 1], ports::free()));
    let mut stack = kong(move |kong| kong.set("KONG_ADMIN_LISTEN", admin.to_string())).start();
    let text = std::fs::read_to_string(stack.gateway.kong().document()).expect("a document");
    let mut document: Value = serde_json::from_str(&text).expect("JSON");
    eventually("both workers are there", || {
        stack.gateway.kong().workers().len() == 2
    });
    let before = stack.gateway.kong().workers();
    let load = Load::start(&stack, 8, 20);
    for round in 0..20 {
        for plugin in document["plugins"].as_array_mut().expect("plugins") {
            if plugin["name"] == "idempotency" {
                plugin["config"]["rules"][0]["wait_ms"] = json!(5000 + round);
            }
        }
        let answer = idempotency_stack::http::Request::post("/config")
            .header("content-type", "application/json")
            .body(document.to_string())
            .send(admin)
            .expect("an answer");
        assert_eq!(answer.status, 201, "{}", answer.text());
        load.await_answers(load.answers() + 20);
    }
    let told = load.stop();
    assert_eq!(stack.gateway.kong().workers(), before, "no worker died");
    let verdict = told.verify(&stack);
    eprintln!("pushes: {verdict:?}");
    assert_eq!((verdict.lost, verdict.twice), (0, 0), "{verdict:?}");
}

#[test]
fn three_scrapers_under_load_are_all_answered() {
    only_on!(KongLua, "two readers stop a worker with the filter");
    let mut stack = kong(|_| {}).start();
    let status = stack.gateway.kong().status();
    let load = Load::start(&stack, 8, 20);
    load.await_answers(50);
    let statuses = side_by_side(0..3, |_| {
        let answers = (0..40).map(|_| {
            let request = idempotency_stack::http::Request::get("/metrics");
            let request = request.timeout(std::time::Duration::from_secs(20));
            request.send(status).expect("an answer").status
        });
        answers.collect::<Vec<_>>()
    })
    .concat();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    load.await_answers(load.answers() + 50);
    let verdict = load.stop().verify(&stack);
    eprintln!("scrapers: {verdict:?}");
    assert_eq!((verdict.lost, verdict.twice), (0, 0), "{verdict:?}");
    assert!(stack.gateway.metric("idempotency_executed") > 0);
}

#[test]
fn killed_workers_of_the_plugin_repeat_nothing() {
    only_on!(KongLua, "the filter has its own case");
    let mut stack = kong(|_| {}).start();
    let load = Load::start(&stack, 8, 50);
    for _ in 0..4 {
        load.await_answers(load.answers() + 40);
        let workers = stack.gateway.kong().workers();
        stack.gateway.kong().kill_worker(workers[0]);
        eventually("another one works", || {
            stack.gateway.kong().workers().len() == 2
        });
    }
    let verdict = load.stop().verify(&stack);
    eprintln!("killed workers: {verdict:?}");
    assert_eq!(verdict.twice, 0, "{verdict:?}");
    assert!(verdict.replayed > 100, "{verdict:?}");
    assert_alive(&stack);
    stack.gateway.kong().forgive("exited on signal 9");
}

/// Kong says who calls; no client can.
#[test]
fn each_consumer_has_its_own_keys() {
    only_on!(KongLua, "the filter knows consumers by headers");
    let mut rule = charges();
    rule["scope"] = json!({ "property": ["kong", "consumer", "custom_id"] });
    let stack = Stack::builder()
        .rules(json!([rule]))
        .gateway(|gateway| {
            gateway.kong.change(|document| {
                document["consumers"] = json!([
                    { "username": "acme", "custom_id": "c-1",
                      "keyauth_credentials": [{ "key": "key-of-acme" }] },
                    { "username": "umbrella", "custom_id": "c-2",
                      "keyauth_credentials": [{ "key": "key-of-umbrella" }] },
                ]);
                if let Some(plugins) = document["plugins"].as_array_mut() {
                    plugins.push(json!({ "name": "key-auth" }));
                }
            });
        })
        .start();
    let key = fresh_key("shared");
    let by = |caller: &str| {
        let request: Request = charge("/charges", &key).header("apikey", caller);
        request.header("x-consumer-custom-id", "c-2").send(&stack)
    };
    let [first, other] = ["key-of-acme", "key-of-umbrella"].map(by);
    assert_eq!((first.status, other.status), (201, 201), "{other:?}");
    assert_replay(&first, &by("key-of-acme"));
    assert_replay(&other, &by("key-of-umbrella"));
    assert_eq!(executions(&stack, &key), 2);
    assert_eq!(by("nobody").status, 401);
}
