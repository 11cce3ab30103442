//! A host that answers from memory and counts what it is asked.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use idempotency_filter::host::{Buffer, Host, HostError, HostResult, Level, Map, MetricKind};

/// A list of header fields.
pub type Fields = Vec<(Bytes, Bytes)>;

/// What the filter finds, and what it has asked for.
#[derive(Debug, Default)]
pub struct Memory {
    /// Headers of the client's request.
    pub request: Fields,
    /// Headers of the upstream's response.
    pub response: Fields,
    /// Body of the request and of the response.
    pub body: Bytes,
    /// The plugin's configuration.
    pub configuration: Bytes,
    /// Headers of a callout's answer.
    pub callout: RefCell<Rc<Fields>>,
    /// Body of a callout's answer.
    pub answer: RefCell<Bytes>,
    /// Callouts that are out: token and length of the body.
    pub callouts: RefCell<VecDeque<(u32, usize)>>,
    /// Body of the last callout. Its room is used again, since a host of this kind must cost as little as it can.
    pub sent: RefCell<Vec<u8>>,
    /// How often each hostcall was made, while [`Memory::counting`].
    pub calls: RefCell<BTreeMap<&'static str, u64>>,
    /// Whether hostcalls are counted, which costs more than most of them.
    pub counting: Cell<bool>,
    /// The last token, id or seed given out.
    pub last: Cell<u32>,
    /// The clock, which goes on by a microsecond at every look.
    pub now_ns: Cell<u64>,
}

impl Memory {
    fn called(&self, name: &'static str) {
        if self.counting.get() {
            *self.calls.borrow_mut().entry(name).or_default() += 1;
        }
    }

    fn fresh(&self) -> u32 {
        self.last.set(self.last.get().wrapping_add(1));
        self.last.get()
    }
}

impl Host for Memory {
    fn now_ns(&self) -> u64 {
        self.called("get_current_time");
        self.now_ns.set(self.now_ns.get() + 1000);
        self.now_ns.get()
    }

    fn random(&self, buffer: &mut [u8]) -> HostResult<()> {
        self.called("random_get");
        for owner in buffer.chunks_mut(16) {
            let seed = self.fresh().to_le_bytes();
            for part in owner.chunks_exact_mut(seed.len()) {
                part.copy_from_slice(&seed);
            }
        }
        Ok(())
    }

    fn environment(&self, _: &str) -> Option<Bytes> {
        None
    }

    fn log(&self, _: Level, _: &str) {
        self.called("log");
    }

    fn set_context(&self, context: u32) -> HostResult<()> {
        self.called("set_effective_context");
        // As Envoy does: no context has this number.
        if context == u32::MAX {
            return Err(HostError(2));
        }
        Ok(())
    }

    fn header(&self, map: Map, name: &str) -> HostResult<Option<Bytes>> {
        self.called("get_header_map_value");
        let find = |fields: &Fields| {
            let found = fields.iter().find(|(own, _)| own == name.as_bytes());
            found.map(|(_, value)| value.clone())
        };
        Ok(match map {
            Map::Request => find(&self.request),
            Map::Response => find(&self.response),
            Map::CalloutHeaders => find(&self.callout.borrow()),
            Map::RequestTrailers => None,
        })
    }

    fn headers(&self, map: Map) -> HostResult<Fields> {
        self.called("get_header_map_pairs");
        Ok(match map {
            Map::Request => self.request.clone(),
            Map::Response => self.response.clone(),
            Map::CalloutHeaders => Fields::clone(&self.callout.borrow()),
            Map::RequestTrailers => Vec::new(),
        })
    }

    fn set_header(&self, _: Map, _: &[u8], _: &[u8]) -> HostResult<()> {
        self.called("replace_header_map_value");
        Ok(())
    }

    fn add_header(&self, _: Map, _: &[u8], _: &[u8]) -> HostResult<()> {
        self.called("add_header_map_value");
        Ok(())
    }

    fn remove_header(&self, _: Map, _: &[u8]) -> HostResult<()> {
        self.called("remove_header_map_value");
        Ok(())
    }

    fn buffer(&self, buffer: Buffer, start: usize, size: usize) -> HostResult<Bytes> {
        self.called("get_buffer_bytes");
        let all = match buffer {
            Buffer::Request | Buffer::Response => self.body.clone(),
            Buffer::Callout => self.answer.borrow().clone(),
            Buffer::Configuration => self.configuration.clone(),
        };
        let end = start.saturating_add(size).min(all.len());
        Ok(all.slice(start.min(end)..end))
    }

    fn prepend_buffer(&self, _: Buffer, _: &[u8]) -> HostResult<()> {
        self.called("set_buffer_bytes");
        Ok(())
    }

    fn property(&self, _: &[&str]) -> Option<Bytes> {
        self.called("get_property");
        Some(Bytes::from_static(b"via_upstream"))
    }

    fn set_property(&self, _: &[&str], _: &[u8]) -> HostResult<()> {
        self.called("set_property");
        Ok(())
    }

    fn resume_request(&self) -> HostResult<()> {
        self.called("continue_stream");
        Ok(())
    }

    fn resume_response(&self) -> HostResult<()> {
        self.called("continue_stream");
        Ok(())
    }

    fn reset_stream(&self) -> HostResult<()> {
        self.called("close_stream");
        Ok(())
    }

    fn local_reply(&self, _: u16, _: &str, _: &[(Bytes, Bytes)], _: &[u8]) -> HostResult<()> {
        self.called("send_local_response");
        Ok(())
    }

    fn callout(
        &self,
        _: &str,
        _: &[(Bytes, Bytes)],
        body: &[u8],
        _: &[(Bytes, Bytes)],
        _: u64,
    ) -> HostResult<u32> {
        self.called("http_call");
        let token = self.fresh();
        self.callouts.borrow_mut().push_back((token, body.len()));
        let mut sent = self.sent.borrow_mut();
        sent.clear();
        sent.extend_from_slice(body);
        Ok(token)
    }

    fn register_queue(&self, _: &str) -> HostResult<u32> {
        self.called("register_shared_queue");
        Ok(self.fresh())
    }

    fn enqueue(&self, _: u32) -> HostResult<()> {
        self.called("enqueue_shared_queue");
        Ok(())
    }

    fn dequeue(&self, _: u32) {
        self.called("dequeue_shared_queue");
    }

    fn set_tick(&self, _: u32) -> HostResult<()> {
        Ok(())
    }

    fn define_metric(&self, _: MetricKind, _: &str) -> HostResult<u32> {
        self.called("define_metric");
        Ok(self.fresh())
    }

    fn increment_metric(&self, _: u32, _: i64) -> HostResult<()> {
        self.called("increment_metric");
        Ok(())
    }

    fn record_metric(&self, _: u32, _: u64) -> HostResult<()> {
        self.called("record_metric");
        Ok(())
    }

    fn done(&self) {}
}
