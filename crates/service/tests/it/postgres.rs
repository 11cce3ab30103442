//! The real binary on a real PostgreSQL server.

use crate::support::child::{binary, Child, Dir};
use crate::support::*;
use idempotency_stack::{Postgres, PostgresOptions};
use std::time::{Duration, Instant};

fn server() -> Postgres {
    let hba = vec!["host all guarded 127.0.0.1/32 scram-sha-256".to_owned()];
    let options = PostgresOptions {
        hba,
        ..PostgresOptions::default()
    };
    match Postgres::start(options) {
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
fn what_is_wrong_is_said_before_a_port_opens() {
    let server = server();
    server.create_database("bare");
    server.sql("bare", "CREATE ROLE guarded LOGIN PASSWORD 'right'");
    let wrong = server.url("bare").replace("postgres@", "guarded:hunter2@");
    let unused = idempotency_stack::ports::free();
    let absent = format!("postgres://u@127.0.0.1:{unused}/d");
    let port = idempotency_stack::ports::free();
    let listen = format!("127.0.0.1:{port}");
    for (store, code, part) in [
        ("cassandra://x", 2, "`cassandra` is no store of this build"),
        ("postgres://h/d?sslmode=perhaps", 2, "sslmode"),
        (&server.url("nowhere"), 1, "\"nowhere\" does not exist"),
        (&wrong, 1, "password authentication failed"),
        (&absent, 1, "refused"),
        (&server.url("bare"), 1, "run `idempotencyd migrate`"),
    ] {
        let (exit, text) = said(&["serve", "--listen", &listen, "--store", store]);
        assert_eq!(exit, Some(code), "{store}: {text}");
        assert!(text.contains(part), "{store}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
        assert!(!text.contains(&listen), "it listened: {text}");
    }
    let (exit, text) = said(&["migrate", "--store", "embedded"]);
    assert_eq!(exit, Some(2), "{text}");
    let (exit, text) = said(&["migrate", "--store", &server.url("bare")]);
    assert_eq!(exit, Some(0), "{text}");
    assert!(text.contains("from version 0 to 1"), "{text}");
    let (exit, text) = said(&["migrate", "--store", &server.url("bare")]);
    assert_eq!(exit, Some(0), "{text}");
    assert!(text.contains("has version 1"), "{text}");
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
