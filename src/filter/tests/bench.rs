//! A filter in an in-process Envoy, for tests that bring it to one place step by step.

use super::fake::{FakeHost, FakeStream, Phase, QUEUE, ROOT};
use crate::filter::Filter;
use crate::stream::Flow;
use bytes::Bytes;
use idempotency_protocol::*;

/// One call is out at a time: what comes meanwhile waits, and leaves together.
const CONFIG: &str = r#"{
  "service": {"target": "service", "batch": {"max_in_flight": 1}},
  "defaults": {"scope": "global"},
  "rules": [{"match": {"path_prefix": "/charges"}, "execution": "inline"}]
}"#;

pub(super) const MS: u64 = 1_000_000;
/// The period of Envoy's tick.
const TICK_MS: u64 = 50;
/// The time of day when a test begins.
pub(super) const START: u64 = 1_700_000_000_000 * MS;

pub(super) struct Bench(pub Filter<FakeHost>);

fn field(name: &'static str, value: impl Into<Bytes>) -> (Bytes, Bytes) {
    (name.into(), value.into())
}

impl Bench {
    pub fn new() -> Bench {
        let host = FakeHost::default();
        host.now.set(START);
        host.queued.set(Some(0));
        *host.configuration.borrow_mut() = CONFIG.into();
        let mut filter = Filter::new(host);
        filter.on_context_create(ROOT, 0);
        assert!(filter.on_configure(ROOT, CONFIG.len()));
        Bench(filter)
    }

    pub fn host(&self) -> &FakeHost {
        self.0.host()
    }

    /// A request without a body begins; its key is the stream's number.
    pub fn open(&mut self, stream: u32) {
        self.begin(stream, true);
    }

    /// A request whose body has not come yet.
    pub fn open_with_body(&mut self, stream: u32) {
        self.begin(stream, false);
    }

    fn begin(&mut self, stream: u32, end: bool) {
        let headers = vec![
            field(":method", "POST"),
            field(":path", "/charges"),
            field(":authority", "api.example.com"),
            field("idempotency-key", stream.to_string()),
        ];
        let request = FakeStream::request(headers);
        self.host().streams.borrow_mut().insert(stream, request);
        self.0.on_context_create(stream, ROOT);
        self.host().current.set(stream);
        assert_eq!(self.0.on_request_headers(stream, end), Flow::Pause);
    }

    /// Its upstream answers 201 `hello`.
    pub fn respond(&mut self, stream: u32) {
        {
            let mut streams = self.host().streams.borrow_mut();
            let it = streams.get_mut(&stream).expect("a stream");
            assert_eq!(it.phase, Phase::Forwarded);
            it.phase = Phase::Response;
            it.response = vec![field(":status", "201"), field("content-length", "5")];
            it.details = Some("via_upstream".into());
            it.held = b"hello".to_vec();
            it.response_over = true;
        }
        self.host().current.set(stream);
        self.0.on_response_headers(stream, false);
        assert_eq!(self.0.on_response_body(stream, 5, true), Flow::Pause);
    }

    /// Its client leaves.
    pub fn close(&mut self, stream: u32) {
        self.host().current.set(stream);
        assert!(self.0.on_done(stream));
        self.host().streams.borrow_mut().remove(&stream);
        self.0.on_delete(stream);
    }

    pub fn phase(&self, stream: u32) -> Phase {
        self.host().streams.borrow()[&stream].phase
    }

    /// The calls that are out, each with its operations.
    pub fn out(&self) -> Vec<Vec<Operation>> {
        let calls = self.host().calls.borrow();
        let operations = |body: &Bytes| Request::decode(body.clone()).expect("operations").items;
        let calls = calls.iter().map(|call| operations(&call.body));
        calls
            .map(|all| all.into_iter().map(|o| o.expect("an operation")).collect())
            .collect()
    }

    /// The names of the operations that are out.
    pub fn names(&self) -> Vec<&'static str> {
        self.out().iter().flatten().map(Operation::name).collect()
    }

    /// The first call that is out is answered, and the host calls back where it was asked to.
    pub fn answer(&mut self, status: &'static str, body: Bytes) {
        self.told(1, vec![field(":status", status)], body);
    }

    /// The first call that is out has no answer.
    pub fn no_answer(&mut self) {
        self.told(0, Vec::new(), Bytes::new());
    }

    fn told(&mut self, count: usize, headers: Vec<(Bytes, Bytes)>, body: Bytes) {
        let call = self.host().calls.borrow_mut().remove(0);
        let size = body.len();
        *self.host().answer.borrow_mut() = (headers, body);
        self.host().current.set(ROOT);
        self.0.on_callout(ROOT, call.token, count, size, 0);
        self.call_back();
    }

    fn call_back(&mut self) {
        while let Some(queued @ 1..) = self.host().queued.get() {
            self.host().queued.set(Some(queued - 1));
            self.host().current.set(ROOT);
            self.0.on_queue_ready(ROOT, QUEUE);
        }
    }

    pub fn answers(&mut self, answers: Vec<Answer>) {
        self.answer("200", Response { answers }.encode().into());
    }

    pub fn grant(&mut self) {
        self.answers(vec![granted()]);
    }

    /// The host's clock is set.
    pub fn set_clock(&mut self, ms: i64) {
        let now = self.host().now.get();
        let by = ms * i64::try_from(MS).expect("small");
        self.host().now.set(now.saturating_add_signed(by));
    }

    /// Time passes, and the root's tick comes meanwhile.
    pub fn pass(&mut self, ms: u64) {
        for _ in 0..ms / TICK_MS {
            let now = self.host().now.get();
            self.host().now.set(now + TICK_MS * MS);
            self.host().current.set(ROOT);
            self.0.on_tick(ROOT);
            self.call_back();
        }
    }
}

pub(super) fn granted() -> Answer {
    Answer::Granted(Grant {
        fence: 7,
        attempt: 1,
        lease_ms: 60_000,
    })
}
