//! The real binary on a real PostgreSQL server.

use crate::support::child::{binary, Child, Dir};
use crate::support::*;
use idempotency_stack::{Postgres, PostgresOptions};
use std::time::{Duration, Instant};

fn server() -> Postgres {
    match Postgres::start(PostgresOptions::default()) {
        Ok(server) => server,
        Err(error) => panic!("{error}"),
    }
}

/// Runs it to its end; the exit code and what it said.
fn said(args: &[&str]) -> (Option<i32>, String) {
    let output = binary().args(args).output().unwrap();
    let mut text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stdout));
    (output.status.code(), text)
}

fn start(url: &str, more: &[&str]) -> Child {
    let mut args = vec!["--store", url, "--gateway-token", GATEWAY];
    args.extend(more);
    Child::start(Dir::new(), &args)
}

#[test]
fn the_schema_is_made_once() {
    let server = server();
    server.create_database("bare");
    let (exit, text) = said(&["migrate", "--store", "embedded"]);
    assert_eq!(exit, Some(2), "{text}");
    let (exit, text) = said(&["migrate", "--store", &server.url("bare")]);
    assert_eq!(exit, Some(0), "{text}");
    assert!(text.contains("from version 0 to 4"), "{text}");
    let (exit, text) = said(&["migrate", "--store", &server.url("bare")]);
    assert_eq!(exit, Some(0), "{text}");
    assert!(text.contains("has version 4"), "{text}");
    let child = start(&server.url("bare"), &[]);
    let (status, _) = child.stop();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_server() {
    let server = tokio::task::spawn_blocking(server).await.unwrap();
    server.create_database("shared");
    let child = start(&server.url("shared"), &["--migrate"]);
    let gateway = child.gateway();
    assert_eq!(gateway.get("/readyz").await.status, 200);
    let mut server = server;
    let mut server = tokio::task::spawn_blocking(move || {
        server.crash();
        server
    })
    .await
    .unwrap();
    let reply = gateway.get("/readyz").await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    let _server = tokio::task::spawn_blocking(move || {
        server.start_again().unwrap();
        server
    })
    .await
    .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while gateway.get("/readyz").await.status != 200 {
        assert!(Instant::now() < deadline, "not ready again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
