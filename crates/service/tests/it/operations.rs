//! `POST /v1/operations`.

use crate::support::*;
use bytes::Bytes;
use idempotency_protocol as protocol;
use idempotency_protocol::{
    Answer, Fault, FaultCode, Operation, Outcome, Owner, Request, StoredResponse, CONTENT_TYPE,
    OPERATIONS_PATH,
};
use proptest::prelude::*;
use std::sync::OnceLock;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn first_then_replay_then_mismatch() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let me = owner();
    let grant = granted(gateway.one(acquire("k", me)).await);
    assert_eq!(grant.attempt, 1);
    assert!(matches!(
        gateway.one(acquire("k", owner())).await,
        Answer::InFlight { .. }
    ));
    let completed = gateway.one(complete("k", me, "done\0\u{ff}")).await;
    assert!(
        matches!(completed, Answer::Completed { .. }),
        "{completed:?}"
    );
    let answer = gateway.one(acquire("k", owner())).await;
    assert_eq!(replayed(&answer), "done\0\u{ff}".as_bytes());
    let Operation::Acquire(mut other) = acquire("k", owner()) else {
        unreachable!()
    };
    other.fingerprint = fingerprint(2);
    assert_eq!(
        gateway.one(Operation::Acquire(other)).await,
        Answer::Mismatch
    );
}

#[tokio::test]
async fn answers_have_the_media_type_and_are_not_cached_as_text() {
    let server = TestServer::start().await;
    let body = Request {
        operations: vec![acquire("k", owner())],
    }
    .encode();
    let reply = server
        .client()
        .token(GATEWAY)
        .post(OPERATIONS_PATH, body)
        .await;
    assert_eq!(reply.header("content-type"), Some(protocol::CONTENT_TYPE));
}

#[tokio::test]
async fn large_bodies_are_exact() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let me = owner();
    granted(gateway.one(acquire("k", me)).await);
    let body: String = (0..1 << 20)
        .map(|i| char::from(b'a' + (i % 23) as u8))
        .collect();
    gateway.one(complete("k", me, &body)).await;
    assert_eq!(
        replayed(&gateway.one(acquire("k", owner())).await),
        body.as_bytes()
    );
}

#[tokio::test]
async fn replays_that_swell_a_shared_answer_are_asked_for_alone() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let body = "x".repeat(400 << 10);
    for name in ["a", "b", "c"] {
        let me = owner();
        granted(gateway.one(acquire(name, me)).await);
        gateway.one(complete(name, me, &body)).await;
    }
    let me = owner();
    let third = acquire("c", me);
    let asked = vec![
        acquire("a", owner()),
        acquire("b", owner()),
        third.clone(),
        acquire("new", me),
    ];
    let request = Request { operations: asked }.encode();
    let reply = gateway.post(OPERATIONS_PATH, request).await;
    assert!(reply.body.len() < (1 << 20) + 1024, "{}", reply.body.len());
    let answers = reply.answers();
    assert_eq!(replayed(&answers[0]), body.as_bytes());
    assert_eq!(replayed(&answers[1]), body.as_bytes());
    assert_eq!(answers[2], Answer::AskAlone);
    granted(answers[3].clone());
    assert_eq!(replayed(&gateway.one(third).await), body.as_bytes());
}

/// Encodes operations, some of them replaced by bytes that are no operation.
fn frame(operations: &[Result<Operation, &[u8]>]) -> Vec<u8> {
    let mut out = Request::default().encode();
    out.truncate(3);
    out.extend_from_slice(&(operations.len() as u16).to_be_bytes());
    for operation in operations {
        match operation {
            Ok(operation) => {
                let one = Request {
                    operations: vec![operation.clone()],
                }
                .encode();
                out.extend_from_slice(&one[5..]);
            }
            Err(garbage) => {
                out.push(200);
                out.extend_from_slice(&(garbage.len() as u32).to_be_bytes());
                out.extend_from_slice(garbage);
            }
        }
    }
    out
}

fn invalid(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Fault(Fault {
            code: FaultCode::Invalid,
            ..
        })
    )
}

#[tokio::test]
async fn a_bad_operation_fails_alone() {
    let server = TestServer::start().await;
    let me = owner();
    let bad_status = Operation::Complete(protocol::Complete {
        key: key("a"),
        owner: me,
        outcome: Outcome::Response(StoredResponse {
            status: 99,
            headers: Vec::new(),
            body: Bytes::new(),
        })
        .into(),
    });
    let no_key = acquire("", me);
    let body = frame(&[
        Err(b"\x01\x02"),
        Ok(acquire("a", me)),
        Ok(bad_status),
        Err(b""),
        Ok(no_key),
        Ok(acquire("b", me)),
    ]);
    let answers = server
        .client()
        .token(GATEWAY)
        .post(OPERATIONS_PATH, body)
        .await
        .answers();
    let shape: Vec<bool> = answers.iter().map(invalid).collect();
    assert_eq!(shape, [true, false, true, true, true, false]);
    granted(answers[1].clone());
    granted(answers[5].clone());
    let undecodable = "idempotencyd_operations_total{answer=\"fault\",operation=\"undecodable\"}";
    assert_eq!(server.metric(undecodable).await, 2);
}

#[tokio::test]
async fn broken_frames() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    for body in [
        &b""[..],
        b"\x01",
        b"\x01\x00\x00",
        b"\x02\x00\x01",
        b"\x01\x00\x01\x01\xff\xff\xff\xff",
        b"\x01\xff\xff\x01\x00\x00\x00\x00",
        b"POST / HTTP/1.1\r\n\r\n",
    ] {
        let reply = gateway.post(OPERATIONS_PATH, body).await;
        reply.problem(400, "bad-message");
        gateway
            .post(protocol::WAIT_PATH, body)
            .await
            .problem(400, "bad-message");
    }
    let mut trailing = Request {
        operations: vec![acquire("k", owner())],
    }
    .encode();
    trailing.push(0);
    gateway
        .post(OPERATIONS_PATH, trailing)
        .await
        .problem(400, "bad-message");
}

#[tokio::test]
async fn too_many_and_too_much() {
    let mut settings = settings();
    settings.max_body_bytes = Some("20KiB".parse().unwrap());
    let server = TestServer::with(settings).await;
    let gateway = server.client().token(GATEWAY);
    let operations = |n: usize| (0..n).map(|i| acquire(&format!("k{i}"), owner())).collect();
    assert_eq!(gateway.operate(operations(64)).await.len(), 64);
    let more = Request {
        operations: operations(65),
    }
    .encode();
    gateway
        .post(OPERATIONS_PATH, more)
        .await
        .problem(413, "too-large");
    let big = Request {
        operations: vec![complete("k0", owner(), &"x".repeat(21 << 10))],
    };
    gateway
        .post(OPERATIONS_PATH, big.encode())
        .await
        .problem(413, "too-large");
}

#[tokio::test]
async fn a_client_that_leaves_does_not_cancel_a_complete() {
    let store = Gate::new();
    let server = TestServer::on(settings(), store.clone()).await;
    let gateway = server.client().token(GATEWAY);
    let me = owner();
    granted(gateway.one(acquire("k", me)).await);
    store.shut();
    let body = Request {
        operations: vec![complete("k", me, "kept")],
    }
    .encode();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST {OPERATIONS_PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {GATEWAY}\r\n\
         content-type: {CONTENT_TYPE}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    eventually("the complete is at the store", || async {
        store.arrived() == 2
    })
    .await;
    drop(stream);
    eventually("the server has seen that the client left", || async {
        server.metric("idempotencyd_calls_cut_off_total").await == 1
    })
    .await;
    store.open();
    let gateway = &gateway;
    eventually("the record is complete", || async move {
        matches!(gateway.one(acquire("k", owner())).await, Answer::Stored(_))
    })
    .await;
}

/// One server for all cases of a property; it lives until the process ends.
fn shared() -> &'static (tokio::runtime::Runtime, TestServer) {
    static SERVER: OnceLock<(tokio::runtime::Runtime, TestServer)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let server = runtime.block_on(TestServer::start());
        (runtime, server)
    })
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let frame = Request {
        operations: vec![
            acquire("k", Owner([7; 16])),
            complete("k", Owner([7; 16]), "body"),
            Operation::Fail {
                key: key("k"),
                owner: Owner([7; 16]),
                cause: Default::default(),
            },
        ],
    }
    .encode();
    let length = frame.len();
    (
        prop::collection::vec((0..length, any::<u8>()), 0..6),
        0..=length,
    )
        .prop_map(move |(changes, cut)| {
            let mut frame = frame.clone();
            for (at, byte) in changes {
                frame[at] = byte;
            }
            frame.truncate(cut.max(1));
            frame
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn garbage_is_a_client_error(body in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        mutated(),
    ]) {
        let (runtime, server) = shared();
        let gateway = server.client().token(GATEWAY);
        runtime.block_on(async {
            for path in [OPERATIONS_PATH, protocol::WAIT_PATH] {
                // A wait that decodes would wait; it never holds for these keys' fences.
                let reply = gateway.post(path, body.clone()).await;
                assert!([200, 400, 413].contains(&reply.status), "{}", reply.status);
                if reply.status == 200 {
                    reply.answers();
                }
            }
        });
    }
}
