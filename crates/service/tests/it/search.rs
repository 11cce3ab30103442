//! Operators search, and change what they have found.

use crate::support::child::binary;
use crate::support::*;
use idempotency_protocol::{About, AttemptKind, LookupKey, Operation, Owner};
use serde_json::Value;
use std::process::{Output, Stdio};

/// A record of a tenant that says what it was asked.
async fn record(server: &TestServer, tenant: &str, name: &str, path: &str) -> (LookupKey, Owner) {
    let (me, mut operation) = (owner(), acquire(name, owner()));
    let Operation::Acquire(acquire) = &mut operation else {
        panic!()
    };
    acquire.owner = me;
    acquire.kind = AttemptKind::Gateway;
    acquire.key.tenant = tenant.to_owned();
    acquire.about = Some(std::sync::Arc::new(About {
        method: "POST".into(),
        path: path.into(),
        rule: "pay".into(),
        request_id: format!("request-{name}"),
        ..About::default()
    }));
    let key = acquire.key.clone();
    granted(server.client().token(GATEWAY).one(operation).await);
    (key, me)
}

async fn done(server: &TestServer, tenant: &str, name: &str, body: &str) {
    let (key, me) = record(server, tenant, name, "/charges").await;
    let mut operation = complete(name, me, body);
    if let Operation::Complete(complete) = &mut operation {
        complete.key = key;
    }
    server.client().token(GATEWAY).one(operation).await;
}

async fn doubtful(server: &TestServer, tenant: &str, name: &str) {
    let (key, owner) = record(server, tenant, name, "/charges").await;
    let abandon = Operation::Abandon { key, owner };
    server.client().token(GATEWAY).one(abandon).await;
}

async fn keys(server: &TestServer, args: &[&str]) -> Output {
    let mut command = binary();
    command
        .args(["keys", "--url", &format!("http://{}", server.address)])
        .args(["--token", OPERATOR])
        .args(args)
        .stdin(Stdio::null());
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

async fn found(server: &TestServer, query: &str) -> Vec<String> {
    let operator = server.client().token(OPERATOR);
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = operator.get(&format!("/v1/records?{query}{after}")).await;
        assert_eq!(page.status, 200, "{query}: {:?}", page.body);
        let page = page.json();
        let records = page["records"].as_array().unwrap().iter();
        found.extend(records.map(|r| {
            let text = |field: &str| r[field].as_str().unwrap().to_owned();
            format!("{}/{}", text("tenant"), text("key"))
        }));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return found,
        }
    }
}

#[tokio::test]
async fn records_are_found_over_all_tenants_and_page_by_page() {
    let server = TestServer::start().await;
    done(&server, "a", "k1", "x").await;
    doubtful(&server, "b", "k1").await;
    record(&server, "b", "k2", "/refunds/7").await;
    let log_id = {
        let operator = server.client().token(OPERATOR);
        let page = operator.get("/v1/records?key=k2").await.json();
        page["records"][0]["log_id"].as_str().unwrap().to_owned()
    };
    for (query, expected) in [
        ("key=k1", &["a/k1", "b/k1"][..]),
        ("key=k1&limit=1", &["a/k1", "b/k1"]),
        ("key_prefix=k&limit=2", &["a/k1", "b/k1", "b/k2"]),
        ("key=k1&tenant=b", &["b/k1"]),
        (&format!("log_id={log_id}"), &["b/k2"]),
        ("request_id=request-k2", &["b/k2"]),
        ("q=request-k2", &["b/k2"]),
        ("path=%2Frefunds%2F*", &["b/k2"]),
        ("path=%2Frefunds", &[]),
        ("rule=pay&state=unknown", &["b/k1"]),
        ("state=executing&max_age_ms=60000", &["b/k2"]),
        ("rule=pay&min_age_ms=60000", &[]),
        ("sort=oldest&rule=pay&limit=1", &["a/k1", "b/k1", "b/k2"]),
    ] {
        assert_eq!(found(&server, query).await, expected, "{query}");
    }
    let operator = server.client().token(OPERATOR);
    for query in ["sort=oldest&after=00", "sort=best", "min_age_ms=old"] {
        let answer = operator.get(&format!("/v1/records?{query}")).await;
        answer.problem(400, "bad-request");
    }
    let page = operator.get("/v1/records?sort=newest").await.json();
    let times = page["records"].as_array().unwrap().iter();
    let times: Vec<u64> = times
        .map(|r| r["changed_at_ms"].as_u64().unwrap())
        .collect();
    assert!(
        times.len() == 3 && times.is_sorted_by(|a, b| a >= b),
        "{times:?}"
    );
    let page = operator.get("/v1/records?q=nothing").await.json();
    assert_eq!(page["looked_at"], 3);
}

#[tokio::test]
async fn a_stored_answer_is_shown_to_operators_alone() {
    let server = TestServer::start().await;
    done(&server, "acme", "k", "{\"id\": 7}").await;
    record(&server, "acme", "running", "/charges").await;
    let target = "/v1/record/answer?tenant=acme&namespace=pay&key=";
    let answer = server
        .client()
        .token(OPERATOR)
        .get(&format!("{target}k"))
        .await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(answer["status"], 201);
    assert_eq!(answer["body"], "{\"id\": 7}");
    let running = server
        .client()
        .token(OPERATOR)
        .get(&format!("{target}running"))
        .await;
    running.problem(404, "nothing-stored");
    let gateway = server
        .client()
        .token(GATEWAY)
        .get(&format!("{target}k"))
        .await;
    assert_eq!(gateway.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_finds_and_shows() {
    let server = TestServer::start().await;
    done(&server, "acme", "order-7", "the body").await;
    let output = keys(&server, &["find", "order"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let text = out(&output);
    assert!(
        text.contains("order-7") && text.contains("POST /charges"),
        "{text}"
    );
    let output = keys(&server, &["find", "request-order-7", "-o", "jsonl"]).await;
    let lines: Vec<Value> = out(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["about"]["request_id"], "request-order-7");
    let output = keys(&server, &["find", "nothing"]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(
        out(&output).starts_with("no record matches"),
        "{}",
        out(&output)
    );

    let show = [
        "show",
        "order-7",
        "--tenant",
        "acme",
        "--namespace",
        "pay",
        "--body",
    ];
    let output = keys(&server, &show).await;
    let text = out(&output);
    assert!(text.contains("state       completed"), "{text}");
    assert!(
        text.contains("\nstatus 201\n") && text.ends_with("the body\n"),
        "{text}"
    );
    let json = keys(&server, &[&show[..], &["-o", "json"]].concat()).await;
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["answer"]["body"], "the body");

    // Another tenant's key is no mystery.
    let output = keys(&server, &["show", "order-7"]).await;
    assert_eq!(output.status.code(), Some(3));
    let said = err(&output);
    assert!(said.contains("404 No such key"), "{said}");
    assert!(said.contains("records with this key elsewhere"), "{said}");
    assert!(said.contains("acme"), "{said}");
    let output = keys(&server, &["show", "order-8"]).await;
    assert!(
        err(&output).contains("No other tenant has"),
        "{}",
        err(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_found_by_its_credentials() {
    use idempotency_core::{config::Scope, tenant};
    let server = TestServer::start().await;
    let bytes = bytes::Bytes::from_static;
    let header = (bytes(b"authorization"), bytes(b"Bearer abc"));
    let tenant = tenant::resolve(&Scope::StaticCredentials, &[header], None).unwrap();
    record(&server, &tenant, "k", "/charges").await;
    record(&server, "other", "k", "/charges").await;
    let dir = tempfile::tempdir().unwrap();
    for text in ["Bearer abc\n", "Authorization: bearer abc"] {
        let file = dir.path().join("credentials");
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let output = keys(&server, &["list", "--credential-file", file, "-o", "jsonl"]).await;
        let lines = out(&output);
        assert_eq!(lines.lines().count(), 1, "{lines}");
        assert!(lines.contains(&tenant), "{lines}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_by_query_is_a_dry_run_until_it_is_confirmed_and_audited() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings();
    let audit = dir.path().join("audit.jsonl");
    settings.audit_log = Some(audit.clone());
    let server = TestServer::with(settings).await;
    done(&server, "a", "done", "x").await;
    doubtful(&server, "a", "doubt1").await;
    doubtful(&server, "a", "doubt2").await;
    doubtful(&server, "b", "doubt3").await;
    record(&server, "a", "running", "/charges").await;
    let all = found(&server, "rule=pay").await;

    let query = ["delete", "--tenant", "a"];
    let dry = keys(&server, &[&query[..], &["--dry-run"]].concat()).await;
    assert_eq!(dry.status.code(), Some(0), "{}", err(&dry));
    let said = out(&dry);
    for part in [
        "1 record is COMPLETED: the next request with its key RUNS AGAIN",
        "2 records are in doubt",
        "1 record is executing, and left as it is",
        "this was a dry run",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Nobody sits there, and nobody has said yes.
    let unsure = keys(&server, &query).await;
    assert_eq!(unsure.status.code(), Some(6), "{}", err(&unsure));
    let no_reason = keys(&server, &[&query[..], &["--yes"]].concat()).await;
    assert_eq!(no_reason.status.code(), Some(2), "{}", err(&no_reason));
    let too_many = ["--yes", "--reason", "ticket 7", "--most", "3"];
    let too_many = keys(&server, &[&query[..], &too_many].concat()).await;
    assert_eq!(too_many.status.code(), Some(2), "{}", err(&too_many));
    assert_eq!(found(&server, "rule=pay").await, all);

    let sure = [
        "--state", "unknown", "--yes", "--reason", "ticket 7", "-o", "jsonl",
    ];
    let sure = keys(&server, &[&query[..], &sure].concat()).await;
    assert_eq!(sure.status.code(), Some(0), "{}", err(&sure));
    let results = out(&sure);
    assert_eq!(
        results.matches("\"result\":\"done\"").count(),
        2,
        "{results}"
    );
    assert_eq!(
        found(&server, "rule=pay").await,
        ["a/done", "a/running", "b/doubt3"]
    );
    let lines = std::fs::read_to_string(&audit).unwrap();
    let deleted: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|entry: &Value| entry["action"] == "delete")
        .collect();
    assert_eq!(deleted.len(), 2, "{lines}");
    for entry in deleted {
        assert_eq!(entry["reason"], "ticket 7");
        assert_eq!(entry["tenant"], "a");
        assert!(
            entry["address"].as_str().unwrap().starts_with("127.0.0.1"),
            "{entry}"
        );
        assert_eq!(entry["result"], "done");
    }

    // A tombstone needs no status.
    let resolve = [
        "resolve",
        "--rule",
        "pay",
        "--state",
        "unknown",
        "--to",
        "completed",
    ];
    let sure = ["--tombstone", "--yes", "--reason", "ticket 8"];
    let output = keys(&server, &[&resolve[..], &sure].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let view = server
        .client()
        .token(OPERATOR)
        .get("/v1/records?key=doubt3")
        .await
        .json();
    assert_eq!(view["records"][0]["state"], "completed");
    assert_eq!(view["records"][0]["tombstone"], true);
}
