//! Case 4, and everything else about answers that stream.

use crate::client::{post, read_until, serve, Server};
use crate::common::{eventually, state, stores, Spy};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::post as on_post;
use axum::Router;
use bytes::Bytes;
use http_body::Frame;
use idempotency::http::IdempotencyLayer;
use idempotency::store::{RecordState, Store};
use idempotency::Guard;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// What a test lets the body of an answer do.
enum Step {
    Send(Bytes),
    Trailer,
    Fail,
    Panic,
}

/// A body that does what the test says, when it says it; it ends when the test drops its end.
struct Steps(mpsc::UnboundedReceiver<Step>);

impl http_body::Body for Steps {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx).map(|step| match step? {
            Step::Send(data) => Some(Ok(Frame::data(data))),
            Step::Trailer => {
                let mut trailers = http::HeaderMap::new();
                trailers.insert("x-sum", "1".parse().unwrap());
                Some(Ok(Frame::trailers(trailers)))
            }
            Step::Fail => Some(Err(std::io::Error::other("the test says so"))),
            Step::Panic => panic!("on purpose"),
        })
    }
}

#[derive(Clone)]
struct Source {
    runs: Arc<AtomicU64>,
    steps: Arc<Mutex<Option<mpsc::UnboundedReceiver<Step>>>>,
}

async fn answer(State(source): State<Source>, Path(kind): Path<String>) -> Response {
    source.runs.fetch_add(1, Ordering::SeqCst);
    let steps = source.steps.lock().unwrap().take().expect("one run");
    let response = Response::builder().header("content-type", kind.replacen('-', "/", 1));
    let response = match kind.as_str() {
        "text-known" => response.header("content-length", 100_000),
        _ => response,
    };
    response.body(Body::new(Steps(steps))).unwrap()
}

struct Streaming {
    server: Server,
    runs: Arc<AtomicU64>,
    steps: mpsc::UnboundedSender<Step>,
}

impl Streaming {
    async fn start(layer: IdempotencyLayer) -> Streaming {
        let (steps, receiver) = mpsc::unbounded_channel();
        let source = Source {
            runs: Arc::default(),
            steps: Arc::new(Mutex::new(Some(receiver))),
        };
        let runs = Arc::clone(&source.runs);
        let router = Router::new().route("/{kind}", on_post(answer));
        let server = serve(router.layer(layer).with_state(source)).await;
        Streaming {
            server,
            runs,
            steps,
        }
    }

    fn step(&self, step: Step) {
        assert!(self.steps.send(step).is_ok(), "the body is gone");
    }

    fn send(&self, text: &str) {
        self.step(Step::Send(Bytes::copy_from_slice(text.as_bytes())));
    }
}

fn global(store: &Arc<dyn Store>) -> IdempotencyLayer {
    IdempotencyLayer::new(Guard::new(Arc::clone(store))).global()
}

#[tokio::test]
async fn case_4_events_arrive_while_the_handler_goes_on_and_are_replayed() {
    for (name, store, _dir) in stores() {
        let streaming = Streaming::start(global(&store)).await;
        let mut client = streaming.server.begin("/text-event-stream", "k", "").await;
        streaming.send("data: one\n\n");
        read_until(&mut client, "data: one").await;
        let again = streaming.server.send(post("/text-event-stream", "k", ""));
        assert_eq!(again.await.problem(), "in-flight", "{name}");
        streaming.send("data: two\n\n");
        read_until(&mut client, "data: two").await;
        let Streaming {
            server,
            runs,
            steps,
        } = streaming;
        drop(steps);
        // The end of the chunks.
        read_until(&mut client, "0\r\n\r\n").await;
        let replay = server.send(post("/text-event-stream", "k", "")).await;
        assert!(replay.is_replay(), "{name}: {replay:?}");
        assert_eq!(replay.body, "data: one\n\ndata: two\n\n", "{name}");
        assert_eq!(replay.header("content-type"), Some("text/event-stream"));
        assert_eq!(runs.load(Ordering::SeqCst), 1, "{name}");
    }
}

#[tokio::test]
async fn case_4_an_oversized_answer_streams_whole_and_its_retry_is_not_replayable() {
    for (name, store, _dir) in stores() {
        for kind in ["text-event-stream", "text-plain"] {
            let layer = global(&store).max_response_bytes(1_000);
            let streaming = Streaming::start(layer).await;
            let (path, key) = (format!("/{kind}"), kind);
            let mut client = streaming.server.begin(&path, key, "").await;
            for n in 0..30 {
                streaming.send(&format!("{n:0>100}"));
                read_until(&mut client, &format!("{n:0>100}")).await;
            }
            let Streaming {
                server,
                runs,
                steps,
            } = streaming;
            drop(steps);
            read_until(&mut client, "0\r\n\r\n").await;
            let again = server.send(post(&path, key, "")).await;
            assert_eq!(again.status, 409, "{name} {kind}");
            assert_eq!(again.problem(), "not-replayable", "{name} {kind}");
            assert_eq!(runs.load(Ordering::SeqCst), 1, "{name} {kind}");
        }
    }
}

#[tokio::test]
async fn an_answer_whose_client_leaves_is_copied_to_its_end() {
    for (name, store, _dir) in stores() {
        let streaming = Streaming::start(global(&store)).await;
        let mut client = streaming.server.begin("/text-plain", "k", "").await;
        streaming.send("one ");
        read_until(&mut client, "one ").await;
        drop(client);
        for _ in 0..10 {
            streaming.send("more ");
        }
        let Streaming { server, steps, .. } = streaming;
        drop(steps);
        eventually(name, async || {
            state(store.as_ref()).await == Some(RecordState::Completed)
        })
        .await;
        let replay = server.send(post("/text-plain", "k", "")).await;
        assert_eq!(replay.body, format!("one {}", "more ".repeat(10)), "{name}");
    }
}

/// It might never end.
#[tokio::test]
async fn events_that_nobody_hears_and_nobody_keeps_are_not_waited_for() {
    for (name, store, _dir) in stores() {
        let layer = global(&store).max_response_bytes(100);
        let streaming = Streaming::start(layer).await;
        let mut client = streaming.server.begin("/text-event-stream", "k", "").await;
        streaming.send("data: one\n\n");
        read_until(&mut client, "data: one").await;
        drop(client);
        eventually("the body is dropped", async || {
            let event = Bytes::from_static(b"data: more\n\n");
            streaming.steps.send(Step::Send(event)).is_err()
        })
        .await;
        let path = "/text-event-stream";
        eventually(name, async || {
            let again = streaming.server.send(post(path, "k", "")).await;
            again.problem() == "not-replayable"
        })
        .await;
    }
}

#[tokio::test]
async fn an_answer_that_fails_halfway_is_unknown_and_its_client_sees_the_cut() {
    for (name, store, _dir) in stores() {
        for step in [Step::Fail, Step::Panic] {
            let key = match step {
                Step::Fail => "fails",
                _ => "panics",
            };
            let streaming = Streaming::start(global(&store)).await;
            streaming.send("half");
            streaming.step(step);
            let cut = streaming
                .server
                .try_send(post("/text-plain", key, ""))
                .await;
            assert!(cut.is_err(), "{name} {key}: {cut:?}");
            let again = streaming.server.send(post("/text-plain", key, "")).await;
            assert_eq!(again.problem(), "outcome-unknown", "{name} {key}");
        }
    }
}

#[tokio::test]
async fn an_answer_with_trailers_is_passed_on_and_not_replayable() {
    for (name, store, _dir) in stores() {
        let streaming = Streaming::start(global(&store)).await;
        streaming.send("all");
        streaming.step(Step::Trailer);
        let Streaming { server, steps, .. } = streaming;
        drop(steps);
        let first = server.send(post("/text-plain", "k", "")).await;
        assert_eq!(
            (first.status, &first.body[..]),
            (200, &b"all"[..]),
            "{name}"
        );
        let again = server.send(post("/text-plain", "k", "")).await;
        assert_eq!(again.problem(), "not-replayable", "{name}");
    }
}

/// A client is done when it has the announced length, whatever comes after.
#[tokio::test]
async fn the_last_byte_of_a_known_length_comes_after_the_record() {
    let spy = Spy::memory();
    let store: Arc<dyn Store> = spy.clone();
    let streaming = Streaming::start(global(&store)).await;
    let mut client = streaming.server.begin("/text-known", "k", "").await;
    spy.holds_completes.store(true, Ordering::SeqCst);
    streaming.send(&"-".repeat(99_999));
    let mut received = read_until(&mut client, &"-".repeat(1_000)).await;
    streaming.send("!");
    let Streaming { steps, server, .. } = streaming;
    drop(steps);
    eventually("it is being recorded", async || spy.count("complete") == 1).await;
    let last = read_until(&mut client, "!");
    let early = tokio::time::timeout(Duration::from_millis(200), last).await;
    assert!(early.is_err(), "the end came before the record: {early:?}");
    let again = server.send(post("/text-known", "k", "")).await;
    assert_eq!(again.problem(), "in-flight");
    spy.holds_completes.store(false, Ordering::SeqCst);
    received.push_str(&read_until(&mut client, "!").await);
    assert!(received.ends_with('!'));
    let replay = server.send(post("/text-known", "k", "")).await;
    assert_eq!((replay.is_replay(), replay.body.len()), (true, 100_000));
}

/// The end of one whose length is not known, too.
#[tokio::test]
async fn the_end_of_an_answer_comes_after_the_record() {
    let spy = Spy::memory();
    let store: Arc<dyn Store> = spy.clone();
    let streaming = Streaming::start(global(&store)).await;
    let mut client = streaming.server.begin("/text-event-stream", "k", "").await;
    spy.holds_completes.store(true, Ordering::SeqCst);
    streaming.send("data: all\n\n");
    drop(streaming.steps);
    // Every event comes at once; only the end waits.
    let received = read_until(&mut client, "data: all").await;
    assert!(!received.ends_with("0\r\n\r\n"), "{received}");
    eventually("it is being recorded", async || spy.count("complete") == 1).await;
    let end = read_until(&mut client, "0\r\n\r\n");
    let early = tokio::time::timeout(Duration::from_millis(200), end).await;
    assert!(early.is_err(), "the end came before the record: {early:?}");
    spy.holds_completes.store(false, Ordering::SeqCst);
    read_until(&mut client, "0\r\n\r\n").await;
}
