//! The core's table of decisions, walked through the layer.

use crate::common::{eventually, record, Spy};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use idempotency::http::{BoxError, IdempotencyLayer, RequestBody};
use idempotency::store::Store;
use idempotency::Guard;
use idempotency_core::problem::Problem;
use idempotency_core::testing::{Case, CONFIG, DECISIONS};
use std::sync::{Arc, Mutex};
use tower::{Layer, ServiceExt};

type Inner = Request<RequestBody<Full<Bytes>>>;

fn request(case: &Case) -> Request<Full<Bytes>> {
    let mut builder = Request::builder().method(case.method).uri(case.target);
    let authority = case.headers.iter().find(|(name, _)| *name == ":authority");
    let host = authority.map_or("api.example.com", |(_, value)| *value);
    builder = builder.header("host", host);
    for (name, value) in case.headers {
        if *name != ":authority" {
            builder = builder.header(*name, *value);
        }
    }
    builder.body(Full::default()).unwrap()
}

/// What became of it, in the words of the table, and the fields that the handler did not get.
async fn walk(case: &Case) -> (String, Vec<&'static str>) {
    let spy = Spy::memory();
    let store: Arc<dyn Store> = spy.clone();
    let guard = Guard::new(store);
    let seen: Arc<Mutex<Option<Inner>>> = Arc::default();
    let sees = Arc::clone(&seen);
    let handler = tower::service_fn(move |request: Inner| {
        *sees.lock().unwrap() = Some(request);
        async { Ok::<_, BoxError>(Response::new(Full::<Bytes>::default())) }
    });
    let service = IdempotencyLayer::with_rules(guard.clone(), CONFIG).layer(handler);
    let response = service.oneshot(request(case)).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let counts = guard.counts();
    let counted = |prefix: &str| {
        let mut all = Problem::ALL.iter().map(|problem| problem.name());
        all.find(|name| counts[&format!("{prefix}_{}", name.replace('-', "_"))] > 0)
    };
    let seen = seen.lock().unwrap().take();
    if case.becomes.starts_with("protect") {
        // What is only observed is recorded behind the client's back.
        eventually(case.target, async || record(spy.as_ref()).await.is_some()).await;
    }
    let record = record(spy.as_ref()).await;
    let word = match (&seen, counted("problem"), counted("observed"), record) {
        (None, Some(problem), None, None) => {
            assert!(String::from_utf8_lossy(&body).contains(problem), "{case:?}");
            format!("refuse {status} {problem}")
        }
        (Some(_), None, Some(problem), None) => format!("observe {problem}"),
        (Some(_), None, None, None) => "pass".to_owned(),
        (Some(_), None, None, Some(record)) => {
            let key = match record.key.origin {
                idempotency_protocol::Origin::Client => record.key.key.as_str(),
                idempotency_protocol::Origin::Derived => "-",
            };
            match record.key.tenant.as_str() {
                "" => format!("protect {key}"),
                tenant => format!("protect {key} of {tenant}"),
            }
        }
        other => panic!("{case:?}: {other:?}"),
    };
    let stripped = |name: &&&str| {
        seen.as_ref().is_some_and(|request| {
            let sent = case.headers.iter().find(|(n, _)| *n == **name);
            request.headers().get(**name).map(|v| v.as_bytes()) != sent.map(|(_, v)| v.as_bytes())
        })
    };
    (word, case.strip.iter().filter(stripped).copied().collect())
}

#[tokio::test]
async fn every_request_becomes_what_the_table_says() {
    for case in DECISIONS {
        let (word, stripped) = walk(case).await;
        assert_eq!(word, case.becomes, "{case:?}");
        assert_eq!(stripped, case.strip, "{case:?}");
    }
}
