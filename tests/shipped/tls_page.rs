//! `docs/tls.md` does what it says: its commands are run, one after the other, with other ports and directories.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use idempotency_stack::http::Request;
use idempotency_stack::{envoy, ports, tools, Process, Upstream, UpstreamOptions};
use serde_json::{json, Value};

use crate::repository::{parse_yaml, read, root};

/// The commands under a mark of the page.
fn block(name: &str) -> String {
    let page = read("docs/tls.md");
    let mark = format!("<!-- test: {name} -->\n```sh\n");
    let (_, rest) = page.split_once(&mark).expect("the mark");
    let (block, _) = rest.split_once("\n```").expect("its end");
    block.to_owned()
}

fn replace(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} is not in {text}");
    text.replace(from, to)
}

fn run(dir: &Path, commands: &str) -> Output {
    let mut shell = Command::new("sh");
    let output = shell.args(["-euc", commands]).current_dir(dir).output();
    output.expect("a shell")
}

fn must(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The example with the page's changes, and with addresses of this test.
fn bootstrap(gateway: u16, admin: u16, upstream: u16, service: u16, etc: &str) -> Value {
    let here = |port: u16| format!("address: 127.0.0.1, port_value: {port} ");
    // As the page says: without a name, Envoy watches no files.
    let node = "node: { id: gateway, cluster: gateway }\n";
    assert!(read("docs/tls.md").contains(node.trim_end()));
    let mut text = format!("{node}{}", read("envoy/envoy.yaml"));
    for (from, to) in [
        ("address: 0.0.0.0, port_value: 10000 ", here(gateway)),
        ("address: 127.0.0.1, port_value: 9901 ", here(admin)),
        ("address: demo-upstream, port_value: 7481 ", here(upstream)),
        (
            "/opt/idempotency/filters/idempotency.wasm",
            tools::wasm().expect("the filter").display().to_string(),
        ),
    ] {
        text = replace(&text, from, &to);
    }
    let token = text.lines().find(|line| line.contains("\"token\": "));
    let token = token.expect("a token").to_owned();
    text = replace(&text, &format!(",\n{token}"), "");
    let mut example = parse_yaml(&text).expect("YAML");
    let cluster = replace(
        &read("envoy/tls.yaml"),
        "address: idempotencyd, port_value: 7480 ",
        &here(service),
    );
    let cluster = parse_yaml(&replace(&cluster, "/etc/envoy", etc)).expect("YAML");
    let clusters = example["static_resources"]["clusters"].as_array_mut();
    let old = clusters
        .expect("clusters")
        .iter_mut()
        .find(|old| old["name"] == "idempotency");
    *old.expect("the cluster") = cluster;
    example
}

#[test]
fn the_page_takes_a_newcomer_to_a_replay_over_mtls() {
    let dir = tempfile::tempdir().expect("a directory");
    must(run(dir.path(), &block("certificates")));
    let files = dir.path().join("tls");

    let port = ports::free();
    let program = tools::idempotencyd().expect("the service");
    let program = program.display().to_string();
    let start = replace(&block("service"), ":7480", &format!(":{port}"));
    let mut shell = Command::new("sh");
    let start = start.replacen("idempotencyd", &format!("exec {program}"), 1);
    shell.args(["-euc", &start]).current_dir(&files);
    let mut service = Process::start("idempotencyd", shell, dir.path().join("service.log"))
        .expect("the service starts");
    let commands = replace(&block("commands"), ":7480", &format!(":{port}"));
    let commands = commands.replace("\\\n", "");
    let commands: Vec<_> = commands
        .lines()
        .map(|line| line.replacen("idempotencyd", &program, 1))
        .collect();
    let ready = || run(&files, &commands[0]).status.success();
    service
        .await_ready(Duration::from_secs(30), ready)
        .expect("it gets ready");
    for command in &commands {
        must(run(&files, command));
    }

    let etc = dir.path().join("etc").display().to_string();
    let copies = replace(&block("envoy"), "/etc/envoy", &etc);
    let sds = root().join("envoy/sds").display().to_string();
    must(run(&files, &replace(&copies, "../envoy/sds", &sds)));
    for name in ["certificate.yaml", "authority.yaml"] {
        let path = Path::new(&etc).join("sds").join(name);
        let text = std::fs::read_to_string(&path).expect("a copy");
        std::fs::write(&path, replace(&text, "/etc/envoy", &etc)).expect("a file");
    }
    let upstream = Upstream::start(UpstreamOptions::default()).expect("the upstream");
    let (gateway, admin) = (ports::free(), ports::free());
    let example = bootstrap(gateway, admin, upstream.address().port(), port, &etc);
    let file = dir.path().join("envoy.json");
    std::fs::write(&file, example.to_string()).expect("a file");
    envoy::validate(&file).expect("Envoy takes it");
    let mut command = Command::new(tools::envoy().expect("Envoy"));
    command
        .arg("-c")
        .arg(&file)
        .args(["--use-dynamic-base-id", "--concurrency", "1"]);
    let mut process =
        Process::start("envoy", command, dir.path().join("envoy.log")).expect("Envoy");
    let ready = || {
        let answer = Request::get("/ready").send(SocketAddr::from(([127, 0, 0, 1], admin)));
        answer.is_ok_and(|answer| answer.status == 200)
    };
    process
        .await_ready(Duration::from_secs(60), ready)
        .expect("it gets ready");

    let requests = replace(&block("request"), ":10000", &format!(":{gateway}"));
    let answers: Vec<_> = requests
        .lines()
        .map(|line| must(run(dir.path(), line)))
        .collect();
    let [first, second] = answers.as_slice() else {
        panic!("{answers:?}");
    };
    assert!(first.starts_with("HTTP/1.1 201 "), "{first}");
    assert!(second.contains("idempotency-replayed: true"), "{second}");
    let body = |answer: &str| answer.rsplit("\r\n\r\n").next().map(str::to_owned);
    assert_eq!(body(first), body(second));
    assert_eq!(upstream.executions().of("k-1"), 1);
    let listed = must(run(&files, &commands[1]));
    assert!(listed.contains("k-1"), "{listed}");
}

/// The tests' stack and the example differ in paths, names and addresses only.
#[test]
fn the_example_is_what_the_end_to_end_tests_run() {
    let address = idempotency_stack::TlsAddress {
        address: SocketAddr::from(([127, 0, 0, 1], 1)),
        name: "idempotencyd.example.org".to_owned(),
        sds_certificate: "/etc/envoy/sds/certificate.yaml".into(),
        sds_authority: "/etc/envoy/sds/authority.yaml".into(),
    };
    let here = SocketAddr::from(([127, 0, 0, 1], 1));
    let service = idempotency_stack::ServiceAddress::Tls(address);
    let config = idempotency_stack::EnvoyConfig::bare(here, service);
    let bootstrap = config.bootstrap().expect("a bootstrap");
    let clusters = bootstrap["static_resources"]["clusters"].as_array();
    let mut clusters = clusters.expect("clusters").iter();
    let ours = clusters.find(|cluster| cluster["name"] == "idempotency");
    let example = parse_yaml(&read("envoy/tls.yaml")).expect("YAML");
    assert_eq!(
        ours.expect("the cluster")["transport_socket"],
        example["transport_socket"]
    );

    let pki = idempotency_stack::Pki::new().expect("certificates");
    for (ours, example) in [
        (pki.sds_certificate(), "envoy/sds/certificate.yaml"),
        (pki.sds_authority(), "envoy/sds/authority.yaml"),
    ] {
        let text = std::fs::read_to_string(ours).expect("a file");
        let text = text.replace(&pki.gateway.dir().display().to_string(), "/etc/envoy/tls");
        let ours: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(ours, parse_yaml(&read(example)).expect("YAML"), "{example}");
    }
    let token = parse_yaml(&read("envoy/sds/token.yaml")).expect("YAML");
    let secret = json!({ "secret": { "filename": "/etc/envoy/tokens/gateway" } });
    assert_eq!(token["resources"][0]["generic_secret"], secret);
}
