//! `POST /v1/settle`.

use crate::support::*;
use idempotency_protocol::{Answer, Complete, OnUnknown, Operation, Outcome, StoredResponse};

async fn execution(server: &TestServer, name: &str) -> u64 {
    granted(
        server
            .client()
            .token(GATEWAY)
            .one(acquire(name, owner()))
            .await,
    )
    .fence
}

fn target(name: &str, fence: u64, rest: &str) -> String {
    format!("/v1/settle?tenant=acme&namespace=pay&key={name}&fence={fence}&{rest}")
}

#[tokio::test]
async fn completed_keeps_body_and_listed_headers() {
    let server = TestServer::start().await;
    // Its gateway has given up: there is nothing to wait for.
    let (gateway, me) = (server.client().token(GATEWAY), owner());
    let fence = granted(gateway.one(acquire("k", me)).await).fence;
    assert_eq!(gateway.one(abandon("k", me)).await, Answer::Abandoned);
    let upstream = server
        .client()
        .token(UPSTREAM)
        .header("content-type", "application/json")
        .header("etag", "\"v1\"")
        .header("link", "</a>; rel=a")
        .header("link", "</b>; rel=b")
        .header("x-request-id", "not stored")
        .header("cookie", "not=stored");
    let body = &b"{\"paid\":true}\0\xff"[..];
    let done = target("k", fence, "outcome=completed&status=201");
    let reply = upstream.post(&done, body).await;
    assert_eq!(reply.status, 200);
    let json = reply.json();
    assert_eq!(json["state"], "completed");
    assert!(json["expires_at_ms"].as_u64().unwrap() > 0);
    // Again with the same outcome: the same answer. With another one: the first stays.
    assert_eq!(upstream.post(&done, body).await.status, 200);
    upstream.post(&done, "other").await.problem(409, "differs");

    let replay = server
        .client()
        .token(GATEWAY)
        .one(acquire("k", owner()))
        .await;
    let Answer::Stored(stored) = replay else {
        panic!("{replay:?}")
    };
    let Outcome::Response(response) = stored.outcome.into_outcome() else {
        panic!("a tombstone")
    };
    assert_eq!((response.status, &response.body[..]), (201, body));
    let headers: Vec<_> = response
        .headers
        .iter()
        .map(|(n, v)| {
            (
                std::str::from_utf8(n).unwrap(),
                std::str::from_utf8(v).unwrap(),
            )
        })
        .collect();
    assert_eq!(
        headers,
        [
            ("content-type", "application/json"),
            ("etag", "\"v1\""),
            ("link", "</a>; rel=a"),
            ("link", "</b>; rel=b"),
        ]
    );
}

/// While the gateway still answers its client, a duplicate waits for that answer's bytes.
#[tokio::test]
async fn the_gateway_attaches_what_its_client_got() {
    let server = TestServer::start().await;
    let (gateway, me) = (server.client().token(GATEWAY), owner());
    let fence = granted(gateway.one(acquire("k", me)).await).fence;
    let done = target("k", fence, "outcome=completed&status=201");
    let upstream = server.client().token(UPSTREAM);
    assert_eq!(upstream.post(&done, "the upstream's").await.status, 200);
    let duplicate = gateway.one(acquire("k", owner())).await;
    assert!(
        matches!(duplicate, Answer::InFlight { .. }),
        "{duplicate:?}"
    );
    let complete = Operation::Complete(Complete {
        key: key("k"),
        owner: me,
        outcome: Outcome::Response(StoredResponse {
            status: 201,
            headers: Vec::new(),
            body: "the client's".into(),
        })
        .into(),
    });
    let completed = gateway.one(complete).await;
    assert!(
        matches!(completed, Answer::Completed { .. }),
        "{completed:?}"
    );
    let replay = gateway.one(acquire("k", owner())).await;
    assert_eq!(replayed(&replay), b"the client's");
}

/// What one attempt proves of itself, it does not prove of the one before.
#[tokio::test]
async fn failed_leaves_a_doubtful_record_unknown() {
    let server = TestServer::start().await;
    let (gateway, first, second) = (server.client().token(GATEWAY), owner(), owner());
    granted(gateway.one(acquire("k", first)).await);
    assert_eq!(gateway.one(abandon("k", first)).await, Answer::Abandoned);
    let Operation::Acquire(mut again) = acquire("k", second) else {
        unreachable!()
    };
    again.on_unknown = OnUnknown::Retry;
    let fence = granted(gateway.one(Operation::Acquire(again)).await).fence;
    let failed = target("k", fence, "outcome=failed");
    let reply = server.client().token(UPSTREAM).post(&failed, "").await;
    assert_eq!(
        (reply.status, reply.json()["state"].as_str()),
        (200, Some("unknown"))
    );
}

#[tokio::test]
async fn failed_frees_the_key() {
    let server = TestServer::start().await;
    let fence = execution(&server, "k").await;
    let upstream = server.client().token(UPSTREAM);
    let reply = upstream
        .post(&target("k", fence, "outcome=failed"), "")
        .await;
    assert_eq!(
        (reply.status, reply.json()["state"].as_str()),
        (200, Some("failed"))
    );
    let again = granted(
        server
            .client()
            .token(GATEWAY)
            .one(acquire("k", owner()))
            .await,
    );
    assert_eq!(again.attempt, 2);
    // The old fence settles nothing any more.
    let late = target("k", fence, "outcome=completed&status=200");
    upstream.post(&late, "").await.problem(409, "lost");
}

#[tokio::test]
async fn bad_parameters() {
    let server = TestServer::start().await;
    let upstream = server.client().token(UPSTREAM);
    for rest in [
        "outcome=completed",
        "outcome=completed&status=99",
        "outcome=completed&status=600",
        "outcome=failed&status=200",
        "outcome=maybe",
        "outcome=failed&fence=again",
        "outcome=failed&unknown=1",
        "outcome=failed&origin=other",
        "",
    ] {
        upstream
            .post(&target("k", 1, rest), "")
            .await
            .problem(400, "bad-request");
    }
    upstream
        .post("/v1/settle?fence=1&outcome=failed", "")
        .await
        .problem(400, "bad-request");
    let empty = "/v1/settle?key=&fence=1&outcome=failed";
    upstream.post(empty, "").await.problem(400, "bad-request");
    let long = format!("/v1/settle?key={}&fence=1&outcome=failed", "k".repeat(256));
    upstream.post(&long, "").await.problem(400, "bad-request");
    let absent = upstream
        .post(&target("absent", 1, "outcome=failed"), "")
        .await;
    absent.problem(409, "lost");
}
