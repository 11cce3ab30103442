//! The hostcalls. Each is told to the judge of the host's rules before anything is done.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use idempotency_filter::host::{Buffer, Host, HostError, HostResult, Level, Map, MetricKind};
use idempotency_filter::testing::kong_rules::{Hostcall, KongRules, Violation};

use crate::callout::{Answer, Callout};
use crate::metrics::Metrics;
use crate::report::broken;
use crate::stream::{get, remove, set, Body, Fields, Reply, Stream};

const NOT_FOUND: HostError = HostError(1);
const BAD_ARGUMENT: HostError = HostError(2);

/// What one worker's host holds. The filter owns a handle of it, the driver another.
pub struct Shared {
    /// The judge.
    pub rules: RefCell<KongRules>,
    /// All streams.
    pub streams: RefCell<BTreeMap<u32, Stream>>,
    /// The stream that hostcalls act on. `proxy_set_effective_context` is answered with "ok" and
    /// changes nothing.
    pub current: Cell<Option<u32>>,
    /// The answer that the filter is being told.
    pub answer: RefCell<Answer>,
    /// The filter's configuration.
    pub configuration: Bytes,
    /// Callouts that the callback has dispatched; they leave after it.
    pub outgoing: RefCell<Vec<(u32, Callout)>>,
    /// The period that the callback has set.
    pub tick: Cell<Option<Duration>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether callouts of a root can resolve names (`proxy_wasm_lua_resolver` in `wasm{}`).
    resolver: bool,
    tokens: Cell<u32>,
}

impl Shared {
    /// A host without streams.
    pub fn new(configuration: Bytes, metrics: Arc<Metrics>, resolver: bool) -> Rc<Self> {
        Rc::new(Self {
            rules: RefCell::default(),
            streams: RefCell::default(),
            current: Cell::new(None),
            answer: RefCell::default(),
            configuration,
            outgoing: RefCell::default(),
            tick: Cell::new(None),
            metrics,
            resolver,
            tokens: Cell::new(0),
        })
    }

    /// A rule that is broken ends the process.
    pub fn judge<T>(judged: Result<T, Violation>) -> T {
        match judged {
            Ok(allowed) => allowed,
            Err(violation) => broken(&violation.to_string()),
        }
    }

    /// Does something with a stream.
    pub fn stream<T>(&self, id: u32, f: impl FnOnce(&mut Stream) -> T) -> Option<T> {
        self.streams.borrow_mut().get_mut(&id).map(f)
    }

    fn call(&self, call: Hostcall) {
        Self::judge(self.rules.borrow_mut().call(call));
    }

    fn on_current<T>(&self, f: impl FnOnce(&mut Stream) -> T) -> HostResult<T> {
        let id = self.current.get().ok_or(BAD_ARGUMENT)?;
        self.stream(id, f).ok_or(BAD_ARGUMENT)
    }

    fn map(&self, map: Map) -> HostResult<Fields> {
        match map {
            Map::CalloutHeaders => Ok(self.answer.borrow().headers.clone()),
            map => self.on_current(|stream| stream.map(map)),
        }
    }
}

/// The filter's side of it.
pub struct Handle(pub Rc<Shared>);

impl Host for Handle {
    fn now_ns(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let ns = since.map_or(0, |since| since.as_nanos());
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    fn random(&self, buffer: &mut [u8]) -> HostResult<()> {
        getrandom::fill(buffer).map_err(|_| NOT_FOUND)
    }

    fn environment(&self, name: &str) -> Option<Bytes> {
        // nginx hands on what an `env` directive names (`KONG_NGINX_MAIN_ENV`); here, all of it.
        let value = std::env::var_os(name)?;
        Some(Bytes::from(std::os::unix::ffi::OsStringExt::into_vec(
            value,
        )))
    }

    fn log(&self, level: Level, message: &str) {
        eprintln!("[{level:?}] {message}");
    }

    fn set_context(&self, _context: u32) -> HostResult<()> {
        Ok(())
    }

    fn header(&self, map: Map, name: &str) -> HostResult<Option<Bytes>> {
        if (map, name) == (Map::CalloutHeaders, ":dispatch_status") {
            self.0.call(Hostcall::DispatchStatus);
            return Ok(Some(self.0.answer.borrow().status.into()));
        }
        self.0.call(Hostcall::ReadHeaders(map));
        let fields = self.0.map(map)?;
        Ok(get(&fields, name.as_bytes()).cloned())
    }

    fn headers(&self, map: Map) -> HostResult<Vec<(Bytes, Bytes)>> {
        self.0.call(Hostcall::ReadHeaders(map));
        self.0.map(map)
    }

    fn set_header(&self, map: Map, name: &[u8], value: &[u8]) -> HostResult<()> {
        self.0.call(Hostcall::WriteHeaders(map));
        check_field(name, value);
        let repeated = self.0.on_current(|stream| {
            let named = |(n, _): &&(Bytes, Bytes)| n.eq_ignore_ascii_case(name);
            stream.fields(map).iter().filter(named).count() > 1
        })?;
        if repeated {
            self.0.call(Hostcall::SetRepeated(map));
        }
        self.0.on_current(|stream| {
            if !stream.set_pseudo(map, name, value) {
                set(stream.fields(map), name, value);
            }
        })
    }

    fn add_header(&self, map: Map, name: &[u8], value: &[u8]) -> HostResult<()> {
        self.0.call(Hostcall::WriteHeaders(map));
        check_field(name, value);
        let field = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        self.0.on_current(|stream| stream.fields(map).push(field))
    }

    fn remove_header(&self, map: Map, name: &[u8]) -> HostResult<()> {
        self.0.call(Hostcall::WriteHeaders(map));
        self.0.call(Hostcall::RemoveHeader(map));
        self.0.on_current(|stream| remove(stream.fields(map), name))
    }

    fn buffer(&self, buffer: Buffer, start: usize, size: usize) -> HostResult<Bytes> {
        self.0.call(Hostcall::ReadBuffer(buffer, start, size));
        // The host ignores `start`; the judge allows none but 0.
        let whole = match buffer {
            Buffer::Configuration => Some(self.0.configuration.clone()),
            Buffer::Callout => self.0.answer.borrow().body.clone(),
            Buffer::Response => Some(self.0.on_current(|stream| stream.piece.clone())?),
            Buffer::Request => self.0.on_current(|stream| match &stream.body {
                Some(Body::Buffered(bytes)) => Some(bytes.clone()),
                _ => None,
            })?,
        };
        let whole = whole.ok_or(NOT_FOUND)?;
        Ok(whole.slice(..size.min(whole.len())))
    }

    fn prepend_buffer(&self, buffer: Buffer, bytes: &[u8]) -> HostResult<()> {
        self.0.call(Hostcall::PrependBuffer(buffer));
        self.0
            .on_current(|stream| stream.piece = [bytes, &stream.piece].concat().into())
    }

    fn property(&self, path: &[&str]) -> Option<Bytes> {
        self.0.call(Hostcall::Property(path));
        let name = path.join(".");
        let found = self.0.on_current(|stream| match name.as_str() {
            "kong.route_id" => Some("b1f0a1a2-0000-4000-8000-000000000001".into()),
            "kong.route_name" => Some("route".into()),
            "kong.service_id" => Some("b1f0a1a2-0000-4000-8000-000000000002".into()),
            "kong.service_name" => Some("service".into()),
            name => stream.variable(name.strip_prefix("ngx.")?),
        });
        found.ok().flatten()
    }

    fn set_property(&self, path: &[&str], value: &[u8]) -> HostResult<()> {
        self.0.call(Hostcall::SetProperty(path));
        match path {
            ["ngx", "idempotency"] => {
                let value = Bytes::copy_from_slice(value);
                self.0.on_current(|stream| stream.told = value)
            }
            // No such variable.
            _ => Err(NOT_FOUND),
        }
    }

    fn resume_request(&self) -> HostResult<()> {
        self.0.call(Hostcall::Resume);
        Ok(())
    }

    fn resume_response(&self) -> HostResult<()> {
        self.0.call(Hostcall::Resume);
        Ok(())
    }

    fn reset_stream(&self) -> HostResult<()> {
        self.0.call(Hostcall::Reset);
        Ok(())
    }

    fn local_reply(
        &self,
        status: u16,
        details: &str,
        headers: &[(Bytes, Bytes)],
        body: &[u8],
    ) -> HostResult<()> {
        self.0.call(Hostcall::LocalReply(status, body.len()));
        for (name, value) in headers {
            check_field(name, value);
        }
        let reply = Reply {
            status,
            reason: details.to_owned(),
            headers: headers.to_vec(),
        };
        self.0.on_current(|stream| stream.reply = Some(reply))
    }

    fn callout(
        &self,
        target: &str,
        headers: &[(Bytes, Bytes)],
        body: &[u8],
        _trailers: &[(Bytes, Bytes)],
        timeout_ms: u64,
    ) -> HostResult<u32> {
        self.0.call(Hostcall::Callout {
            target,
            headers,
            timeout_ms,
        });
        let token = self.0.tokens.get();
        self.0.tokens.set(token.wrapping_add(1));
        self.0.rules.borrow_mut().dispatched(token);
        let callout = Callout {
            resolver: self.0.resolver || self.0.current.get().is_some(),
            target: target.to_owned(),
            headers: headers.to_vec(),
            body: Bytes::copy_from_slice(body),
            timeout: Duration::from_millis(timeout_ms),
        };
        self.0.outgoing.borrow_mut().push((token, callout));
        Ok(token)
    }

    fn set_tick(&self, period_ms: u32) -> HostResult<()> {
        self.0.call(Hostcall::SetTick(period_ms));
        let period = Duration::from_millis(u64::from(period_ms));
        self.0.tick.set(Some(period));
        Ok(())
    }

    fn register_queue(&self, name: &str) -> HostResult<u32> {
        broken(&format!(
            "a shared queue traps unless nginx.conf names it: {name}"
        ));
    }

    fn enqueue(&self, queue: u32) -> HostResult<()> {
        broken(&format!("there is no shared queue {queue}"));
    }

    fn dequeue(&self, queue: u32) {
        broken(&format!("there is no shared queue {queue}"));
    }

    fn define_metric(&self, kind: MetricKind, name: &str) -> HostResult<u32> {
        self.0.call(Hostcall::DefineMetric);
        Ok(self.0.metrics.define(kind, name))
    }

    fn increment_metric(&self, id: u32, by: i64) -> HostResult<()> {
        let kind = self.0.metrics.kind(id).ok_or(BAD_ARGUMENT)?;
        self.0.call(Hostcall::Increment(kind));
        self.0.metrics.add(id, by);
        Ok(())
    }

    fn record_metric(&self, id: u32, value: u64) -> HostResult<()> {
        let kind = self.0.metrics.kind(id).ok_or(BAD_ARGUMENT)?;
        self.0.call(Hostcall::Record(kind));
        self.0.metrics.record(id, value);
        Ok(())
    }

    fn done(&self) {}
}

/// nginx writes fields as they are: what splits a message would do so.
fn check_field(name: &[u8], value: &[u8]) {
    let splits = |b: &u8| matches!(b, b'\r' | b'\n' | 0);
    if name.iter().chain(value).any(splits) {
        broken(&format!(
            "a field that splits the message: {:?}",
            String::from_utf8_lossy(name)
        ));
    }
}
