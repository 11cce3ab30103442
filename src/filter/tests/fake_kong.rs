//! An in-process Kong for native tests: nginx's life of a request, with the host's rules behind
//! every hostcall. A broken rule fails the test where the real host would trap, hang or crash.

use crate::host::{Buffer, Host, HostError, HostResult, Level, Map, MetricKind};
use crate::stream::Flow;
use crate::testing::kong_reply;
use crate::testing::kong_rules::{Hostcall, KongRules, Step, Verdict};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Kong's roots are numbered by a hash.
pub const ROOT: u32 = 1_406_752_003;
const NOT_FOUND: HostError = HostError(1);
const FAILED: HostError = HostError(10);

type Fields = Vec<(Bytes, Bytes)>;

/// Our own answer, as the filter gave it.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub details: String,
    pub headers: Fields,
}

#[derive(Debug, Default)]
pub struct FakeStream {
    pub method: Bytes,
    pub raw_path: Bytes,
    /// As the client sent them, names in any case.
    pub headers: Fields,
    pub body: Vec<u8>,
    /// The body went to disk.
    pub spilled: bool,
    /// Nobody has read the body yet.
    pub unread: bool,
    /// Response headers on their way to the client.
    pub response: Fields,
    /// The piece of the response body that is passing.
    pub piece: Vec<u8>,
    /// nginx's variables.
    pub variables: BTreeMap<&'static str, Bytes>,
    pub reply: Option<Reply>,
}

#[derive(Clone, Debug)]
pub struct Call {
    pub token: u32,
    pub body: Bytes,
    pub timeout_ms: u64,
    /// The stream that waits for it; `None`: a root.
    pub stream: Option<u32>,
    pub sent_ns: u64,
}

#[derive(Default)]
pub struct FakeKong {
    pub now: Cell<u64>,
    pub rules: RefCell<KongRules>,
    /// The stream whose callback is running.
    pub current: Cell<Option<u32>>,
    pub streams: RefCell<BTreeMap<u32, FakeStream>>,
    pub calls: RefCell<Vec<Call>>,
    pub answer: RefCell<(Fields, Bytes)>,
    /// Why the callout whose answer is told has none.
    pub dispatch_status: Cell<&'static str>,
    pub configuration: RefCell<Bytes>,
    pub errors: RefCell<Vec<String>>,
    next: Cell<u32>,
    metrics: RefCell<Vec<MetricKind>>,
}

impl FakeKong {
    /// A callback begins.
    pub fn begin(&self, step: Step, stream: Option<u32>) {
        self.current.set(stream);
        self.rules.borrow_mut().begin(step, stream);
    }

    /// It has returned.
    pub fn end(&self, flow: Flow) -> Verdict {
        let verdict = self.rules.borrow_mut().end(flow);
        verdict.unwrap_or_else(|broken| panic!("{broken}"))
    }

    fn judge(&self, call: Hostcall) {
        if let Err(broken) = self.rules.borrow_mut().call(call) {
            panic!("{broken}");
        }
    }

    fn stream<T>(&self, f: impl FnOnce(&mut FakeStream) -> T) -> HostResult<T> {
        let mut streams = self.streams.borrow_mut();
        let stream = self.current.get().and_then(|id| streams.get_mut(&id));
        stream.map(f).ok_or(NOT_FOUND)
    }

    fn map(&self, map: Map) -> HostResult<Fields> {
        match map {
            Map::Request => self.stream(|s| {
                let pseudo: [(Bytes, Bytes); 3] = [
                    // Decoded and normalised: of no use.
                    (":path".into(), "/decoded".into()),
                    (":method".into(), s.method.clone()),
                    (":authority".into(), "node-7".into()),
                ];
                kong_reply::map(&pseudo, &s.headers)
            }),
            Map::Response => self.stream(|s| kong_reply::map(&[], &s.response)),
            Map::CalloutHeaders => Ok(self.answer.borrow().0.clone()),
            Map::RequestTrailers => Err(NOT_FOUND),
        }
    }

    fn edit_headers(&self, map: Map, f: impl FnOnce(&mut Fields)) -> HostResult<()> {
        self.judge(Hostcall::WriteHeaders(map));
        self.stream(|s| {
            f(if map == Map::Request {
                &mut s.headers
            } else {
                &mut s.response
            })
        })
    }
}

impl Host for FakeKong {
    fn now_ns(&self) -> u64 {
        self.now.get()
    }

    fn random(&self, buffer: &mut [u8]) -> HostResult<()> {
        buffer.fill(0);
        for owner in buffer.chunks_mut(16) {
            let n = self.next.get() + 1;
            self.next.set(n);
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
        if level == Level::Error {
            self.errors.borrow_mut().push(message.to_owned());
        }
    }

    /// Does nothing, and says that all is well.
    fn set_context(&self, _context: u32) -> HostResult<()> {
        Ok(())
    }

    fn header(&self, map: Map, name: &str) -> HostResult<Option<Bytes>> {
        if name == ":dispatch_status" {
            self.judge(Hostcall::DispatchStatus);
            return Ok(Some(self.dispatch_status.get().into()));
        }
        self.judge(Hostcall::ReadHeaders(map));
        let fields = self.map(map)?;
        let found = fields
            .into_iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()));
        Ok(found.map(|(_, v)| v))
    }

    fn headers(&self, map: Map) -> HostResult<Fields> {
        self.judge(Hostcall::ReadHeaders(map));
        self.map(map)
    }

    fn set_header(&self, map: Map, name: &[u8], value: &[u8]) -> HostResult<()> {
        assert!(
            !value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)),
            "unsafe header value"
        );
        let named = |(n, _): &&(Bytes, Bytes)| n.eq_ignore_ascii_case(name);
        if self.headers(map)?.iter().filter(named).count() > 1 {
            self.judge(Hostcall::SetRepeated(map));
        }
        self.edit_headers(map, |fields| kong_reply::set(fields, name, value))
    }

    fn add_header(&self, map: Map, name: &[u8], value: &[u8]) -> HostResult<()> {
        let field = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        self.edit_headers(map, |fields| fields.push(field))
    }

    fn remove_header(&self, map: Map, name: &[u8]) -> HostResult<()> {
        self.judge(Hostcall::RemoveHeader(map));
        self.edit_headers(map, |fields| {
            fields.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        })
    }

    fn buffer(&self, buffer: Buffer, start: usize, size: usize) -> HostResult<Bytes> {
        self.judge(Hostcall::ReadBuffer(buffer, start, size));
        match buffer {
            Buffer::Request => self.stream(|s| {
                if s.spilled || s.unread {
                    return Err(NOT_FOUND);
                }
                Ok(Bytes::copy_from_slice(&s.body))
            })?,
            Buffer::Response => self.stream(|s| Bytes::copy_from_slice(&s.piece)),
            Buffer::Callout => Ok(self.answer.borrow().1.clone()),
            Buffer::Configuration => Ok(self.configuration.borrow().clone()),
        }
    }

    fn prepend_buffer(&self, buffer: Buffer, bytes: &[u8]) -> HostResult<()> {
        self.judge(Hostcall::PrependBuffer(buffer));
        self.stream(|s| s.piece.splice(0..0, bytes.iter().copied()).for_each(drop))
    }

    fn property(&self, path: &[&str]) -> Option<Bytes> {
        self.judge(Hostcall::Property(path));
        let name = path.join(".");
        self.stream(|s| match name.as_str() {
            "ngx.request_uri" => Some(s.raw_path.clone()),
            _ => s.variables.get(name.as_str()).cloned(),
        })
        .ok()
        .flatten()
    }

    fn set_property(&self, path: &[&str], value: &[u8]) -> HostResult<()> {
        self.judge(Hostcall::SetProperty(path));
        assert_eq!(path, ["ngx", "idempotency"]);
        let value = Bytes::copy_from_slice(value);
        self.stream(|s| drop(s.variables.insert("ngx.idempotency", value)))
    }

    fn resume_request(&self) -> HostResult<()> {
        self.judge(Hostcall::Resume);
        Ok(())
    }

    fn resume_response(&self) -> HostResult<()> {
        panic!("there is no response to resume");
    }

    fn reset_stream(&self) -> HostResult<()> {
        self.judge(Hostcall::Reset);
        Ok(())
    }

    fn local_reply(
        &self,
        status: u16,
        details: &str,
        headers: &[(Bytes, Bytes)],
        body: &[u8],
    ) -> HostResult<()> {
        self.judge(Hostcall::LocalReply(status, body.len()));
        assert!((200..=599).contains(&status), "status {status}");
        for (name, value) in headers {
            assert!(name.iter().all(|b| b.is_ascii_graphic()), "bad header name");
            assert!(
                !value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)),
                "response splitting"
            );
        }
        // The host cancels what the stream still asked.
        let rules = self.rules.borrow();
        self.calls
            .borrow_mut()
            .retain(|call| rules.is_pending(call.token));
        self.stream(|s| {
            s.reply = Some(Reply {
                status,
                details: details.to_owned(),
                headers: headers.to_vec(),
            });
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
        self.judge(Hostcall::Callout {
            target,
            headers,
            timeout_ms,
        });
        let token = self.next.get() + 1;
        self.next.set(token);
        self.rules.borrow_mut().dispatched(token);
        self.calls.borrow_mut().push(Call {
            token,
            body: Bytes::copy_from_slice(body),
            timeout_ms,
            stream: self.current.get(),
            sent_ns: self.now.get(),
        });
        Ok(token)
    }

    fn register_queue(&self, _: &str) -> HostResult<u32> {
        panic!("Kong has no shared memory for queues by default");
    }

    fn enqueue(&self, _: u32) -> HostResult<()> {
        panic!("there is no queue");
    }

    fn dequeue(&self, _: u32) {
        panic!("there is no queue");
    }

    fn set_tick(&self, period_ms: u32) -> HostResult<()> {
        self.judge(Hostcall::SetTick(period_ms));
        Ok(())
    }

    fn define_metric(&self, kind: MetricKind, _name: &str) -> HostResult<u32> {
        self.judge(Hostcall::DefineMetric);
        let mut metrics = self.metrics.borrow_mut();
        metrics.push(kind);
        u32::try_from(metrics.len() - 1).map_err(|_| FAILED)
    }

    fn increment_metric(&self, id: u32, _by: i64) -> HostResult<()> {
        self.judge(Hostcall::Increment(self.metrics.borrow()[id as usize]));
        Ok(())
    }

    fn record_metric(&self, id: u32, _value: u64) -> HostResult<()> {
        self.judge(Hostcall::Record(self.metrics.borrow()[id as usize]));
        Ok(())
    }

    fn done(&self) {
        panic!("this host never asks a root whether it is done");
    }
}
