//! The calls that the filter makes, in Envoy: [`Host`] over the native ABI.
//!
//! What Envoy may answer by calling back at once (a resume, an answer of ours, a cut) is only noted here, and done
//! by [`crate::unit`] when the filter is not at work any more. A callout is sent at once, because the filter needs
//! its token; Envoy's only call back from there is that it cannot send, which is what the call returns, too.

use crate::abi::{map, Object};
use crate::callouts::{Callouts, Carrier};
use crate::envoy::{self, Bell, Body, Caller, Kind, Message, Pieces, Refused};
use crate::home::Home;
use crate::streams::Streams;
use bytes::Bytes;
use idempotency_filter::host::{Buffer, Host, HostError, HostResult, Level, Map, MetricKind};
use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The filter's root, of which every [`crate::unit::Unit`] has one.
pub const ROOT: u32 = 1;

/// The filter's only queue.
pub const QUEUE: u32 = 1;

/// proxy-wasm's status for what cannot be done.
const BAD_ARGUMENT: u32 = 2;

/// Where the access log finds what is told of a stream; with WebAssembly it has the same name.
const FILTER_STATE: &str = "wasm.idempotency";

fn host<T>(result: Result<T, Refused>) -> HostResult<T> {
    result.map_err(|Refused| REFUSED)
}

const REFUSED: HostError = HostError(BAD_ARGUMENT);

/// What is done for a stream when the filter has returned.
#[derive(Debug)]
pub enum Op {
    /// Its request goes on.
    ResumeRequest,
    /// Its response goes on.
    ResumeResponse,
    /// It is answered.
    Reply(Box<Reply>),
    /// The rest of an answer whose head was sent.
    Body(Bytes),
    /// It is cut off.
    Reset,
}

/// An answer of ours.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Header fields without pseudo headers.
    pub headers: Vec<(Bytes, Bytes)>,
    /// Exact bytes.
    pub body: Bytes,
    /// What the access log says of it.
    pub details: String,
    /// Envoy's local replies would change it: it is sent as it is.
    pub raw: bool,
}

/// The answer of a callout; `None` instead: there is none.
#[derive(Debug)]
pub struct Answer {
    /// How many header fields it has.
    pub fields: usize,
    /// `:status`.
    pub status: Option<Bytes>,
    /// Its body.
    pub body: Bytes,
}

/// What the filter must hear of, when it is not at work.
#[derive(Debug)]
pub enum News {
    /// A callout has its answer, or will get none.
    Answered(u32, Option<Answer>),
}

/// Everything between the filter and Envoy that one worker has.
pub struct State {
    pub home: Arc<Home>,
    /// The stream that calls are about; [`ROOT`]: none.
    pub current: u32,
    /// The stream whose hook the filter is in.
    pub inside: Option<u32>,
    /// The main thread is at work, and no stream is alive.
    pub on_main: bool,
    pub streams: Streams,
    pub callouts: Callouts,
    pub ops: VecDeque<(u32, Op)>,
    /// Answers that cannot be sent from inside of a hook of their stream.
    pub later: Vec<(u32, Op)>,
    pub news: VecDeque<News>,
    /// Tokens that the main thread is to send.
    pub for_main: VecDeque<u32>,
    /// The filter wants a turn at the end of what Envoy is at.
    pub turn: bool,
    /// The filter is to look at the clock.
    pub tick: bool,
    /// It has been at work since the last tick.
    pub dirty: bool,
    /// It has something to wait for, as of the last look.
    pub busy: bool,
    /// Calls a hook on this worker, by way of a stream that lives.
    pub bell: Option<(u32, Bell)>,
    /// It has been rung, and the hook has not come.
    pub rung: bool,
    pieces: Option<(Body, Pieces)>,
    answer: Option<Answer>,
}

/// [`Host`] for one worker.
pub struct Native {
    state: RefCell<State>,
}

impl Native {
    /// Without streams.
    pub fn new(home: Arc<Home>) -> Native {
        let state = State {
            home,
            current: ROOT,
            inside: None,
            on_main: false,
            streams: Streams::default(),
            callouts: Callouts::default(),
            ops: VecDeque::new(),
            later: Vec::new(),
            news: VecDeque::new(),
            for_main: VecDeque::new(),
            turn: false,
            tick: false,
            dirty: false,
            busy: false,
            bell: None,
            rung: false,
            pieces: None,
            answer: None,
        };
        Native {
            state: RefCell::new(state),
        }
    }

    /// The state, between two calls of the filter. Never kept over a call of Envoy's that may call back.
    pub fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    /// The stream that calls are about, while it lives.
    fn stream(&self) -> HostResult<Object> {
        let state = self.state.borrow();
        state.streams.envoy(state.current).ok_or(REFUSED)
    }

    /// A hook for a body begins; how many bytes it can see.
    pub fn look_at(&self, stream: u32, of: Body) -> usize {
        let Some(envoy) = self.state.borrow().streams.envoy(stream) else {
            return 0;
        };
        let pieces = envoy::pieces(envoy, of);
        let len = pieces.len;
        self.state.borrow_mut().pieces = Some((of, pieces));
        len
    }

    /// It ends.
    pub fn look_away(&self) {
        self.state.borrow_mut().pieces = None;
    }

    /// The filter can read this answer, until it is taken away.
    pub fn show(&self, answer: Option<Answer>) {
        self.state.borrow_mut().answer = answer;
    }

    fn later(&self, op: Op) -> HostResult<()> {
        let mut state = self.state.borrow_mut();
        let stream = state.current;
        state.streams.envoy(stream).ok_or(REFUSED)?;
        match op {
            Op::ResumeRequest | Op::ResumeResponse => state.streams.hold(stream, false),
            Op::Reply(_) | Op::Body(_) | Op::Reset => state.streams.finish(stream),
        }
        state.ops.push_back((stream, op));
        Ok(())
    }

    /// Sends a callout by the best carrier that there is.
    fn send(&self, message: Message, timeout_ms: u64) -> HostResult<u32> {
        let message = Arc::new(message);
        let (token, carrier, deadline_ms) = {
            let mut state = self.state.borrow_mut();
            let token = state.callouts.token();
            let inside = state.inside;
            let carrier = match state.on_main {
                true => None,
                false => state.streams.carrier(inside),
            };
            let carrier = carrier.and_then(|s| Some((s, state.streams.envoy(s)?)));
            (token, carrier, crate::clock_ms().saturating_add(timeout_ms))
        };
        let carried = match carrier {
            Some((stream, envoy)) => {
                let id = host(envoy::callout(Caller::Stream(envoy), &message, timeout_ms))?;
                Carrier::Stream(stream, id)
            }
            None => Carrier::Main,
        };
        let mut state = self.state.borrow_mut();
        state.callouts.sent(token, message, deadline_ms, carried);
        if carried == Carrier::Main {
            state.for_main.push_back(token);
        }
        Ok(token)
    }
}

/// What is read where proxy-wasm has properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property<'p> {
    /// A text attribute of Envoy's, by its number.
    Text(u32),
    /// A number of Envoy's; it is told as proxy-wasm tells it, in eight octets.
    Number(u32),
    /// Dynamic metadata: namespace and key.
    Metadata(&'p str, &'p str),
}

impl<'p> Property<'p> {
    /// What a path means here; `None`: this module cannot read it.
    pub fn find(path: &[&'p str]) -> Option<Property<'p>> {
        if let ["metadata", "filter_metadata", namespace, key] = path {
            return Some(Property::Metadata(namespace, key));
        }
        let number = match path {
            ["request", "path"] => 0,
            ["request", "url_path"] => 1,
            ["request", "host"] => 2,
            ["request", "scheme"] => 3,
            ["request", "method"] => 4,
            ["request", "id"] => 9,
            ["response", "code_details"] => 16,
            ["source", "address"] => 24,
            ["upstream", "request_attempt_count"] => return Some(Property::Number(53)),
            ["connection", "requested_server_name"] => 30,
            ["connection", "subject_peer_certificate"] => 33,
            ["connection", "dns_san_peer_certificate"] => 35,
            ["connection", "uri_san_peer_certificate"] => 37,
            ["connection", "sha256_peer_certificate_digest"] => 38,
            _ => return None,
        };
        Some(Property::Text(number))
    }
}

fn map_of(map: Map) -> HostResult<u32> {
    match map {
        Map::Request => Ok(map::REQUEST),
        Map::RequestTrailers => Ok(map::REQUEST_TRAILERS),
        Map::Response => Ok(map::RESPONSE),
        Map::CalloutHeaders => Err(REFUSED),
    }
}

/// Whether Envoy's local replies would change this answer. They drop the content type of one without a body, and
/// make one up where there is none; and to a gRPC call they say "OK", whatever the status.
fn is_changed(headers: &[(Bytes, Bytes)], body: &[u8], grpc: bool) -> bool {
    let typed = headers
        .iter()
        .any(|(name, _)| name.as_ref() == b"content-type");
    grpc || typed == body.is_empty()
}

impl Host for Native {
    fn now_ns(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
    }

    fn random(&self, buffer: &mut [u8]) -> HostResult<()> {
        getrandom::fill(buffer).map_err(|_| REFUSED)
    }

    fn environment(&self, name: &str) -> Option<Bytes> {
        use std::os::unix::ffi::OsStringExt;
        std::env::var_os(name).map(|value| value.into_vec().into())
    }

    fn log(&self, level: Level, message: &str) {
        envoy::log(level as u32, message);
    }

    fn set_context(&self, context: u32) -> HostResult<()> {
        let mut state = self.state.borrow_mut();
        if context != ROOT {
            state.streams.envoy(context).ok_or(REFUSED)?;
        }
        state.current = context;
        Ok(())
    }

    fn header(&self, map: Map, name: &str) -> HostResult<Option<Bytes>> {
        if map == Map::CalloutHeaders {
            let state = self.state.borrow();
            let answer = state.answer.as_ref().ok_or(REFUSED)?;
            return Ok(answer.status.clone().filter(|_| name == ":status"));
        }
        host(envoy::header(self.stream()?, map_of(map)?, name))
    }

    fn headers(&self, map: Map) -> HostResult<Vec<(Bytes, Bytes)>> {
        host(envoy::headers(self.stream()?, map_of(map)?))
    }

    fn set_header(&self, map: Map, name: &[u8], value: &[u8]) -> HostResult<()> {
        host(envoy::set_header(self.stream()?, map_of(map)?, name, value))
    }

    fn add_header(&self, map: Map, name: &[u8], value: &[u8]) -> HostResult<()> {
        host(envoy::add_header(self.stream()?, map_of(map)?, name, value))
    }

    fn remove_header(&self, map: Map, name: &[u8]) -> HostResult<()> {
        host(envoy::remove_header(self.stream()?, map_of(map)?, name))
    }

    #[allow(unsafe_code)]
    fn buffer(&self, buffer: Buffer, start: usize, size: usize) -> HostResult<Bytes> {
        let state = self.state.borrow();
        let wanted = match buffer {
            Buffer::Configuration => return Ok(state.home.text.clone()),
            Buffer::Callout => return Ok(state.answer.as_ref().ok_or(REFUSED)?.body.clone()),
            Buffer::Request => Body::Request,
            Buffer::Response => Body::Response,
        };
        match &state.pieces {
            // SAFETY: the pieces are put in when a hook for this body begins and taken out when the filter has
            // returned from it; the filter changes no body.
            Some((of, pieces)) if *of == wanted => {
                unsafe { pieces.copy(start, size) }.ok_or(REFUSED)
            }
            _ => Err(REFUSED),
        }
    }

    fn prepend_buffer(&self, _buffer: Buffer, _bytes: &[u8]) -> HostResult<()> {
        Err(REFUSED)
    }

    fn property(&self, path: &[&str]) -> Option<Bytes> {
        let stream = self.stream().ok()?;
        match Property::find(path)? {
            Property::Text(number) => envoy::text_attribute(stream, number),
            Property::Number(number) => envoy::number_attribute(stream, number)
                .map(|value| Bytes::copy_from_slice(&value.to_le_bytes())),
            Property::Metadata(namespace, key) => envoy::metadata(stream, namespace, key),
        }
    }

    fn set_property(&self, _path: &[&str], value: &[u8]) -> HostResult<()> {
        let stream = self.stream()?;
        {
            let mut state = self.state.borrow_mut();
            let current = state.current;
            // A second value would be a fault in Envoy's eyes.
            if !state.streams.tell(current) {
                return Err(REFUSED);
            }
        }
        host(envoy::set_filter_state(stream, FILTER_STATE, value))
    }

    fn resume_request(&self) -> HostResult<()> {
        self.later(Op::ResumeRequest)
    }

    fn resume_response(&self) -> HostResult<()> {
        self.later(Op::ResumeResponse)
    }

    fn reset_stream(&self) -> HostResult<()> {
        self.later(Op::Reset)
    }

    fn local_reply(
        &self,
        status: u16,
        details: &str,
        headers: &[(Bytes, Bytes)],
        body: &[u8],
    ) -> HostResult<()> {
        let kind = envoy::header(self.stream()?, map::REQUEST, "content-type");
        let grpc = matches!(kind, Ok(Some(kind)) if kind.starts_with(b"application/grpc"));
        self.later(Op::Reply(Box::new(Reply {
            status,
            headers: headers.to_vec(),
            body: Bytes::copy_from_slice(body),
            details: details.to_owned(),
            raw: is_changed(headers, body, grpc),
        })))
    }

    fn callout(
        &self,
        target: &str,
        headers: &[(Bytes, Bytes)],
        body: &[u8],
        trailers: &[(Bytes, Bytes)],
        timeout_ms: u64,
    ) -> HostResult<u32> {
        // Only detached executions have any, and those are refused when the configuration is loaded.
        if !trailers.is_empty() {
            return Err(REFUSED);
        }
        let message = Message {
            cluster: target.to_owned(),
            headers: headers.to_vec(),
            body: Bytes::copy_from_slice(body),
        };
        self.send(message, timeout_ms)
    }

    fn register_queue(&self, _name: &str) -> HostResult<u32> {
        Ok(QUEUE)
    }

    fn enqueue(&self, _queue: u32) -> HostResult<()> {
        self.state.borrow_mut().turn = true;
        Ok(())
    }

    fn dequeue(&self, _queue: u32) {}

    /// There is no tick while nothing goes on, so the filter must not take the last look at the clock for now.
    fn set_tick(&self, _period_ms: u32) -> HostResult<()> {
        Err(REFUSED)
    }

    fn define_metric(&self, kind: MetricKind, name: &str) -> HostResult<u32> {
        let kind = match kind {
            MetricKind::Counter => Kind::Counter,
            MetricKind::Gauge => Kind::Gauge,
            MetricKind::Histogram => Kind::Histogram,
        };
        let home = Arc::clone(&self.state.borrow().home);
        home.metric(kind, name).ok_or(REFUSED)
    }

    fn increment_metric(&self, id: u32, by: i64) -> HostResult<()> {
        let state = self.state.borrow();
        host(state.home.add_to_metric(id, by))
    }

    fn record_metric(&self, id: u32, value: u64) -> HostResult<()> {
        let state = self.state.borrow();
        host(state.home.record_metric(id, value))
    }

    fn done(&self) {}
}
