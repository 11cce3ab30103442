//! Services on Redis: any number of them share one.

use crate::support::child::{binary, Dir};
use crate::support::*;
use idempotency_protocol::Answer;
use idempotency_stack::{Redis, RedisCluster};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::task::JoinSet;

fn service(url: &str) -> Child {
    let args = ["--store", url, "--gateway-token", GATEWAY];
    Child::start(Dir::new(), &args)
}

/// Two services, 64 clients that send every key at the same moment to one of the two.
async fn one_execution_per_key(url: &str) {
    let services = [service(url), service(url)];
    let executions = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
    let mut clients = JoinSet::new();
    for number in 0..64 {
        let client = services[number % 2].gateway();
        let executions = Arc::clone(&executions);
        clients.spawn(async move {
            for round in 0..20 {
                let name = format!("k{round}");
                let me = owner();
                match client.one(acquire(&name, me)).await {
                    Answer::Granted(_) => {
                        *executions.lock().unwrap().entry(name.clone()).or_default() += 1;
                        let done = client.one(complete(&name, me, &name)).await;
                        assert!(matches!(done, Answer::Completed { .. }), "{done:?}");
                    }
                    Answer::InFlight { .. } => {}
                    stored => assert_eq!(replayed(&stored), name.as_bytes()),
                }
            }
        });
    }
    clients.join_all().await;
    let executions = executions.lock().unwrap();
    assert_eq!(executions.len(), 20);
    assert!(executions.values().all(|n| *n == 1), "{executions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_on_one_server_execute_once_per_key() {
    let server = Redis::start(&[]).unwrap();
    one_execution_per_key(&server.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_on_one_cluster_execute_once_per_key() {
    let cluster = RedisCluster::start(&[]).unwrap();
    one_execution_per_key(&cluster.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_turns_red_with_its_server_and_green_again() {
    let mut server = Redis::start(&[]).unwrap();
    let service = service(&server.url());
    let client = service.gateway();
    let status = || async { client.get("/readyz").await.status };
    assert_eq!(status().await, 200);
    server.kill();
    assert_eq!(status().await, 503);
    server.restart().unwrap();
    eventually("ready", || async { status().await == 200 }).await;
}

/// Refused with a message, and before a port is open.
fn refused(url: &str, part: &str) {
    let ready = Dir::new();
    let file = ready.path().join("ready");
    let output = binary()
        .args(["serve", "--listen", "127.0.0.1:0", "--store", url])
        .arg("--ready-file")
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains(part),
        "{url}: {text}"
    );
    assert!(!text.contains("s3cret"), "{text}");
    assert!(!text.contains("listening") && !file.exists(), "{text}");
}

#[test]
fn a_store_that_cannot_work_is_refused() {
    let server = Redis::start(&[]).unwrap();
    let port = server.port();
    refused(
        "redis+ring://u:s3cret@h",
        "store: `redis+ring://` is unknown",
    );
    refused(
        &format!("redis://127.0.0.1:{port}?x=1"),
        "`x` is no setting",
    );
    refused(&format!("redis+cluster://127.0.0.1:{port}"), "say redis://");
    refused(&format!("redis://u:s3cret@127.0.0.1:{port}"), "WRONGPASS");
}
