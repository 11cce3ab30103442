//! What becomes of operations that share a call when that call is too large (413), and of one whose client
//! leaves before the call does.

use super::fake::{FakeHost, FakeStream, Phase, QUEUE, ROOT};
use super::Filter;
use crate::stream::Flow;
use bytes::Bytes;
use idempotency_protocol::*;

/// One call is out at a time: what comes meanwhile waits, and leaves together.
const CONFIG: &str = r#"{
  "service": {"target": "service", "batch": {"max_in_flight": 1}},
  "defaults": {"scope": "global"},
  "rules": [{"match": {"path_prefix": "/charges"}, "execution": "inline"}]
}"#;

struct Bench(Filter<FakeHost>);

fn field(name: &'static str, value: impl Into<Bytes>) -> (Bytes, Bytes) {
    (name.into(), value.into())
}

impl Bench {
    fn new() -> Bench {
        let host = FakeHost::default();
        host.queued.set(Some(0));
        *host.configuration.borrow_mut() = CONFIG.into();
        let mut filter = Filter::new(host);
        filter.on_context_create(ROOT, 0);
        assert!(filter.on_configure(ROOT, CONFIG.len()));
        Bench(filter)
    }

    /// A request without a body begins; its key is the stream's number.
    fn open(&mut self, stream: u32) {
        let headers = vec![
            field(":method", "POST"),
            field(":path", "/charges"),
            field(":authority", "api.example.com"),
            field("idempotency-key", stream.to_string()),
        ];
        let request = FakeStream::request(headers);
        let streams = &self.0.host().streams;
        streams.borrow_mut().insert(stream, request);
        self.0.on_context_create(stream, ROOT);
        self.0.host().current.set(stream);
        assert_eq!(self.0.on_request_headers(stream, true), Flow::Pause);
    }

    /// Its upstream answers 201 `hello`.
    fn respond(&mut self, stream: u32) {
        {
            let mut streams = self.0.host().streams.borrow_mut();
            let it = streams.get_mut(&stream).expect("a stream");
            assert_eq!(it.phase, Phase::Forwarded);
            it.phase = Phase::Response;
            it.response = vec![field(":status", "201"), field("content-length", "5")];
            it.details = Some("via_upstream".into());
            it.held = b"hello".to_vec();
            it.response_over = true;
        }
        self.0.host().current.set(stream);
        self.0.on_response_headers(stream, false);
        assert_eq!(self.0.on_response_body(stream, 5, true), Flow::Pause);
    }

    fn phase(&self, stream: u32) -> Phase {
        self.0.host().streams.borrow()[&stream].phase
    }

    /// The calls that are out, each with its operations.
    fn out(&self) -> Vec<Vec<Operation>> {
        let calls = self.0.host().calls.borrow();
        let operations = |body: &Bytes| Request::decode(body.clone()).expect("operations").items;
        let calls = calls.iter().map(|call| operations(&call.body));
        calls
            .map(|all| all.into_iter().map(|o| o.expect("an operation")).collect())
            .collect()
    }

    /// The first call that is out is answered, and the host calls back where it was asked to.
    fn answer(&mut self, status: &'static str, body: Bytes) {
        let call = self.0.host().calls.borrow_mut().remove(0);
        let size = body.len();
        *self.0.host().answer.borrow_mut() = (vec![field(":status", status)], body);
        self.0.host().current.set(ROOT);
        self.0.on_callout(ROOT, call.token, 1, size, 0);
        while let Some(queued @ 1..) = self.0.host().queued.get() {
            self.0.host().queued.set(Some(queued - 1));
            self.0.host().current.set(ROOT);
            self.0.on_queue_ready(ROOT, QUEUE);
        }
    }

    fn grant(&mut self) {
        let answers = vec![Answer::Granted(Grant {
            fence: 7,
            attempt: 1,
            lease_ms: 60_000,
        })];
        self.answer("200", Response { answers }.encode().into());
    }
}

/// The key and the outcome of each complete.
fn completes(operations: &[Operation]) -> Vec<(&str, &Outcome)> {
    let mut completes = Vec::new();
    for operation in operations {
        let Operation::Complete(complete) = operation else {
            panic!("{operation:?}");
        };
        completes.push((complete.key.key.as_str(), &complete.outcome));
    }
    completes
}

fn is_hello(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Response(response) if response.body == "hello")
}

#[test]
fn alone_and_too_large_it_is_recorded_without_its_bytes_and_the_client_has_it() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.grant();
    bench.respond(10);
    assert!(is_hello(completes(&bench.out()[0])[0].1));

    bench.answer("413", Bytes::new());
    let tombstone = Outcome::Tombstone(Tombstone {
        status: 201,
        reason: TombstoneReason::TooLarge,
    });
    assert_eq!(completes(&bench.out()[0]), [("10", &tombstone)]);

    // Refused again: there is nothing left to leave out, and it goes the way of all failures.
    bench.answer("413", Bytes::new());
    assert_eq!(bench.phase(10), Phase::Delivered);
}

/// A service that takes fewer operations in a call than a gateway sends (`--max-batch`), or fewer bytes than
/// many small answers have together, loses none of them.
#[test]
fn together_too_large_each_is_sent_alone_with_its_bytes() {
    let mut bench = Bench::new();
    for stream in [10, 11] {
        bench.open(stream);
        bench.grant();
    }
    bench.open(12);
    bench.respond(10);
    bench.respond(11);
    bench.grant();
    let out = bench.out();
    assert_eq!(out.len(), 1, "the completes share a call: {out:?}");
    assert_eq!(out[0].len(), 2);

    bench.answer("413", Bytes::new());
    let out = bench.out();
    assert_eq!(out.len(), 2, "{out:?}");
    for (call, key) in out.iter().zip(["10", "11"]) {
        let completes = completes(call);
        assert_eq!(completes.len(), 1);
        assert!(completes[0].0 == key && is_hello(completes[0].1), "{out:?}");
    }
    for _ in 0..2 {
        let answers = vec![Answer::Completed { expires_at_ms: 5 }];
        bench.answer("200", Response { answers }.encode().into());
    }
    assert_eq!([10, 11].map(|s| bench.phase(s)), [Phase::Delivered; 2]);
}

/// Its acquire was never sent, so there is nothing to take back, either.
#[test]
fn a_client_that_leaves_while_its_acquire_waits_is_not_heard_of() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.open(11);
    bench.0.host().current.set(11);
    assert!(bench.0.on_done(11));
    bench.0.host().streams.borrow_mut().remove(&11);
    bench.0.on_delete(11);
    bench.grant();
    assert!(bench.out().is_empty(), "{:?}", bench.out());
    assert_eq!(bench.phase(10), Phase::Forwarded);
}
