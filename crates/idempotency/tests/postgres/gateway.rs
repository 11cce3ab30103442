//! A gateway, and behind it an upstream that settles in its own transaction: Envoy with the filter, the service on
//! PostgreSQL, and an HTTP service as its author writes it.

use crate::server::{connect, order, outcome, Database};
use axum::http::HeaderMap;
use axum::routing::post;
use axum::Router;
use idempotency::postgres::record_from;
use idempotency::store::Memory;
use idempotency::Guard;
use idempotency_stack::{charges_rule, http, Backend, Stack};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::block_in_place;

struct Upstream {
    address: SocketAddr,
    runs: Arc<AtomicU32>,
    /// What it answers waits for a permit; the transaction is committed before.
    answers: Arc<Semaphore>,
}

impl Upstream {
    async fn start(database: &Database) -> Upstream {
        let (url, runs) = (database.url.clone(), Arc::new(AtomicU32::new(0)));
        let answers = Arc::new(Semaphore::new(0));
        let (counted, may_answer) = (Arc::clone(&runs), Arc::clone(&answers));
        // It asks no store for anything: the gateway holds the key.
        let guard = Guard::new(Arc::new(Memory::default())).transactions_in("public");
        let charge = move |headers: HeaderMap| {
            let (guard, url) = (guard.clone(), url.clone());
            let (runs, may_answer) = (Arc::clone(&counted), Arc::clone(&may_answer));
            async move {
                let record = record_from(&headers).unwrap();
                let key = headers["idempotency-key"].to_str().unwrap();
                let mut client = connect(&url).await;
                let mut tx = client.transaction().await.unwrap();
                order(&tx, key).await;
                let settled = outcome("as it was settled");
                guard
                    .settle_in_tx(&mut tx, &record, &settled)
                    .await
                    .unwrap();
                tx.commit().await.unwrap();
                let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
                may_answer.acquire().await.unwrap().forget();
                let text = format!("answer {run}");
                (
                    axum::http::StatusCode::CREATED,
                    [("location", format!("/charges/{run}"))],
                    text,
                )
            }
        };
        let app = Router::new().route("/charges", post(charge));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Upstream {
            address,
            runs,
            answers,
        }
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }

    /// A gateway in front of it whose leases last that long.
    fn behind(&self, database: &Database, lease_ms: u64) -> Stack {
        let mut rule = charges_rule();
        for (name, value) in [
            ("lease_ms", json!(lease_ms)),
            ("execution_timeout_ms", json!(lease_ms / 2)),
            ("wait_ms", json!(100)),
        ] {
            rule[name] = value;
        }
        let (backend, upstream) = (Backend::Named(database.url.clone()), self.address);
        block_in_place(|| {
            Stack::builder()
                .service(|service| service.backend = backend)
                .gateway(move |gateway| gateway.upstream = upstream)
                .rules(json!([rule]))
                .start()
        })
    }
}

fn charge(stack: &Stack, key: &str) -> std::io::Result<http::Answer> {
    let request = http::Request::post("/charges").header("Idempotency-Key", key);
    block_in_place(|| request.body("{}").send(stack.address()))
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_gateway_the_client_gets_the_same_bytes_again() {
    let database = Database::new().await;
    let upstream = Upstream::start(&database).await;
    let stack = upstream.behind(&database, 30_000);
    upstream.answers.add_permits(1);
    let first = charge(&stack, "k").unwrap();
    assert_eq!((first.status, first.text().as_str()), (201, "answer 1"));
    // What the client got, and not what the transaction settled, a moment before.
    let again = charge(&stack, "k").unwrap();
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.status, first.status);
    assert_eq!(again.body, first.body);
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(upstream.runs(), 1);
    assert_eq!(database.orders("k").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_gateway_that_is_killed_the_settled_outcome_is_replayed() {
    let database = Database::new().await;
    let upstream = Upstream::start(&database).await;
    let mut stack = upstream.behind(&database, 4_000);
    let address = stack.address();
    let client = std::thread::spawn(move || {
        let request = http::Request::post("/charges").header("Idempotency-Key", "k");
        request.body("{}").send(address)
    });
    crate::common::eventually("it is committed", async || upstream.runs() == 1).await;
    block_in_place(|| stack.gateway.kill());
    // It has no answer of the upstream's.
    drop(block_in_place(|| client.join().unwrap()));
    upstream.answers.add_permits(1);
    block_in_place(|| stack.gateway.restart()).unwrap();
    // Its bytes might still come until its lease is over.
    let mut late = None;
    crate::common::eventually("its lease is over", async || {
        let answer = charge(&stack, "k").unwrap();
        let is_over = answer.status != 409;
        late = Some(answer);
        is_over
    })
    .await;
    let late = late.unwrap();
    assert_eq!(late.header("idempotency-replayed"), Some("true"));
    assert_eq!(
        (late.status, late.text().as_str()),
        (201, "\"as it was settled\"")
    );
    assert_eq!(late.header("content-type"), Some("application/json"));
    assert_eq!(upstream.runs(), 1);
    assert_eq!(database.orders("k").await, 1);
}
