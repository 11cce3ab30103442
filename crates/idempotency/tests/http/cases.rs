//! The cases that decide, 1 to 8, over TCP where the network matters. (Case 9 needs a process of its own:
//! `tests/sigterm.rs`.)

use crate::client::{post, serve, Answer};
use crate::common::{eventually, state, stores, Spy};
use axum::extract::State;
use axum::http::request::Parts;
use axum::response::IntoResponse;
use axum::routing::{any, post as on_post};
use axum::Router;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use idempotency::http::{Attempt, IdempotencyLayer};
use idempotency::store::{RecordState, Store};
use idempotency::Guard;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceExt};

const LONG: Duration = Duration::from_secs(20);

/// A handler that counts its runs, and waits for leave to go on.
#[derive(Clone)]
pub struct Gate {
    pub runs: Arc<AtomicU64>,
    leave: Arc<Semaphore>,
}

impl Gate {
    pub fn new() -> Gate {
        Gate {
            runs: Arc::default(),
            leave: Arc::new(Semaphore::new(0)),
        }
    }

    pub fn open() -> Gate {
        let gate = Gate::new();
        gate.let_all_go();
        gate
    }

    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }

    pub fn let_all_go(&self) {
        self.leave.add_permits(10_000);
    }

    pub async fn pass(&self) -> u64 {
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        let _leave = self.leave.acquire().await.unwrap();
        run
    }

    pub async fn await_run(&self) {
        eventually("the handler runs", async || self.runs() > 0).await;
    }
}

pub async fn create(State(gate): State<Gate>, attempt: Attempt, body: Bytes) -> impl IntoResponse {
    let run = gate.pass().await;
    let headers = [
        ("location", format!("/orders/{run}")),
        ("x-not-kept", "1".to_owned()),
    ];
    let body = format!("order {run} under fence {}: {body:?}", attempt.fence());
    (StatusCode::CREATED, headers, body)
}

pub fn orders(gate: &Gate, layer: IdempotencyLayer) -> Router {
    let router = Router::new().route("/orders", any(create));
    router.layer(layer).with_state(gate.clone())
}

fn global(store: &Arc<dyn Store>) -> IdempotencyLayer {
    IdempotencyLayer::new(Guard::new(Arc::clone(store))).global()
}

#[tokio::test]
async fn case_1_of_100_concurrent_posts_one_runs_and_the_others_wait_for_its_bytes() {
    for (name, store, _dir) in stores() {
        let gate = Gate::new();
        let server = Arc::new(serve(orders(&gate, global(&store).wait(LONG))).await);
        let clients = (0..100).map(|_| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.send(post("/orders", "k", "chair")).await })
        });
        let clients: Vec<_> = clients.collect();
        gate.await_run().await;
        gate.let_all_go();
        let mut answers: Vec<Answer> = Vec::new();
        for client in clients {
            answers.push(client.await.unwrap());
        }
        assert_eq!(gate.runs(), 1, "{name}");
        let first = answers.iter().position(|a| !a.is_replay());
        let first = answers.swap_remove(first.expect("one is no replay"));
        assert_eq!((first.status, answers.len()), (201, 99), "{name}");
        // Not what is not listed; the rest is what the client of the first one got.
        let mut kept = first.clone();
        assert!(kept.headers.remove("x-not-kept").is_some());
        for answer in answers {
            answer.assert_replays(&kept);
        }
    }
}

#[tokio::test]
async fn case_1_who_does_not_wait_is_told_to_come_again() {
    for (name, store, _dir) in stores() {
        let gate = Gate::new();
        let server = serve(orders(&gate, global(&store))).await;
        let first = server.send(post("/orders", "k", "chair"));
        let rest = async {
            gate.await_run().await;
            for _ in 0..10 {
                let answer = server.send(post("/orders", "k", "chair")).await;
                assert_eq!((answer.status, answer.problem()), (409, "in-flight".into()));
                assert_eq!(answer.header("retry-after"), Some("1"));
            }
            gate.let_all_go();
        };
        let (first, ()) = tokio::join!(first, rest);
        assert_eq!(first.status, 201, "{name}");
        let replay = server.send(post("/orders", "k", "chair")).await;
        assert_eq!(replay.body, first.body, "{name}");
        assert_eq!(gate.runs(), 1, "{name}");
    }
}

#[tokio::test]
async fn case_2_a_client_that_leaves_mid_handler_is_recorded_and_replayed() {
    for (name, store, _dir) in stores() {
        let gate = Gate::new();
        let server = serve(orders(&gate, global(&store).wait(LONG))).await;
        let client = server.begin("/orders", "k", "chair").await;
        gate.await_run().await;
        drop(client);
        // The server has seen that it is gone when a whole other exchange is over.
        assert_eq!(server.send(post("/other", "o", "")).await.status, 404);
        gate.let_all_go();
        let replay = server.send(post("/orders", "k", "chair")).await;
        assert!(replay.is_replay(), "{name}: {replay:?}");
        assert_eq!(replay.status, 201, "{name}");
        assert_eq!(replay.header("location"), Some("/orders/1"), "{name}");
        assert_eq!(gate.runs(), 1, "{name}");
    }
}

#[tokio::test]
async fn case_3_a_panic_is_unknown_and_never_runs_again() {
    async fn panics(State(gate): State<Gate>) -> StatusCode {
        gate.pass().await;
        panic!("on purpose");
    }
    for (name, store, _dir) in stores() {
        let gate = Gate::open();
        let router = Router::new().route("/orders", on_post(panics));
        let router = router.layer(global(&store)).with_state(gate.clone());
        let server = serve(router).await;
        let first = server.send(post("/orders", "k", "")).await;
        assert_eq!(first.status, 502, "{name}");
        assert_eq!(first.problem(), "outcome-unknown", "{name}");
        for _ in 0..3 {
            let again = server.send(post("/orders", "k", "")).await;
            assert_eq!(again.status, 409, "{name}");
            assert_eq!(again.problem(), "outcome-unknown", "{name}");
        }
        assert_eq!(gate.runs(), 1, "{name}");
    }
}

/// An error that no layer knows.
#[derive(Debug, PartialEq, Eq)]
struct Mine(u64);

#[tokio::test]
async fn case_5_an_error_of_the_service_passes_unchanged_and_is_unknown() {
    for (name, store, _dir) in stores() {
        let runs = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&runs);
        let service = tower::service_fn(move |_: Request<_>| {
            let run = counted.fetch_add(1, Ordering::SeqCst) + 1;
            async move { Err::<Response<Full<Bytes>>, Mine>(Mine(run)) }
        });
        let mut service = global(&store).layer(service);
        let mut send = async |key: &str| {
            let service = service.ready().await.unwrap();
            service.call(post("/orders", key, "")).await
        };
        assert_eq!(send("k").await.unwrap_err(), Mine(1), "{name}");
        let again = send("k").await.unwrap();
        assert_eq!(again.status(), StatusCode::CONFLICT, "{name}");
        let body = again.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.contains("outcome-unknown"), "{name}: {body}");
        assert_eq!(send("other").await.unwrap_err(), Mine(2), "{name}");
        assert_eq!(runs.load(Ordering::SeqCst), 2, "{name}");
    }
}

#[derive(Clone)]
struct User(&'static str);

/// The authentication in front: it trusts a header, for the test.
async fn authenticate(
    mut request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    let user = match request.headers().get("x-user").map(|v| v.as_bytes()) {
        Some(b"ann") => Some(User("ann")),
        Some(b"bob") => Some(User("bob")),
        _ => None,
    };
    if let Some(user) = user {
        request.extensions_mut().insert(user);
    }
    next.run(request).await
}

#[tokio::test]
async fn case_6_without_a_tenant_403_and_no_store_call() {
    let spy = Spy::memory();
    let store: Arc<dyn Store> = spy.clone();
    let gate = Gate::open();
    let layer = IdempotencyLayer::new(Guard::new(store))
        .tenant(|parts: &Parts| parts.extensions.get::<User>().map(|user| user.0.to_owned()));
    let router = orders(&gate, layer).layer(axum::middleware::from_fn(authenticate));
    let server = serve(router).await;
    let refused = server.send(post("/orders", "k", "")).await;
    assert_eq!(
        (refused.status, refused.problem()),
        (403, "tenant-missing".into())
    );
    assert_eq!((spy.calls(), gate.runs()), (0, 0));
    let as_user = |user: &'static str| {
        let mut request = post("/orders", "k", "");
        request
            .headers_mut()
            .insert("x-user", user.parse().unwrap());
        server.send(request)
    };
    // One key of two tenants is two keys.
    let (ann, bob) = (as_user("ann").await, as_user("bob").await);
    assert!(!ann.is_replay() && !bob.is_replay());
    assert_ne!(ann.body, bob.body);
    assert_eq!(as_user("ann").await.body, ann.body);
    assert_eq!(gate.runs(), 2);
}

#[tokio::test]
async fn case_7_another_body_is_422_in_flight_too() {
    for (name, store, _dir) in stores() {
        let gate = Gate::new();
        // It would wait, had the body been the same.
        let server = serve(orders(&gate, global(&store).wait(LONG))).await;
        let first = server.send(post("/orders", "k", "chair"));
        let other = async {
            gate.await_run().await;
            let other = server.send(post("/orders", "k", "table")).await;
            assert_eq!(other.status, 422, "{name}");
            assert_eq!(other.problem(), "key-reused", "{name}");
            gate.let_all_go();
        };
        let (first, ()) = tokio::join!(first, other);
        assert_eq!(first.status, 201, "{name}");
        for (path, body) in [("/orders", "table"), ("/orders?a=1", "chair")] {
            let other = server.send(post(path, "k", body)).await;
            assert_eq!(other.problem(), "key-reused", "{name} {path}");
        }
        assert_eq!(gate.runs(), 1, "{name}");
    }
}

#[tokio::test]
async fn case_8_a_handler_that_outlives_its_lease_is_renewed_and_runs_once() {
    for (name, inner, _dir) in stores() {
        let spy = Spy::new(inner);
        let store: Arc<dyn Store> = spy.clone();
        let gate = Gate::new();
        let guard = Guard::new(store).lease(Duration::from_millis(400));
        let server = serve(orders(&gate, IdempotencyLayer::new(guard).global())).await;
        let first = server.send(post("/orders", "k", ""));
        let rest = async {
            gate.await_run().await;
            // From half of the lease on, so this is two leases and a half.
            eventually("five renewals", async || spy.count("extend") >= 5).await;
            let again = server.send(post("/orders", "k", "")).await;
            assert_eq!(again.problem(), "in-flight", "{name}");
            gate.let_all_go();
        };
        let (first, ()) = tokio::join!(first, rest);
        assert_eq!(first.status, 201, "{name}");
        let replay = server.send(post("/orders", "k", "")).await;
        assert_eq!(replay.body, first.body, "{name}");
        assert_eq!(gate.runs(), 1, "{name}");
        assert_eq!(state(spy.as_ref()).await, Some(RecordState::Completed));
    }
}
