//! `idempotencyd keys` and `check-config`.

use crate::support::child::binary;
use crate::support::*;
use idempotency_protocol::{Answer, Operation, Outcome};
use std::process::Output;
use std::sync::atomic::Ordering;

async fn keys(url: &str, args: &[&str]) -> Output {
    let mut command = binary();
    command
        .args(["keys", "--url", url, "--token", OPERATOR])
        .args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const KEY: [&str; 5] = ["k", "--tenant", "acme", "--namespace", "pay"];

fn with<'a>(command: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [command]
        .into_iter()
        .chain(KEY)
        .chain(rest.iter().copied())
        .collect()
}

async fn unknown(server: &TestServer) -> String {
    let gateway = server.client().token(GATEWAY);
    let me = owner();
    granted(gateway.one(acquire("k", me)).await);
    gateway
        .one(Operation::Abandon {
            key: key("k"),
            owner: me,
        })
        .await;
    version(server).await
}

async fn version(server: &TestServer) -> String {
    let url = format!("http://{}", server.address);
    let output = keys(&url, &with("get", &["--json"])).await;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    json["version"].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn get_and_list_over_both_sockets() {
    let server = TestServer::start().await;
    let version = unknown(&server).await;
    let unix = format!("unix:{}", server.socket.display());
    for url in [format!("http://{}", server.address), unix] {
        let output = keys(&url, &with("get", &[])).await;
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        let text = out(&output);
        for line in [
            "state       unknown",
            "tenant      acme",
            &format!("version     {version}"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        let output = keys(&url, &["list", "--state", "unknown"]).await;
        let text = out(&output);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.starts_with("STATE"), "{text}");
        let output = keys(&url, &["list", "--state", "failed", "--json"]).await;
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["records"].as_array().unwrap().len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resolve_and_delete() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let url = format!("http://{}", server.address);
    let seen = unknown(&server).await;
    let dir = tempfile::tempdir().unwrap();
    let body = dir.path().join("body");
    std::fs::write(&body, "by hand").unwrap();
    let args = with(
        "resolve",
        &[
            "--to",
            "completed",
            "--version",
            &seen,
            "--status",
            "201",
            "--header",
            "content-type: text/plain",
            "--body-file",
            body.to_str().unwrap(),
            "--yes",
            "--reason",
            "ticket 7",
        ],
    );
    let output = keys(&url, &args).await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).contains("state       completed"));
    let Answer::Stored(stored) = gateway.one(acquire("k", owner())).await else {
        panic!()
    };
    let Outcome::Response(response) = stored.outcome.into_outcome() else {
        panic!()
    };
    assert_eq!(
        (response.status, &response.body[..]),
        (201, &b"by hand"[..])
    );

    let stale = keys(&url, &args).await;
    assert_eq!(stale.status.code(), Some(4));
    assert!(
        err(&stale).contains("412 The record has changed since version"),
        "{}",
        err(&stale)
    );

    let seen = version(&server).await;
    let delete = with("delete", &["--version", &seen, "--yes", "--reason", "x"]);
    let output = keys(&url, &delete).await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).ends_with("deleted\n"), "{}", out(&output));
    let gone = keys(&url, &with("get", &[])).await;
    assert_eq!(gone.status.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn force_for_an_execution() {
    let server = TestServer::start().await;
    let url = format!("http://{}", server.address);
    granted(
        server
            .client()
            .token(GATEWAY)
            .one(acquire("k", owner()))
            .await,
    );
    let seen = version(&server).await;
    let args = with(
        "resolve",
        &[
            "--to",
            "failed",
            "--version",
            &seen,
            "--yes",
            "--reason",
            "x",
        ],
    );
    let left = keys(&url, &args).await;
    assert_eq!(left.status.code(), Some(4));
    assert!(err(&left).contains("see --force"), "{}", err(&left));
    let forced: Vec<&str> = args.iter().copied().chain(["--force"]).collect();
    let output = keys(&url, &forced).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(out(&output).contains("executing NOW"), "{}", out(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_of_failures() {
    let server = TestServer::start().await;
    let url = format!("http://{}", server.address);
    let mut wrong = binary();
    wrong.args(["keys", "list", "--url", &url, "--token", GATEWAY]);
    let output = tokio::task::spawn_blocking(move || wrong.output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", err(&output));
    // Bound and closed again: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let output = keys(&format!("http://{free}"), &["list"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("cannot connect"), "{}", err(&output));
    for args in [
        &["get"][..],
        &["resolve", "k", "--to", "completed", "--version", "1"],
        &[
            "resolve",
            "k",
            "--to",
            "failed",
            "--version",
            "1",
            "--status",
            "200",
        ],
        &[
            "resolve",
            "k",
            "--to",
            "completed",
            "--version",
            "1",
            "--status",
            "99",
        ],
        &["delete"],
        &["delete", "k", "--state", "unknown"],
        &["delete", "k", "--yes"],
        &["delete", "--state", "unknown", "--version", "1"],
        &["list", "--limit", "0"],
    ] {
        assert_eq!(keys(&url, args).await.status.code(), Some(2), "{args:?}");
    }
    let output = keys("ftp://h", &["list"]).await;
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_may_come_from_the_services_file() {
    let server = TestServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    std::fs::write(&file, format!("# operators\nalice:{OPERATOR}\n")).unwrap();
    let mut command = binary();
    command
        .args([
            "keys",
            "list",
            "--url",
            &format!("http://{}", server.address),
        ])
        .arg("--token-file")
        .arg(&file);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
}

#[test]
fn check_config() {
    let dir = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        let file = dir.path().join("filter.json");
        std::fs::write(&file, text).unwrap();
        binary().arg("check-config").arg(&file).output().unwrap()
    };
    let bad = check(r#"{"rules": [], "colour": "red", "service": {}}"#);
    assert_eq!(bad.status.code(), Some(1));
    let said = err(&bad);
    assert!(said.contains("filter.json:1:15: colour: "), "{said}");
    assert!(said.lines().count() > 1, "one problem per line: {said}");
    assert_eq!(check("{").status.code(), Some(1));
    let absent = binary()
        .args(["check-config", "/none/filter.json"])
        .output()
        .unwrap();
    assert_eq!(absent.status.code(), Some(2));
    let good = check(
        r#"{
            "service": {"target": "idempotency"},
            "rules": [{"match": {"path": "/charges"}, "scope": "global"}]
        }"#,
    );
    assert_eq!(good.status.code(), Some(0), "{}", err(&good));
}

#[test]
fn check_config_of_a_whole_kong() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, text: &str| {
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        binary().arg("check-config").arg(&file).output().unwrap()
    };
    let shipped = include_str!("../../../../kong/kong.yml");
    let good = check("kong.yml", shipped);
    assert_eq!(good.status.code(), Some(0), "{}", err(&good));
    let said = out(&good);
    assert!(
        said.contains("usable, service charges (1 rule), route payments (1 rule)"),
        "{said}"
    );

    let two = shipped
        .replacen("wait_ms: 5000", "wait_ms: -1", 1)
        .replacen("retries: 0", "retries: 5", 1);
    let bad = check("kong.yml", &two);
    assert_eq!(bad.status.code(), Some(1));
    let said = err(&bad);
    assert!(
        said.contains(": service charges: rules[0].wait_ms: "),
        "{said}"
    );
    assert!(
        said.contains(": service charges: retries of service charges"),
        "{said}"
    );
    // Each with its line and column.
    for line in said.lines() {
        let (_, place) = line.split_once("kong.yml:").unwrap();
        let mut numbers = place.split(':').map(str::parse::<usize>);
        assert!(matches!(
            (numbers.next(), numbers.next()),
            (Some(Ok(1..)), Some(Ok(1..)))
        ));
    }
    assert_eq!(said.lines().count(), 2, "{said}");

    for (name, text, wanted) in [
        (
            "envoy.yaml",
            "static_resources: {}",
            "no declarative configuration of Kong",
        ),
        ("kong.yml", "services: [", "kong.yml: "),
        (
            "kong.json",
            r#"{"_format_version": "3.0"}"#,
            "there is no filter or plugin idempotency in it",
        ),
    ] {
        let output = check(name, text);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(err(&output).contains(wanted), "{}", err(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_asks_over_both_sockets() {
    let gate = Gate::new();
    let server = TestServer::on(settings(), gate.clone()).await;
    let unix = format!("unix:{}", server.socket.display());
    let ask = |url: String| async move {
        let mut command = binary();
        command.arg("ready").env("IDEMPOTENCYD_URL", url);
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    };
    let output = ask(format!("http://{}", server.address)).await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let said = out(&ask(unix.clone()).await);
    let sentence = format!("The service at {} is ready.\n", server.socket.display());
    assert_eq!(said, sentence);
    gate.broken.store(true, Ordering::SeqCst);
    let output = ask(unix).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("the disk has left"), "{output:?}");
    let output = ask("unix:/none".into()).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("cannot connect"), "{output:?}");
}

#[test]
fn check_config_takes_several_files_and_standard_input() {
    use std::io::Write;
    use std::process::Stdio;
    let dir = tempfile::tempdir().unwrap();
    let good =
        r#"{"service": {"target": "s"}, "rules": [{"match": {"path": "/x"}, "scope": "global"}]}"#;
    let (one, two) = (dir.path().join("one.json"), dir.path().join("two.json"));
    std::fs::write(&one, good).unwrap();
    std::fs::write(&two, good.replace("scope", "skope")).unwrap();
    let output = binary()
        .arg("check-config")
        .args([&one, &two])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        out(&output).contains("one.json: usable, 1 rule"),
        "{output:?}"
    );
    let said = err(&output);
    assert!(said.contains("two.json:1:"), "{said}");
    assert!(said.contains("did you mean `scope`?"), "{said}");

    let mut child = binary()
        .args(["check-config", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(good.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(out(&output), "standard input: usable, 1 rule\n");
}

#[test]
fn a_variable_that_is_spelt_wrong_is_refused_by_name() {
    for command in ["serve", "ready"] {
        let mut command = {
            let mut binary = binary();
            binary.arg(command);
            binary
        };
        let output = command
            .env("IDEMPOTENCYD_GATEWAY_TOKEN", "secret-of-a-gateway")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = err(&output);
        assert!(
            said.contains("did you mean IDEMPOTENCYD_GATEWAY_TOKENS?"),
            "{said}"
        );
        assert!(!said.contains("secret-of-a-gateway"), "{said}");
    }
    // What Kubernetes injects for a service of this name is no mistake.
    let output = binary()
        .args(["ready", "--url", "unix:/none"])
        .env("IDEMPOTENCYD_SERVICE_HOST", "10.0.0.1")
        .env("IDEMPOTENCYD_PORT", "tcp://10.0.0.1:7480")
        .env("IDEMPOTENCYD_PORT_7480_TCP_ADDR", "10.0.0.1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn all_mistakes_of_a_toml_file_are_told_with_their_places() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("service.toml");
    std::fs::write(
        &file,
        "gateway_token = \"x\"\nmax_wait = 5\nmax_batch = 0\n",
    )
    .unwrap();
    let output = binary()
        .args(["serve", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = err(&output);
    for part in [
        "service.toml: line 1, column 1: gateway_token: there is no such setting; did you mean `gateway_tokens`?",
        "service.toml: line 2, column 12: max_wait: ",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn shells_get_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let output = binary().args(["completions", shell]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let script = out(&output);
        assert!(
            script.contains("check-config") && script.contains("credential-file"),
            "{shell}"
        );
    }
}
