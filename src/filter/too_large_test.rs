//! An outcome that the service refuses as too large (413) is sent once more, without its bytes.

use super::fake::{FakeHost, FakeStream, Phase, ROOT};
use super::Filter;
use crate::stream::Flow;
use bytes::Bytes;
use idempotency_protocol::*;

const STREAM: u32 = 10;
const CONFIG: &str = r#"{"service": {"target": "service"}, "defaults": {"scope": "global"},
    "rules": [{"match": {"path_prefix": "/charges"}, "execution": "inline"}]}"#;

fn field(name: &'static str, value: &'static str) -> (Bytes, Bytes) {
    (name.into(), value.into())
}

/// The only operation that is out.
fn asked(filter: &Filter<FakeHost>) -> Operation {
    let calls = filter.host().calls.borrow();
    assert_eq!(calls.len(), 1);
    let mut operations = Request::decode(calls[0].body.clone()).unwrap();
    operations.remove(0).unwrap()
}

fn answer(filter: &mut Filter<FakeHost>, status: &'static str, body: Bytes) {
    let call = filter.host().calls.borrow_mut().remove(0);
    let size = body.len();
    *filter.host().answer.borrow_mut() = (vec![field(":status", status)], body);
    filter.host().current.set(ROOT);
    filter.on_callout(ROOT, call.token, 1, size, 0);
}

fn answered(answer: Answer) -> Bytes {
    let answers = vec![answer];
    Response { answers }.encode().into()
}

#[test]
fn it_is_recorded_as_done_without_its_bytes_and_the_client_has_it() {
    let host = FakeHost::default();
    *host.configuration.borrow_mut() = CONFIG.into();
    let mut filter = Filter::new(host);
    filter.on_context_create(ROOT, 0);
    assert!(filter.on_configure(ROOT, CONFIG.len()));
    let stream = FakeStream {
        headers: vec![
            field(":method", "POST"),
            field(":path", "/charges"),
            field(":authority", "api.example.com"),
            field("idempotency-key", "k1"),
        ],
        body: Vec::new(),
        response: vec![field(":status", "201"), field("content-length", "5")],
        details: Some("via_upstream".into()),
        held: b"hello".to_vec(),
        response_over: true,
        phase: Phase::Request,
        forwarded: 0,
    };
    filter.host().streams.borrow_mut().insert(STREAM, stream);
    filter.on_context_create(STREAM, ROOT);
    filter.host().current.set(STREAM);
    assert_eq!(filter.on_request_headers(STREAM, true), Flow::Pause);
    let granted = Answer::Granted(Grant {
        fence: 7,
        attempt: 1,
        lease_ms: 60_000,
    });
    answer(&mut filter, "200", answered(granted));
    let phase = |filter: &Filter<FakeHost>| filter.host().streams.borrow()[&STREAM].phase;
    assert_eq!(phase(&filter), Phase::Forwarded);

    let edit = |filter: &Filter<FakeHost>, phase: Phase| {
        let mut streams = filter.host().streams.borrow_mut();
        streams.get_mut(&STREAM).unwrap().phase = phase;
    };
    edit(&filter, Phase::Response);
    filter.host().current.set(STREAM);
    filter.on_response_headers(STREAM, false);
    assert_eq!(filter.on_response_body(STREAM, 5, true), Flow::Pause);
    let Operation::Complete(first) = asked(&filter) else {
        panic!("no complete");
    };
    assert!(matches!(&first.outcome, Outcome::Response(r) if r.body == "hello"));

    answer(&mut filter, "413", Bytes::new());
    let Operation::Complete(second) = asked(&filter) else {
        panic!("no second complete");
    };
    assert_eq!((&second.key, second.owner), (&first.key, first.owner));
    let tombstone = Tombstone {
        status: 201,
        reason: TombstoneReason::TooLarge,
    };
    assert_eq!(second.outcome, Outcome::Tombstone(tombstone));

    // Refused again: there is nothing left to leave out, and it goes the way of all failures.
    answer(&mut filter, "413", Bytes::new());
    assert_eq!(phase(&filter), Phase::Delivered);
}
