//! TLS, with a certificate of this test's own.

use crate::common::{completed, granted};
use crate::support::{open, options, until_ready};
use idempotency_stack::{ports, Redis};
use idempotency_store::{RedisStore, Store, StoreError};
use std::path::Path;
use std::process::Command;

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments}: {output:?}");
}

/// An authority, and a certificate of it for localhost.
fn certificates(dir: &Path) {
    std::fs::write(
        dir.join("san"),
        "subjectAltName=DNS:localhost,IP:127.0.0.1\n",
    )
    .unwrap();
    openssl(
        dir,
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=test-ca",
    );
    openssl(
        dir,
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
    );
    openssl(
        dir,
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -extfile san",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_with_a_certificate_each() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name).display().to_string();
    let port = ports::free();
    let server = Redis::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("server.crt"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-ca-cert-file",
        &file("ca.crt"),
    ])
    .unwrap();
    let ours = format!("cert={}&key={}", file("server.crt"), file("server.key"));
    let ca = format!("ca={}", file("ca.crt"));
    let url = |query: &str| format!("rediss://localhost:{port}?{query}");

    let store = open(&url(&format!("{ca}&{ours}"))).await;
    until_ready(&store).await;
    granted(&*store, "k", 1).await;
    completed(&*store, "k", 1, b"x").await;

    // Without ours the server refuses, without its own authority we do.
    for query in [ca.as_str(), ours.as_str()] {
        let store = RedisStore::open(options(&url(query))).await;
        let refused = match store {
            Ok(store) => store.ready().await.is_err(),
            Err(error) => matches!(error, StoreError::Permanent(_)),
        };
        assert!(refused, "{query}");
    }
    drop(server);
}
