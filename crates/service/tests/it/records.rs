//! What operators see and do.

use crate::support::*;
use http::Method;
use idempotency_protocol::{Answer, Operation, Outcome};
use serde_json::{json, Value};

const RECORD: &str = "/v1/record?tenant=acme&namespace=pay&key=";

async fn look(server: &TestServer, name: &str) -> Value {
    let reply = server
        .client()
        .token(OPERATOR)
        .get(&format!("{RECORD}{name}"))
        .await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    reply.json()
}

fn resolve(name: &str, version: &Value, to: Value, force: bool) -> Value {
    json!({
        "tenant": "acme", "namespace": "pay", "key": name,
        "version": version, "to": to, "force": force,
    })
}

#[tokio::test]
async fn inspect() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let operator = server.client().token(OPERATOR);
    operator
        .get(&format!("{RECORD}k"))
        .await
        .problem(404, "no-such-key");
    let me = owner();
    let grant = granted(gateway.one(acquire("k", me)).await);
    let record = look(&server, "k").await;
    assert_eq!(record["state"], "executing");
    assert_eq!(record["fence"], grant.fence);
    assert_eq!(record["expires_at_ms"], Value::Null);
    assert!(record["lease_left_ms"].as_u64().unwrap() <= 60_000);
    gateway.one(complete("k", me, "12345")).await;
    let done = look(&server, "k").await;
    for (field, value) in [
        ("tenant", json!("acme")),
        ("namespace", json!("pay")),
        ("origin", json!("client")),
        ("key", json!("k")),
        ("state", json!("completed")),
        ("status", json!(201)),
        ("body_bytes", json!(5)),
        ("tombstone", json!(false)),
        ("attempt", json!(1)),
    ] {
        assert_eq!(done[field], value, "{field}");
    }
    assert_ne!(done["version"], record["version"]);
    assert!(!done.to_string().contains("12345"), "the body is not shown");
    // Another tenant, another origin: other keys.
    let elsewhere = "/v1/record?tenant=other&namespace=pay&key=k";
    operator.get(elsewhere).await.problem(404, "no-such-key");
    let derived = format!("{RECORD}k&origin=derived");
    operator.get(&derived).await.problem(404, "no-such-key");
    operator.get("/v1/record").await.problem(400, "bad-request");
    operator
        .get("/v1/record?key=k&colour=red")
        .await
        .problem(400, "bad-request");
}

#[tokio::test]
async fn list_filters_and_pages() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let operator = server.client().token(OPERATOR);
    for i in 0..7 {
        let me = owner();
        let name = format!("k{i}");
        granted(gateway.one(acquire(&name, me)).await);
        if i % 2 == 0 {
            gateway.one(complete(&name, me, "x")).await;
        }
    }
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = operator
            .get(&format!("/v1/records?limit=3{after}"))
            .await
            .json();
        let records = page["records"].as_array().unwrap();
        assert!(records.len() <= 3);
        seen.extend(
            records
                .iter()
                .map(|r| r["key"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["k0", "k1", "k2", "k3", "k4", "k5", "k6"]);
    let count = |query: &'static str| {
        let operator = operator.clone();
        async move {
            let page = operator.get(&format!("/v1/records?{query}")).await.json();
            page["records"].as_array().unwrap().len()
        }
    };
    assert_eq!(count("state=completed").await, 4);
    assert_eq!(count("state=executing&tenant=acme").await, 3);
    assert_eq!(count("tenant=other").await, 0);
    assert_eq!(count("tenant=acme&namespace=none").await, 0);
    for query in [
        "limit=0",
        "limit=1001",
        "after=xyz",
        "state=lost",
        "colour=red",
    ] {
        operator
            .get(&format!("/v1/records?{query}"))
            .await
            .problem(400, "bad-request");
    }
}

#[tokio::test]
async fn resolve_an_unknown_outcome_to_completed() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let operator = server.client().token(OPERATOR);
    let me = owner();
    granted(gateway.one(acquire("k", me)).await);
    gateway
        .one(Operation::Abandon {
            key: key("k"),
            owner: me,
        })
        .await;
    let record = look(&server, "k").await;
    assert_eq!(record["state"], "unknown");
    let to = json!({
        "state": "completed", "status": 202, "body": "{\"by\":\"hand\"}",
        "headers": [["Content-Type", "application/json"], ["link", "<a>"], ["link", "<b>"]],
    });
    let body = resolve("k", &record["version"], to, false);
    let reply = operator.json("/v1/record/resolve", body.clone()).await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    assert_eq!(reply.json()["state"], "completed");
    let Answer::Stored(stored) = gateway.one(acquire("k", owner())).await else {
        panic!()
    };
    let Outcome::Response(response) = stored.outcome.into_outcome() else {
        panic!()
    };
    assert_eq!(
        (response.status, &response.body[..]),
        (202, &b"{\"by\":\"hand\"}"[..])
    );
    assert_eq!(&response.headers[0].0[..], b"content-type");
    assert_eq!(response.headers.len(), 3);
    // The version was used up.
    let stale = operator.json("/v1/record/resolve", body).await;
    let problem = stale.problem(412, "version-changed");
    assert_eq!(problem["record"]["state"], "completed");
}

#[tokio::test]
async fn resolve_to_failed_and_to_a_tombstone() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let operator = server.client().token(OPERATOR);
    let me = owner();
    granted(gateway.one(acquire("k", me)).await);
    gateway
        .one(Operation::Abandon {
            key: key("k"),
            owner: me,
        })
        .await;
    let version = look(&server, "k").await["version"].clone();
    let failed = resolve("k", &version, json!({"state": "failed"}), false);
    assert_eq!(
        operator.json("/v1/record/resolve", failed).await.status,
        200
    );
    let next = owner();
    assert_eq!(granted(gateway.one(acquire("k", next)).await).attempt, 2);
    gateway
        .one(Operation::Abandon {
            key: key("k"),
            owner: next,
        })
        .await;
    let version = look(&server, "k").await["version"].clone();
    let to = json!({"state": "completed", "status": 200, "tombstone": true});
    let reply = operator
        .json("/v1/record/resolve", resolve("k", &version, to, false))
        .await;
    assert_eq!(reply.json()["tombstone"], true);
}

#[tokio::test]
async fn executing_needs_force() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let operator = server.client().token(OPERATOR);
    granted(gateway.one(acquire("k", owner())).await);
    let version = look(&server, "k").await["version"].clone();
    let failed = json!({"state": "failed"});
    let gentle = resolve("k", &version, failed.clone(), false);
    let problem = operator
        .json("/v1/record/resolve", gentle)
        .await
        .problem(409, "executing");
    assert_eq!(problem["record"]["state"], "executing");
    let delete = format!("{RECORD}k&version={version}");
    operator
        .send(Method::DELETE, &delete, "")
        .await
        .problem(409, "executing");
    let forced = resolve("k", &version, failed, true);
    assert_eq!(
        operator.json("/v1/record/resolve", forced).await.status,
        200
    );
    assert_eq!(look(&server, "k").await["state"], "failed");
}

#[tokio::test]
async fn delete() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let operator = server.client().token(OPERATOR);
    let absent = format!("{RECORD}k&version=1");
    operator
        .send(Method::DELETE, &absent, "")
        .await
        .problem(404, "no-such-key");
    let me = owner();
    granted(gateway.one(acquire("k", me)).await);
    gateway.one(complete("k", me, "x")).await;
    operator
        .send(Method::DELETE, &absent, "")
        .await
        .problem(412, "version-changed");
    let version = look(&server, "k").await["version"].clone();
    let target = format!("{RECORD}k&version={version}");
    let reply = operator.send(Method::DELETE, &target, "").await;
    assert_eq!(
        (reply.status, reply.json()),
        (200, json!({"deleted": true}))
    );
    operator
        .get(&format!("{RECORD}k"))
        .await
        .problem(404, "no-such-key");
    granted(gateway.one(acquire("k", owner())).await);
}

#[tokio::test]
async fn bad_resolutions_name_the_field() {
    let server = TestServer::start().await;
    let operator = server.client().token(OPERATOR);
    let one = json!(1);
    let completed = |rest: Value| {
        let mut to = json!({"state": "completed", "status": 200});
        to.as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        resolve("k", &one, to, false)
    };
    for (body, part) in [
        (json!({"key": "k"}), "version"),
        (
            resolve("k", &json!("1"), json!({"state": "failed"}), false),
            "version",
        ),
        (resolve("k", &one, json!({"state": "unknown"}), false), "to"),
        (resolve("", &one, json!({"state": "failed"}), false), "key"),
        (completed(json!({"status": 99})), "to: a status"),
        (
            completed(json!({"headers": [["set-cookie", "a=b"]]})),
            "set-cookie",
        ),
        (
            completed(json!({"headers": [["a b", "c"]]})),
            "to: a header name",
        ),
        (
            completed(json!({"headers": [["a", "b\r\nc: d"]]})),
            "to: a header value",
        ),
        (
            completed(json!({"tombstone": true, "body": "x"})),
            "tombstone",
        ),
        (completed(json!({"colour": "red"})), "colour"),
    ] {
        let problem = operator.json("/v1/record/resolve", body.clone()).await;
        let problem = problem.problem(400, "bad-request");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(part), "{part} in {detail} for {body}");
    }
    operator
        .post("/v1/record/resolve", "{} {}")
        .await
        .problem(400, "bad-request");
}

#[tokio::test]
async fn reads_and_changes_are_audited() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit");
    let mut settings = settings();
    settings.audit_log = Some(file.clone());
    let server = TestServer::with(settings).await;
    let gateway = server.client().token(GATEWAY);
    let operator = server.client().token(OPERATOR);
    let me = owner();
    granted(gateway.one(acquire("very-secret", me)).await);
    gateway.one(complete("very-secret", me, "x")).await;
    let record = look(&server, "very-secret").await;
    let stale = format!("{RECORD}very-secret&version=1&reason=ticket%2017");
    operator
        .send(Method::DELETE, &stale, "")
        .await
        .problem(412, "version-changed");
    let listed = "/v1/records?tenant=acme&reason=ticket%2018";
    assert_eq!(operator.get(listed).await.status, 200);
    let unix = Client::unix(&server.socket).token(OPERATOR);
    assert_eq!(unix.get("/v1/records").await.status, 200);
    let absent = format!("{RECORD}absent");
    operator.get(&absent).await.problem(404, "no-such-key");
    let target = format!("{RECORD}very-secret&version={}", record["version"]);
    assert_eq!(operator.send(Method::DELETE, &target, "").await.status, 200);
    for bad in ["line%0Abreak".to_owned(), "x".repeat(201)] {
        let target = format!("{RECORD}very-secret&reason={bad}");
        operator.get(&target).await.problem(400, "bad-request");
    }

    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("very-secret"), "{text}");
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let key = &record["log_id"];
    let acme = json!("acme");
    let none = Value::Null;
    let expected = [
        ("inspect", &acme, key, none.clone(), "done"),
        ("delete", &acme, key, json!("ticket 17"), "version-changed"),
        ("list", &acme, &none, json!("ticket 18"), "done"),
        ("list", &none, &none, none.clone(), "done"),
        (
            "inspect",
            &acme,
            &lines[4]["key"],
            none.clone(),
            "no-such-key",
        ),
        ("delete", &acme, key, none.clone(), "done"),
    ];
    assert_eq!(lines.len(), expected.len(), "{text}");
    for (n, (line, (action, tenant, key, reason, result))) in lines.iter().zip(expected).enumerate()
    {
        assert_eq!(line["who"], "alice");
        assert_eq!(line["action"], action, "{line}");
        assert_eq!(&line["tenant"], tenant, "{line}");
        assert_eq!(&line["key"], key, "{line}");
        assert_eq!(line["reason"], reason, "{line}");
        assert_eq!(line["result"], result, "{line}");
        assert!(line["at_ms"].as_u64().unwrap() > 0);
        let address = line["address"].as_str().unwrap();
        if n == 3 {
            assert_eq!(address, "unix");
        } else {
            let address: std::net::SocketAddr = address.parse().unwrap();
            assert!(address.ip().is_loopback());
        }
    }
}
