//! A complete Kong with what we ship: its other plugins, its Admin API, its workers' lives, the readers
//! of its metrics. Nothing runs twice, and what is lost is told.

use std::time::Duration;

use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, record_state, replayed,
    side_by_side, Connection, Request,
};
use idempotency_stack::{filter_config, ports, Stack, StackBuilder, Tokens};
use serde_json::{json, Value};

use crate::load::Load;
use crate::support::{assert_alive, charge, problem};

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
fn what_a_plugin_buffers_is_refused() {
    only_on!(Kong, "only a complete Kong has plugins");
    let stack = kong(|kong| {
        kong.change(|document| {
            let code = "if kong.request.get_header(\"x-buffer\") then \
                        kong.service.request.enable_buffering() end";
            let plugin = json!({ "name": "pre-function", "config": { "access": [code] } });
            if let Some(plugins) = document["plugins"].as_array_mut() {
                plugins.push(plugin);
            }
        });
    })
    .start();
    let key = fresh_key("buffered");
    for _ in 0..3 {
        let buffered = charge("/charges", &key)
            .header("x-buffer", "1")
            .send(&stack);
        assert_problem(&buffered, 503, "misconfigured");
    }
    assert_eq!(executions(&stack, &key), 0);
    // What no rule could protect passes; the key is free.
    let health = Request::get("/healthz")
        .header("x-buffer", "1")
        .send(&stack);
    assert_eq!(health.status, 200, "{health:?}");
    let first = charge("/charges", &key).send(&stack);
    assert_replay(&first, &charge("/charges", &key).send(&stack));
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn the_filter_as_a_plugin() {
    only_on!(Kong, "only a complete Kong has plugins");
    let stack = kong(|kong| {
        kong.change(|document| {
            let mut plugins = Vec::new();
            for service in document["services"].as_array_mut().into_iter().flatten() {
                let filter = service["filter_chains"][0]["filters"][0].clone();
                service["filter_chains"] = json!([]);
                plugins.push(json!({
                    "name": "idempotency",
                    "service": service["name"],
                    "config": filter["config"],
                }));
            }
            if let Some(all) = document["plugins"].as_array_mut() {
                all.extend(plugins);
            }
        });
    })
    .start();
    assert_alive(&stack);
}

#[test]
fn consumers_have_keys_of_their_own() {
    only_on!(Kong, "only a complete Kong has consumers");
    let mut rule = charges();
    rule["scope"] = json!({ "header": "x-consumer-custom-id" });
    let stack = Stack::builder()
        .rules(json!([rule]))
        .gateway(|gateway| {
            gateway.kong.change(|document| {
                if let Some(plugins) = document["plugins"].as_array_mut() {
                    plugins.push(json!({ "name": "key-auth" }));
                }
                document["consumers"] = json!(["acme", "globex"].map(|name| json!({
                    "username": name,
                    "custom_id": name,
                    "keyauth_credentials": [{ "key": format!("key-of-{name}") }],
                })));
            });
        })
        .start();
    let key = fresh_key("consumer");
    let request = |consumer: &str| {
        charge("/charges", &key)
            .header("apikey", format!("key-of-{consumer}"))
            // Whom a client claims to be.
            .header("x-consumer-custom-id", "globex")
    };
    let first = request("acme").send(&stack);
    assert_eq!(first.status, 201, "{first:?}");
    let other = request("globex").send(&stack);
    assert_eq!(other.status, 201, "{other:?}");
    assert!(!replayed(&other), "another consumer's key is another key");
    assert_ne!(first.body, other.body);
    assert_replay(&first, &request("acme").send(&stack));
    assert_replay(&other, &request("globex").send(&stack));
    // A replay needs the right to ask, too.
    assert_eq!(request("nobody").send(&stack).status, 401);
    assert_eq!(charge("/charges", &key).send(&stack).status, 401);
    assert_eq!(executions(&stack, &key), 2);
}

#[test]
fn http2_over_tls() {
    only_on!(Kong, "nginx is tested without TLS");
    let port = ports::free();
    let stack = kong(move |kong| {
        kong.set(
            "KONG_PROXY_LISTEN",
            // The first one for the tests' own client.
            format!("127.0.0.1:{port} ssl http2"),
        );
    });
    let stack = stack.start();
    let key = fresh_key("tls");
    let send = || {
        let mut command = std::process::Command::new("curl");
        command.args(["--silent", "--insecure", "--http2", "--include"]);
        command.args(["--header", &format!("Idempotency-Key: {key}")]);
        command.args(["--data", "{}", &format!("https://127.0.0.1:{port}/charges")]);
        let output = command.output().expect("curl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let first = send();
    assert!(first.starts_with("HTTP/2 201"), "{first}");
    let again = send();
    assert!(again.starts_with("HTTP/2 201"), "{again}");
    assert!(again.contains("idempotency-replayed: true"), "{again}");
    let body = |answer: &str| answer.rsplit("\r\n\r\n").next().map(str::to_owned);
    assert_eq!(body(&first), body(&again));
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn the_service_over_tls() {
    only_on!(Kong, "Kong says who may vouch for the service");
    let tls = crate::tls::Tls::start();
    let (port, authority) = (tls.address().port(), tls.authority().display().to_string());
    let tokens = Tokens::default();
    let mut config = filter_config(&tokens, json!([charges()]));
    config["service"]["target"] = json!(format!("localhost:{port}"));
    config["service"]["tls"] = json!(true);
    // The certificate must be for this name, whatever the target is.
    config["service"]["authority"] = json!("localhost");
    let good = config.clone();
    let stack = Stack::builder()
        .service_over_tcp()
        .filter(good)
        .gateway(move |gateway| {
            gateway
                .kong
                .set("KONG_LUA_SSL_TRUSTED_CERTIFICATE", authority);
        })
        .start();
    tls.lead_to(stack.service.address());
    assert_alive(&stack);
    drop(stack);
    // A certificate that nobody vouches for.
    let stack = Stack::builder().service_over_tcp().filter(config).start();
    tls.lead_to(stack.service.address());
    let key = fresh_key("untrusted");
    assert_problem(
        &charge("/charges", &key).send(&stack),
        503,
        "store-unavailable",
    );
    assert_eq!(executions(&stack, &key), 0);
}

/// A leaked connection of the host has no descriptor: what shows it is that there are no more.
#[test]
fn connections_are_not_used_up() {
    only_on!(Kong, "where callouts overlap as they do in Kong");
    let stack = Stack::builder()
        .rules(json!([charges()]))
        .gateway(|gateway| {
            gateway
                .kong
                .set("KONG_NGINX_EVENTS_WORKER_CONNECTIONS", "256");
        })
        .start();
    let count = |stack: &mut Stack| {
        let workers = stack.gateway.kong().workers();
        let files = workers.iter().map(|id| {
            let files = std::fs::read_dir(format!("/proc/{id}/fd"));
            files.map_or(0, Iterator::count)
        });
        files.sum::<usize>()
    };
    let mut stack = stack;
    assert_alive(&stack);
    let before = count(&mut stack);
    let address = stack.address();
    let refused: usize = side_by_side(0..8, |_| {
        let connection = Connection::http1(address);
        let keys = (0..300).map(|_| fresh_key("connections"));
        let answers = keys.map(|key| connection.try_send(&charge("/charges", &key)));
        answers
            .filter(|answer| answer.as_ref().map_or(true, |a| a.status != 201))
            .count()
    })
    .into_iter()
    .sum();
    assert_eq!(refused, 0, "of 2400");
    assert_alive(&stack);
    // Kept connections to the upstream and to Lua's own are a few.
    let after = || count(&mut stack) <= before + 16;
    eventually("the worker's files are as before", after);
}

#[test]
fn a_drained_reload_loses_nothing() {
    only_on!(Kong, "only a complete Kong is reloaded with our script");
    let mut stack = kong(|_| {}).start();
    let load = Load::start(&stack, 8, 100);
    load.await_answers(100);
    let before = stack.gateway.kong().workers();
    for _ in 0..2 {
        let seen = load.answers();
        reload(&mut stack, &[]);
        load.await_answers(seen + 100);
    }
    let after = stack.gateway.kong().workers();
    assert!(
        after.iter().all(|worker| !before.contains(worker)),
        "{after:?}"
    );
    let told = load.stop();
    assert!(told.refused > 0, "the drain refuses meanwhile");
    let verdict = told.verify(&stack);
    eprintln!("drained reloads: {verdict:?}");
    assert_eq!((verdict.lost, verdict.twice), (0, 0), "{verdict:?}");
}

#[test]
fn a_drained_stop_loses_nothing() {
    only_on!(Kong, "only a complete Kong is stopped with our script");
    let mut stack = kong(|_| {}).start();
    let load = Load::start(&stack, 8, 100);
    load.await_answers(100);
    reload(&mut stack, &["quit"]);
    let told = load.stop();
    stack.gateway.restart().expect("Kong starts again");
    let verdict = told.verify(&stack);
    eprintln!("a drained stop: {verdict:?}");
    assert_eq!((verdict.lost, verdict.twice), (0, 0), "{verdict:?}");
}

/// Longer than `kong reload` takes to tell the workers, on a busy machine too.
const SLOW: &str = "/charges?delay_ms=10000";

/// What `kong/README.md` says of it: the outcome is unknown, and nothing runs twice.
#[test]
fn a_reload_without_the_drain_loses_what_was_running_and_repeats_nothing() {
    only_on!(Kong, "only a complete Kong is reloaded");
    let mut rule = charges();
    rule["lease_ms"] = json!(14_000);
    rule["lease_margin_ms"] = json!(500);
    rule["execution_timeout_ms"] = json!(13_000);
    rule["wait_ms"] = json!(0);
    let mut stack = Stack::builder().rules(json!([rule])).start();
    let keys: Vec<_> = (0..6).map(|_| fresh_key("cut")).collect();
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
    let output = stack.gateway.kong().run(&["reload"]);
    assert!(output.status.success(), "{output:?}");
    for client in clients {
        let answer = client.join().expect("a client").expect("an answer");
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    for key in &keys {
        eventually("its outcome is unknown", || {
            // The worker that ends may have accepted the connection.
            let retry = Connection::http1(address).try_send(&charge(SLOW, key));
            retry.is_ok_and(|retry| problem(&retry) == "outcome-unknown")
        });
        assert_eq!(record_state(&stack, key), "unknown");
        assert_eq!(executions(&stack, key), 1);
    }
}

#[test]
fn workers_that_are_killed_repeat_nothing() {
    only_on!(Kong, "only a complete Kong is tested with killed workers");
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
    let told = load.stop();
    let verdict = told.verify(&stack);
    eprintln!("killed workers: {verdict:?}");
    assert_eq!(verdict.twice, 0, "{verdict:?}");
    assert!(verdict.replayed > 100, "{verdict:?}");
    assert_alive(&stack);
    stack.gateway.kong().forgive("exited on signal 9");
}

#[test]
fn pushes_that_leave_the_chains_alone_disturb_nothing() {
    only_on!(Kong, "only a complete Kong has an Admin API");
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], ports::free()));
    let mut stack = kong(move |kong| kong.set("KONG_ADMIN_LISTEN", admin.to_string())).start();
    let text = std::fs::read_to_string(stack.gateway.kong().document()).expect("a document");
    let mut document: Value = serde_json::from_str(&text).expect("JSON");
    eventually("both workers are there", || {
        stack.gateway.kong().workers().len() == 2
    });
    let before = stack.gateway.kong().workers();
    let load = Load::start(&stack, 8, 20);
    for round in 0..20 {
        document["consumers"] = json!([{ "username": format!("consumer-{round}") }]);
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
fn a_scraper_reads_under_load_what_promtool_accepts() {
    only_on!(Kong, "only a complete Kong has the page");
    let mut stack = kong(|_| {}).start();
    let load = Load::start(&stack, 8, 0);
    let mut pages = Vec::new();
    for _ in 0..50 {
        load.await_answers(load.answers() + 10);
        pages.push(stack.gateway.kong().metrics_page());
    }
    let told = load.stop();
    let verdict = told.verify(&stack);
    assert_eq!((verdict.lost, verdict.twice), (0, 0), "{verdict:?}");
    let page = pages.pop().expect("a page");
    let executed = page.lines().find(|line| line.contains("_executed "));
    assert!(executed.is_some(), "{page}");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &page).expect("a page");
    let mut command = std::process::Command::new("promtool");
    command.args(["check", "metrics"]);
    command.stdin(std::fs::File::open(file.path()).expect("a page"));
    let output = command
        .output()
        .expect("promtool: Debian's prometheus has it");
    let said = String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned();
    // It also gives advice on names, Kong's own among them; what it cannot read is an error.
    assert!(
        !said.contains("error while linting") && !said.contains("parse"),
        "{said}"
    );
}

#[test]
fn of_two_scrapers_one_is_refused_and_nobody_hangs() {
    only_on!(Kong, "only a complete Kong has the page");
    let mut stack = kong(|_| {}).start();
    let status = stack.gateway.kong().status();
    let read = |_| {
        let answers = (0..40).map(|_| {
            let request = idempotency_stack::http::Request::get("/metrics");
            request.timeout(Duration::from_secs(20)).send(status)
        });
        let statuses = answers.map(|answer| answer.expect("an answer").status);
        statuses.collect::<Vec<_>>()
    };
    let statuses = side_by_side(0..3, read).concat();
    assert!(statuses.contains(&200), "{statuses:?}");
    assert!(
        statuses.iter().all(|s| [200, 503].contains(s)),
        "{statuses:?}"
    );
    for _ in 0..8 {
        assert_alive(&stack);
    }
}

/// `kong/reload.sh` for this Kong.
fn reload(stack: &mut Stack, arguments: &[&str]) {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../kong/reload.sh");
    let mut command = stack.gateway.kong().command(&script);
    command.args(arguments).env("PATIENCE", "60");
    let output = command.output().expect("the script");
    let said = String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
}
