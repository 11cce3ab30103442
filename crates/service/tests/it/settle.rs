//! `POST /v1/settle`.

use crate::support::*;
use idempotency_protocol::{Answer, Outcome};

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
    let fence = execution(&server, "k").await;
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
    let Outcome::Response(response) = stored.outcome else {
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
