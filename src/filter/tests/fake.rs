//! An in-process Envoy for native tests. It breaks the test where the real one would hang, trap
//! or send something twice, and remembers what was done to each stream.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use crate::host::{Buffer, Host, HostError, HostResult, Level, Map, MetricKind};
use bytes::Bytes;
use idempotency_protocol::{Operation, Request};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

pub const ROOT: u32 = 1;
/// The queue of the root.
pub const QUEUE: u32 = 77;
const NOT_FOUND: HostError = HostError(1);
const BAD_ARGUMENT: HostError = HostError(2);

/// Where a stream stands, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The filter holds the request.
    Request,
    /// The request went upstream.
    Forwarded,
    /// Response headers have come.
    Response,
    /// Somebody answered in place of the upstream.
    Replied(u16),
    /// Cut off by the filter.
    Reset,
    /// Everything went to the client.
    Delivered,
}

#[derive(Debug)]
pub struct FakeStream {
    pub headers: Vec<(Bytes, Bytes)>,
    pub body: Vec<u8>,
    pub response: Vec<(Bytes, Bytes)>,
    pub details: Option<Bytes>,
    /// What of the response body the filter holds.
    pub held: Vec<u8>,
    /// The whole response has passed the filter, but for what it holds.
    pub response_over: bool,
    pub phase: Phase,
    pub forwarded: u32,
    /// What the filter has told of it for the access log.
    pub property: Option<String>,
}

impl FakeStream {
    /// A request that the filter is about to see.
    pub fn request(headers: Vec<(Bytes, Bytes)>) -> FakeStream {
        FakeStream {
            headers,
            body: Vec::new(),
            response: Vec::new(),
            details: None,
            held: Vec::new(),
            response_over: false,
            phase: Phase::Request,
            forwarded: 0,
            property: None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Call {
    pub token: u32,
    pub target: String,
    pub body: Bytes,
}

#[derive(Default)]
pub struct FakeHost {
    pub now: Cell<u64>,
    pub current: Cell<u32>,
    pub streams: RefCell<BTreeMap<u32, FakeStream>>,
    pub calls: RefCell<Vec<Call>>,
    pub answer: RefCell<(Vec<(Bytes, Bytes)>, Bytes)>,
    pub configuration: RefCell<Bytes>,
    pub refuse_calls: Cell<bool>,
    /// Callbacks of the root that were asked for; `None`: a host without queues.
    pub queued: Cell<Option<u32>>,
    /// Takes nothing into the queue any more.
    pub refuse_queue: Cell<bool>,
    /// What was done, in order, where a test asked for it: calls (refused ones, too), replies, resumes, and
    /// counted renewals.
    pub done: RefCell<Option<Vec<String>>>,
    /// The log.
    pub lines: RefCell<Vec<(Level, String)>>,
    metrics: RefCell<Vec<String>>,
    /// What was added to each counter and gauge.
    pub sums: RefCell<BTreeMap<String, i64>>,
    /// How many values each histogram has got.
    pub values: RefCell<BTreeMap<String, u32>>,
    /// How often the clock was looked at.
    pub looks: Cell<u32>,
    next: Cell<u32>,
    random: Cell<u64>,
}

impl FakeHost {
    fn note(&self, what: impl FnOnce() -> String) {
        if let Some(done) = self.done.borrow_mut().as_mut() {
            done.push(what());
        }
    }

    fn stream<T>(&self, f: impl FnOnce(&mut FakeStream) -> T) -> HostResult<T> {
        self.streams
            .borrow_mut()
            .get_mut(&self.current.get())
            .map(f)
            .ok_or(NOT_FOUND)
    }
}

impl Host for FakeHost {
    fn now_ns(&self) -> u64 {
        self.looks.set(self.looks.get() + 1);
        self.now.get()
    }

    fn random(&self, buffer: &mut [u8]) -> HostResult<()> {
        buffer.fill(0);
        for owner in buffer.chunks_mut(16) {
            let n = self.random.get() + 1;
            self.random.set(n);
            for (to, from) in owner.iter_mut().zip(n.to_be_bytes()) {
                *to = from;
            }
        }
        Ok(())
    }

    fn environment(&self, name: &str) -> Option<Bytes> {
        let known = name == "IDEMPOTENCY_TOKEN";
        known.then(|| "a-token-of-the-environment\n".into())
    }

    fn log(&self, level: Level, message: &str) {
        if message.contains("lease") {
            self.note(|| "lost".to_owned());
        }
        self.lines.borrow_mut().push((level, message.to_owned()));
    }

    fn set_context(&self, context: u32) -> HostResult<()> {
        if context != ROOT && !self.streams.borrow().contains_key(&context) {
            return Err(BAD_ARGUMENT);
        }
        self.current.set(context);
        Ok(())
    }

    fn header(&self, map: Map, name: &str) -> HostResult<Option<Bytes>> {
        Ok(self
            .headers(map)?
            .into_iter()
            .find(|(n, _)| n == name.as_bytes())
            .map(|(_, v)| v))
    }

    fn headers(&self, map: Map) -> HostResult<Vec<(Bytes, Bytes)>> {
        match map {
            Map::Request => self.stream(|s| s.headers.clone()),
            Map::Response => self.stream(|s| s.response.clone()),
            Map::RequestTrailers => Ok(vec![("x-trailer".into(), "1".into())]),
            Map::CalloutHeaders => Ok(self.answer.borrow().0.clone()),
        }
    }

    fn set_header(&self, map: Map, name: &[u8], value: &[u8]) -> HostResult<()> {
        assert!(
            !value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)),
            "unsafe header value"
        );
        let name = Bytes::copy_from_slice(name);
        self.stream(|s| {
            let headers = if map == Map::Request {
                &mut s.headers
            } else {
                &mut s.response
            };
            headers.retain(|(n, _)| *n != name);
            headers.push((name, Bytes::copy_from_slice(value)));
        })
    }

    fn add_header(&self, _map: Map, _name: &[u8], _value: &[u8]) -> HostResult<()> {
        panic!("Envoy sends repeated headers as they are");
    }

    fn remove_header(&self, _map: Map, name: &[u8]) -> HostResult<()> {
        self.stream(|s| s.headers.retain(|(n, _)| n != name))
    }

    fn buffer(&self, buffer: Buffer, start: usize, size: usize) -> HostResult<Bytes> {
        let part = |bytes: &[u8]| {
            Bytes::copy_from_slice(
                bytes
                    .get(start..(start + size).min(bytes.len()))
                    .unwrap_or(&[]),
            )
        };
        match buffer {
            Buffer::Request => self.stream(|s| part(&s.body)),
            Buffer::Response => self.stream(|s| part(&s.held)),
            Buffer::Callout => Ok(part(&self.answer.borrow().1)),
            Buffer::Configuration => Ok(part(&self.configuration.borrow())),
        }
    }

    fn prepend_buffer(&self, _: Buffer, _: &[u8]) -> HostResult<()> {
        panic!("Envoy sends bodies as they are");
    }

    fn property(&self, path: &[&str]) -> Option<Bytes> {
        match path {
            ["response", "code_details"] => self.stream(|s| s.details.clone()).ok().flatten(),
            // One attempt: what it proves is tested in `details.rs`.
            ["upstream", "request_attempt_count"] => {
                Some(Bytes::from_static(&[1, 0, 0, 0, 0, 0, 0, 0]))
            }
            _ => panic!("no filter asks for {path:?}"),
        }
    }

    fn set_property(&self, path: &[&str], value: &[u8]) -> HostResult<()> {
        assert_eq!(path, ["idempotency"]);
        let value = String::from_utf8(value.to_vec()).expect("text");
        self.stream(|s| s.property = Some(value))
    }

    fn resume_request(&self) -> HostResult<()> {
        self.note(|| format!("request {}", self.current.get()));
        self.stream(|s| {
            assert_eq!(
                s.phase,
                Phase::Request,
                "resumed a request that is not held"
            );
            s.phase = Phase::Forwarded;
            s.forwarded += 1;
        })
    }

    fn resume_response(&self) -> HostResult<()> {
        self.note(|| format!("response {}", self.current.get()));
        self.stream(|s| {
            assert_eq!(
                s.phase,
                Phase::Response,
                "resumed a response that is not held"
            );
            assert!(
                s.response_over,
                "let a response go before its end was there"
            );
            s.phase = Phase::Delivered;
        })
    }

    fn reset_stream(&self) -> HostResult<()> {
        self.stream(|s| s.phase = Phase::Reset)
    }

    fn local_reply(
        &self,
        status: u16,
        _details: &str,
        headers: &[(Bytes, Bytes)],
        body: &[u8],
    ) -> HostResult<()> {
        assert!((200..=599).contains(&status), "status {status}");
        assert!(
            !matches!(status, 204 | 304) || body.is_empty(),
            "{status} with a body"
        );
        for (name, value) in headers {
            assert!(name.iter().all(|b| b.is_ascii_graphic()), "bad header name");
            assert!(
                !value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)),
                "response splitting"
            );
        }
        self.note(|| format!("reply {status} {}", self.current.get()));
        self.stream(|s| {
            // After a resume the request goes upstream all the same (measured).
            assert!(
                matches!(s.phase, Phase::Request | Phase::Response),
                "replied in phase {:?}",
                s.phase
            );
            s.phase = Phase::Replied(status);
        })
    }

    fn callout(
        &self,
        target: &str,
        headers: &[(Bytes, Bytes)],
        body: &[u8],
        _trailers: &[(Bytes, Bytes)],
        timeout_ms: u64,
    ) -> HostResult<u32> {
        // Whichever context calls, the call is its root's, and so is the answer (measured).
        assert!(
            headers.iter().any(|(n, _)| n == ":authority"),
            "missing :authority"
        );
        assert!(
            timeout_ms > 0,
            "a callout without a timeout can hang for ever"
        );
        self.note(|| match Request::decode(Bytes::copy_from_slice(body)) {
            Ok(received) if target == "service" => {
                let names: Vec<_> = received
                    .items
                    .iter()
                    .flatten()
                    .map(Operation::name)
                    .collect();
                format!("call {}", names.join(" "))
            }
            _ => format!("call {target}"),
        });
        if self.refuse_calls.get() {
            return Err(HostError(10));
        }
        let token = self.next.get() + 1;
        self.next.set(token);
        let call = Call {
            token,
            target: target.to_owned(),
            body: Bytes::copy_from_slice(body),
        };
        self.calls.borrow_mut().push(call);
        Ok(token)
    }

    fn register_queue(&self, _name: &str) -> HostResult<u32> {
        self.queued.get().map(|_| QUEUE).ok_or(BAD_ARGUMENT)
    }

    fn enqueue(&self, queue: u32) -> HostResult<()> {
        assert_eq!(queue, QUEUE);
        if self.refuse_queue.get() {
            return Err(BAD_ARGUMENT);
        }
        let queued = self.queued.get().expect("a queue was registered");
        self.queued.set(Some(queued + 1));
        Ok(())
    }

    fn dequeue(&self, queue: u32) {
        assert_eq!(queue, QUEUE);
    }

    fn set_tick(&self, _period_ms: u32) -> HostResult<()> {
        Ok(())
    }

    fn define_metric(&self, _kind: MetricKind, name: &str) -> HostResult<u32> {
        let mut metrics = self.metrics.borrow_mut();
        metrics.push(name.to_owned());
        Ok(u32::try_from(metrics.len() - 1).unwrap())
    }

    fn increment_metric(&self, id: u32, by: i64) -> HostResult<()> {
        let mut sums = self.sums.borrow_mut();
        let name = self.metrics.borrow()[usize::try_from(id).unwrap()].clone();
        *sums.entry(name).or_default() += by;
        Ok(())
    }

    fn record_metric(&self, id: u32, _value: u64) -> HostResult<()> {
        let mut values = self.values.borrow_mut();
        let name = self.metrics.borrow()[usize::try_from(id).unwrap()].clone();
        *values.entry(name).or_default() += 1;
        Ok(())
    }

    fn done(&self) {}
}
