//! The files that users copy work as they are: only addresses and paths are replaced here.

use std::process::Command;
use std::time::Duration;

use idempotency_stack::http::{Answer, Request};
use idempotency_stack::{
    charges_rule, envoy, filter_config, ports, tools, Process, Service, ServiceOptions, Tokens,
    Upstream, UpstreamOptions,
};
use serde_json::{json, Value};

const EXAMPLE: &str = include_str!("../../../envoy/envoy.yaml");

fn demo_filter() -> Value {
    serde_json::from_str(include_str!("../../../envoy/demo-filter.json")).unwrap()
}

#[test]
fn one_demo_filter_everywhere() {
    assert_eq!(
        demo_filter(),
        filter_config(&Tokens::default(), json!([charges_rule()]))
    );
    let (_, inline) = EXAMPLE.split_once("value: |\n").unwrap();
    let (inline, _) = inline
        .split_once("- name: envoy.filters.http.router")
        .unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(inline).unwrap(),
        demo_filter()
    );
}

fn replace_once(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to)
}

#[test]
fn the_example_runs() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Upstream::start(UpstreamOptions::default()).unwrap();
    let service = Service::start(ServiceOptions::default()).unwrap();
    let (gateway, admin) = (ports::free(), ports::free());
    let address = |host: &str, port: u16| format!("address: {host}, port_value: {port} ");
    let here = |port: u16| address("127.0.0.1", port);
    let mut text = EXAMPLE.to_owned();
    for (from, to) in [
        (address("0.0.0.0", 10_000), here(gateway)),
        (here(9_901), here(admin)),
        (
            address("demo-upstream", 7_481),
            here(upstream.address().port()),
        ),
        (
            address("idempotencyd", 7_480),
            here(service.address().port()),
        ),
        (
            "/opt/idempotency/filters/idempotency.wasm".to_owned(),
            tools::wasm().unwrap().display().to_string(),
        ),
    ] {
        text = replace_once(&text, &from, &to);
    }
    let file = dir.path().join("envoy.yaml");
    std::fs::write(&file, text).unwrap();
    envoy::validate(&file).unwrap();

    let mut command = Command::new(tools::envoy().unwrap());
    command
        .arg("-c")
        .arg(&file)
        .args(["--use-dynamic-base-id", "--concurrency", "1"]);
    let mut process = Process::start("envoy", command, dir.path().join("envoy.log")).unwrap();
    let local = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let ready = || {
        Request::get("/ready")
            .send(local(admin))
            .is_ok_and(|a| a.status == 200)
    };
    process.await_ready(Duration::from_secs(60), ready).unwrap();

    let post = |target: &str, key: &str| -> Answer {
        let request = Request::post(target)
            .header("Idempotency-Key", key)
            .body("{}");
        request.send(local(gateway)).unwrap()
    };
    let (first, again) = (post("/charges", "a"), post("/charges", "a"));
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.body, again.body);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    for name in ["upstream", "gateway-reply", "gateway-sent"] {
        let mark = format!("x-idempotency-{name}");
        assert_eq!(
            (first.header(&mark), again.header(&mark)),
            (None, None),
            "{mark}"
        );
    }
    assert_eq!(post("/charges?reset=before", "b").status / 100, 5);
    assert_eq!(
        post("/charges?reset=before", "b").status,
        409,
        "unknown, not free"
    );
    let executions = upstream.executions();
    assert_eq!((executions.of("a"), executions.of("b")), (1, 1));
    assert_eq!(post("/free", "c").status, 201);
}
