//! Services on Redis: any number of them share one.

use crate::support::child::Dir;
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
