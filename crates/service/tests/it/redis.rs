//! Services on Redis: any number of them share one.

use crate::support::child::{binary, Dir};
use crate::support::*;
use idempotency_stack::Redis;

fn service(url: &str) -> Child {
    let args = ["--store", url, "--gateway-token", GATEWAY];
    Child::start(Dir::new(), &args)
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
