//! Random event sequences against the whole filter: whatever clients send, whatever the service
//! and the upstream answer, in whatever order, nothing traps, nothing runs without a grant, every
//! lease is settled in one way, and every client gets at most one answer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use super::fake::{Call, FakeHost, FakeStream, Phase, QUEUE, ROOT};
#[cfg(test)]
use super::random_service::run_all;
use super::random_service::{Answered, Dice, Ledger, Time, BEGIN_MS};
use crate::filter::Filter;
use crate::stream::Flow;
use bytes::Bytes;
use std::collections::BTreeSet;

#[cfg(test)]
const SEQUENCES: u64 = 100_000;
const MS: i64 = 1_000_000;

struct World {
    dice: Dice,
    filter: Filter<FakeHost>,
    next_stream: u32,
    live: Vec<u32>,
    /// Streams whose request has ended.
    whole: BTreeSet<u32>,
    ledger: Ledger,
    time: Time,
    executions: u64,
}

const CONFIG: &str = r#"{
  "service": {"target": "service", "timeout_ms": 1000, "batch": {"max_in_flight": 2, "max_operations": 3}},
  "detached": {"cluster": "execution"},
  "defaults": {"scope": "global", "max_body_bytes": 16, "max_response_bytes": 16},
  "rules": [
    {"match": {"path_prefix": "/inline"}, "execution": "inline", "wait_ms": 1000},
    {"match": {"path_prefix": "/withhold"}, "execution": "inline", "on_complete_failure": "withhold"},
    {"match": {"path_prefix": "/open"}, "execution": "inline", "on_service_failure": "pass"},
    {"match": {"path_prefix": "/detached"}, "wait_ms": 1000},
    {"match": {"path_prefix": "/observe"}, "execution": "inline", "mode": "observe"},
    {"match": {"path_prefix": "/derive"}, "key": {"when_missing": "derive"}},
    {"match": {"path_prefix": "/tenant"}, "scope": {"header": "x-tenant"}},
    {"match": {"path_prefix": "/json"}, "fingerprint": {"body": "json"}}
  ]
}"#;

impl World {
    fn new(dice: Dice, calls_back: bool) -> World {
        let host = FakeHost::default();
        host.now.set(BEGIN_MS * 1_000_000);
        host.queued.set(calls_back.then_some(0));
        *host.configuration.borrow_mut() = CONFIG.into();
        let mut filter = Filter::new(host);
        filter.on_context_create(ROOT, 0);
        assert!(filter.on_configure(ROOT, CONFIG.len()));
        World {
            dice,
            filter,
            next_stream: 10,
            live: Vec::new(),
            whole: BTreeSet::new(),
            ledger: Ledger::default(),
            time: Time::default(),
            executions: 0,
        }
    }

    fn phase(&self, stream: u32) -> Phase {
        self.filter.host().streams.borrow()[&stream].phase
    }

    fn edit<T>(&self, stream: u32, f: impl FnOnce(&mut FakeStream) -> T) -> T {
        f(self
            .filter
            .host()
            .streams
            .borrow_mut()
            .get_mut(&stream)
            .unwrap())
    }

    fn enter(&self, context: u32) {
        self.filter.host().current.set(context);
    }

    /// A callback's verdict on a held request.
    fn request_flow(&mut self, stream: u32, flow: Flow, protected: bool) {
        let phase = self.phase(stream);
        if flow == Flow::Continue && phase == Phase::Request {
            self.edit(stream, |s| {
                s.phase = Phase::Forwarded;
                s.forwarded += u32::from(protected);
            });
        }
    }

    fn open(&mut self) {
        let id = self.next_stream;
        self.next_stream += 1;
        let method = match self.dice.roll(10) {
            0 => *self.dice.pick(&["GET", "PATCH", "\u{7f}\u{80}"]),
            _ => "POST",
        };
        let path = *self.dice.pick(&[
            "/inline",
            "/withhold",
            "/open/x",
            "/detached",
            "/observe",
            "/derive",
            "/tenant",
            "/json",
            "/free",
            "/detached%2Fx",
            "//inline",
            "/%ff%00",
            "",
            "/detached?b=2&a=1",
        ]);
        let mut headers: Vec<(Bytes, Bytes)> = vec![
            (":method".into(), method.into()),
            (":path".into(), path.into()),
            (":authority".into(), "api.example.com".into()),
        ];
        let plain = self.dice.roll(5) != 0;
        if plain {
            headers.push(("idempotency-key".into(), "k1".into()));
            headers.push(("x-tenant".into(), "t1".into()));
        }
        for _ in 0..self.dice.roll(if plain { 2 } else { 6 }) {
            let (name, value): &(&str, &[u8]) = self.dice.pick(&[
                ("idempotency-key", b"k1" as &[u8]),
                ("idempotency-key", b"\"k2\""),
                ("idempotency-key", b"\xff\xfe"),
                ("content-length", b"5"),
                ("content-length", b"99"),
                ("content-type", b"application/json; a=\"b"),
                ("content-type", b"application/grpc"),
                ("x-tenant", b"t1"),
                ("upgrade", b"websocket"),
                ("x-http-method-override", b"POST"),
                ("origin", b"https://\xc3\x28"),
                ("x-envoy-retry-on", b"5xx"),
                ("idempotency-fence", b"1"),
                ("idempotency_record", b"1"),
                ("idempotency_key", b"k3"),
                ("x_http_method_override", b"POST"),
                ("x-original-url", b"/detached"),
                ("connection", b"x, idempotency-key"),
                ("x-bytes", b"\x01\x80\xff"),
            ]);
            headers.push(((*name).into(), Bytes::from(value.to_vec())));
        }
        let stream = FakeStream::request(headers);
        self.filter.host().streams.borrow_mut().insert(id, stream);
        self.live.push(id);
        self.filter.on_context_create(id, ROOT);
        self.enter(id);
        let end = self.dice.roll(4) == 0;
        if end {
            self.whole.insert(id);
        }
        let flow = self.filter.on_request_headers(id, end);
        self.request_flow(id, flow, false);
    }

    fn request_body(&mut self, id: u32) {
        if self.whole.contains(&id) || matches!(self.phase(id), Phase::Replied(_) | Phase::Reset) {
            return;
        }
        let piece = *self
            .dice
            .pick(&[b"{\"a\":1}" as &[u8], b"", b"x", b"{\"a\":1,\"a\":2}"]);
        let end = self.dice.roll(2) == 0;
        let trailers = end && self.dice.roll(4) == 0;
        self.enter(id);
        let held = self.phase(id) == Phase::Request;
        let size = self.edit(id, |s| {
            if !held {
                s.body.clear();
            }
            s.body.extend_from_slice(piece);
            s.body.len()
        });
        let flow = self.filter.on_request_body(id, size, end && !trailers);
        self.request_flow(id, flow, true);
        if end {
            self.whole.insert(id);
        }
        if trailers && self.phase(id) == Phase::Request {
            self.enter(id);
            let flow = self.filter.on_request_trailers(id);
            self.request_flow(id, flow, true);
        }
    }

    fn response(&mut self, id: u32) {
        match self.phase(id) {
            Phase::Forwarded => self.response_headers(id),
            Phase::Response if !self.edit(id, |s| s.response_over) => self.response_body(id),
            _ => {}
        }
    }

    fn response_headers(&mut self, id: u32) {
        let status = *self
            .dice
            .pick(&["200", "201", "204", "401", "500", "503", "abc", "101"]);
        let details: Option<&str> = *self.dice.pick(&[
            Some("via_upstream"),
            Some("via_upstream"),
            Some("via_upstream"),
            Some("no_healthy_upstream"),
            Some("response_timeout"),
            None,
        ]);
        let mut headers: Vec<(Bytes, Bytes)> = vec![(":status".into(), status.into())];
        if self.dice.roll(2) == 0 {
            let length = *self.dice.pick(&["3", "0", "70000", "-1", "x"]);
            headers.push(("content-length".into(), length.into()));
        }
        headers.push(("content-type".into(), Bytes::from_static(b"text/\xff")));
        let end = self.dice.roll(4) == 0;
        self.edit(id, |s| {
            s.response = headers;
            s.details = details.map(Into::into);
            s.phase = Phase::Response;
            s.response_over = end;
        });
        self.enter(id);
        let flow = self.filter.on_response_headers(id, end);
        self.response_flow(id, flow, end);
    }

    fn response_body(&mut self, id: u32) {
        let piece = *self
            .dice
            .pick(&[b"abc" as &[u8], b"", b"0123456789abcdef0"]);
        let end = self.dice.roll(2) == 0;
        let trailers = end && self.dice.roll(4) == 0;
        let size = self.edit(id, |s| {
            s.held.extend_from_slice(piece);
            s.response_over = end;
            s.held.len()
        });
        self.enter(id);
        let flow = self.filter.on_response_body(id, size, end && !trailers);
        self.response_flow(id, flow, end && !trailers);
        if trailers {
            self.enter(id);
            let flow = self.filter.on_response_trailers(id);
            self.response_flow(id, flow, true);
        }
    }

    fn response_flow(&mut self, id: u32, flow: Flow, end: bool) {
        if flow == Flow::Continue && self.phase(id) == Phase::Response {
            self.edit(id, |s| {
                s.held.clear();
                if end {
                    s.phase = Phase::Delivered;
                }
            });
        }
    }

    fn close(&mut self, id: u32) {
        self.enter(id);
        assert!(self.filter.on_done(id));
        let stream = self.filter.host().streams.borrow_mut().remove(&id);
        self.filter.on_delete(id);
        self.live.retain(|s| *s != id);
        self.enter(ROOT);
        let stream = stream.unwrap();
        assert!(stream.forwarded <= 1, "forwarded twice");
        let forged = |name: &[u8], value: &[u8]| {
            name == b"idempotency_record" || (name == b"idempotency-fence" && value == b"1")
        };
        let arrived = !matches!(stream.phase, Phase::Replied(_) | Phase::Reset);
        assert!(
            !(arrived && stream.headers.iter().any(|(n, v)| forged(n, v))),
            "a forged field arrived"
        );
    }

    /// Answers one callout; `well`: as a healthy service would.
    fn answer(&mut self, well: bool) {
        let calls = self.filter.host().calls.borrow().len() as u64;
        if calls == 0 {
            return;
        }
        let at = usize::try_from(self.dice.roll(calls)).unwrap();
        let call = self.filter.host().calls.borrow_mut().remove(at);
        if call.target == "execution" {
            self.executions += 1;
            return self.answer_execution(&call);
        }
        let Answered {
            headers,
            status,
            body,
        } = self
            .ledger
            .answer(&mut self.dice, call.body.clone(), well, true);
        self.deliver(
            &call,
            headers,
            vec![(":status".into(), status.into())],
            body,
        );
    }

    fn deliver(&mut self, call: &Call, count: usize, headers: Vec<(Bytes, Bytes)>, body: Bytes) {
        let size = body.len();
        *self.filter.host().answer.borrow_mut() = (headers, body);
        self.enter(ROOT);
        self.filter.on_callout(ROOT, call.token, count, size, 0);
        self.enter(ROOT);
    }

    /// The host calls back for what was put into the queue.
    fn call_back(&mut self) {
        let host = self.filter.host();
        let Some(queued @ 1..) = host.queued.get() else {
            return;
        };
        host.queued.set(Some(queued - 1));
        self.enter(ROOT);
        self.filter.on_queue_ready(ROOT, QUEUE);
        self.enter(ROOT);
    }

    fn answer_execution(&mut self, call: &Call) {
        let status = *self.dice.pick(&["201", "204", "500", "401"]);
        let mut headers: Vec<(Bytes, Bytes)> = vec![(":status".into(), status.into())];
        match self.dice.roll(4) {
            0 => {}
            1 => headers.push(("x-idempotency-gateway-reply".into(), "no_route".into())),
            _ => headers.push(("x-idempotency-upstream".into(), "1".into())),
        }
        let count = usize::from(self.dice.roll(5) != 0);
        self.deliver(call, count, headers, "charged".into());
    }

    fn step(&mut self) {
        let stream = if self.live.is_empty() {
            None
        } else {
            let live = self.live.clone();
            Some(*self.dice.pick(&live))
        };
        if self.dice.roll(3) == 0 {
            self.call_back();
        }
        match (self.dice.roll(16), stream) {
            (0 | 1, _) if self.live.len() < 3 => self.open(),
            (_, None) => self.open(),
            (0..=3, Some(id)) => self.request_body(id),
            (4..=8, _) => self.answer(false),
            (9..=13, Some(id)) => self.response(id),
            (14, Some(id)) => self.close(id),
            _ => {
                let (ms, times) = self.time.goes_on(&mut self.dice);
                let refuses = self.dice.roll(10) == 0;
                self.filter.host().refuse_calls.set(refuses);
                for _ in 0..times {
                    self.tick(ms);
                }
            }
        }
    }

    fn tick(&mut self, ms: i64) {
        let host = self.filter.host();
        let now = host.now.get().saturating_add_signed(ms * MS);
        host.now.set(now);
        self.enter(ROOT);
        self.filter.on_tick(ROOT);
    }

    /// Everybody leaves, the service is well again: nothing may be left open.
    fn wind_down(&mut self) {
        self.filter.host().refuse_calls.set(false);
        for id in self.live.clone() {
            self.close(id);
        }
        for _ in 0..200 {
            loop {
                self.call_back();
                if self.filter.host().calls.borrow().is_empty() {
                    break;
                }
                self.answer(true);
            }
            self.tick(200);
            if self.filter.host().calls.borrow().is_empty() && self.filter.on_done(ROOT) {
                return;
            }
        }
        panic!("something stays open for ever");
    }
}

/// The same, decided by the bytes of a fuzzer.
///
/// # Panics
///
/// If the filter breaks a rule.
#[cfg(feature = "testing")]
pub fn random_events(bytes: &[u8]) {
    let mut dice = Dice::of_bytes(bytes);
    let calls_back = dice.roll(3) != 0;
    let mut world = World::new(dice, calls_back);
    while !world.dice.is_used_up() {
        world.step();
    }
    world.wind_down();
    world.ledger.check();
}

#[test]
fn nothing_traps_runs_twice_or_stays_open() {
    let [granted, executions, shared] = run_all(SEQUENCES, |seed| {
        // Every third host gives no callbacks.
        let mut world = World::new(Dice::new(seed), !seed.is_multiple_of(3));
        for _ in 0..40 {
            world.step();
        }
        world.wind_down();
        world.ledger.check();
        [
            world.ledger.granted.len() as u64,
            world.executions,
            u64::from(world.ledger.most_together > 1),
        ]
    });
    // The sequences must reach what they are about, though many of the headers are refused.
    assert!(granted > SEQUENCES / 5, "{granted} grants");
    assert!(
        executions > SEQUENCES / 20,
        "{executions} detached executions"
    );
    assert!(shared > SEQUENCES / 100, "{shared} shared callouts");
}
