//! Where a handler runs: with its caller until it first has to wait, and on its own from then on.

use crate::common::{eventually, servers, state};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use idempotency::http::{IdempotencyLayer, RequestBody};
use idempotency::store::RecordState;
use idempotency::Guard;
use std::convert::Infallible;
use std::future::{ready, Future};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;
use tower::{Layer, Service};

type Inner = Request<RequestBody<Full<Bytes>>>;

fn request() -> Request<Full<Bytes>> {
    let request = Request::post("/orders").header("idempotency-key", "k");
    request.body(Full::from("chair")).unwrap()
}

fn created() -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("order 1")))
}

/// No task, no turn of the runtime: the answer is there when it is first asked for.
#[tokio::test]
async fn what_never_waits_is_answered_at_once() {
    let store = servers::memory();
    let layer = IdempotencyLayer::new(Guard::new(Arc::clone(&store))).global();
    let mut service = layer.layer(tower::service_fn(|_: Inner| ready(created())));
    let mut call = pin!(service.call(request()));
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(answer)) = call.as_mut().poll(&mut context) else {
        panic!("it waits");
    };
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().contains_key("idempotency-expires"));
    assert_eq!(state(store.as_ref()).await, Some(RecordState::Completed));
}

/// Its caller goes between the first poll and the second one.
#[tokio::test]
async fn what_has_waited_once_goes_on_without_its_caller() {
    let store = servers::memory();
    let layer = IdempotencyLayer::new(Guard::new(Arc::clone(&store))).global();
    let go_on = Arc::new(Notify::new());
    let of_handler = Arc::clone(&go_on);
    let mut service = layer.layer(tower::service_fn(move |_: Inner| {
        let go_on = Arc::clone(&of_handler);
        async move {
            go_on.notified().await;
            created()
        }
    }));
    {
        let mut call = pin!(service.call(request()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(call.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(state(store.as_ref()).await, Some(RecordState::Executing));
    go_on.notify_one();
    eventually("the answer is recorded", async || {
        state(store.as_ref()).await == Some(RecordState::Completed)
    })
    .await;
}
