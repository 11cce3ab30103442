//! The glue between the host's callbacks and the state machines: it reads what an event needs,
//! hands it to the machine, and does what the machine asks. Generic over [`Host`], so that native
//! tests drive the same path as the wasm.

mod batches;
#[cfg(test)]
mod bench;
mod callouts;
#[cfg(test)]
mod clock_test;
#[cfg(test)]
mod decisions_test;
mod failures;
#[cfg(any(test, feature = "testing"))]
mod fake;
#[cfg(test)]
mod fake_kong;
#[cfg(test)]
mod kong_test;
mod lane;
#[cfg(test)]
mod lane_test;
mod metrics;
#[cfg(test)]
mod nginx;
mod own_reply;
mod owners;
mod perform;
#[cfg(test)]
mod random_kong_test;
#[cfg(any(test, feature = "testing"))]
mod random_service;
#[cfg(any(test, feature = "testing"))]
mod random_test;
mod root;
#[cfg(test)]
mod shared_calls_test;
mod work;
#[cfg(test)]
mod work_test;

#[cfg(feature = "testing")]
pub use random_test::random_events;

use crate::body::{self, Body};
use crate::clock::{Clock, Moment};
use crate::details;
use crate::head::{self, HostProperties};
use crate::host::{Buffer, Host, Level, Map};
use crate::ids::IdMap;
use crate::kong::{self, Attempts};
use crate::profile::Profile;
use crate::stats::Counter;
use crate::stream::{Env, Event, Flow, Stream};
use bytes::Bytes;
use callouts::Pending;
use idempotency_core::classify::Source;
use idempotency_core::config::Mode;
use idempotency_core::decide::{self, decide, Decision, Verdict};
use idempotency_core::headers::Headers;
use idempotency_core::names::{self, Kind, Names};
use idempotency_core::problem::{Problem, ProblemSettings};
use idempotency_core::reply::LocalReply;
use own_reply::OwnReply;
use owners::Owners;
use root::Root;
use work::WorkQueue;

/// A callback during which a resume is not a hostcall but the callback's own return value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Request,
    Response,
}

/// How much of a paused buffer the machine has seen. After a pause the host tells the cumulative
/// size, after a continue the size of the new chunk (measured on Envoy).
#[derive(Debug, Default)]
struct Cursor {
    paused: bool,
    seen: usize,
}

impl Cursor {
    fn start(&self) -> usize {
        if self.paused {
            self.seen
        } else {
            0
        }
    }

    fn advance(&mut self, size: usize, flow: Flow) {
        self.paused = flow == Flow::Pause;
        self.seen = if self.paused { size } else { 0 };
    }
}

/// A stream and what the glue knows of it.
#[derive(Debug)]
struct Entry {
    root: u32,
    stream: Stream,
    request: Cursor,
    response: Cursor,
    /// When a request with a body began to wait for it ([`Moment::least_ns`]).
    body_expected_ns: Option<u64>,
    /// What its headers callback knew of the body.
    body: Body,
    /// Our own answer, to be mended when it passes the response callbacks.
    reply: Option<OwnReply>,
    /// The host has forgotten it; only an answer is still awaited.
    deleted: bool,
    /// It has been counted as begun, and its end is to be.
    counted: bool,
}

/// All contexts of one VM.
pub struct Filter<H: Host> {
    host: H,
    /// Known from the first configuration on; before that there are no streams.
    profile: Profile,
    owners: Owners,
    clock: Clock,
    roots: IdMap<u32, Box<Root>>,
    streams: IdMap<u32, Box<Entry>>,
    pending: IdMap<u32, Box<Pending>>,
    work: WorkQueue,
    /// The context that hostcalls act on.
    current: u32,
    inside: Option<(u32, Phase)>,
    resumed: bool,
    /// Kong: nginx sends requests upstream twice whose body callback made a call.
    sends_twice: bool,
    /// A body callback has come for a request whose headers were held.
    bodies_come: bool,
}

impl<H: Host> Filter<H> {
    /// A VM without contexts.
    pub fn new(host: H) -> Self {
        Filter {
            host,
            profile: Profile::Envoy,
            owners: Owners::default(),
            clock: Clock::default(),
            roots: IdMap::default(),
            streams: IdMap::default(),
            pending: IdMap::default(),
            work: WorkQueue::default(),
            current: 0,
            inside: None,
            resumed: false,
            sends_twice: false,
            bodies_come: false,
        }
    }

    /// The host.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// A context was created; the parent of a root is 0.
    pub fn on_context_create(&mut self, context: u32, parent: u32) {
        if parent == 0 {
            self.roots.insert(context, Box::default());
        } else {
            let entry = Entry {
                root: parent,
                stream: Stream::passing(),
                request: Cursor::default(),
                response: Cursor::default(),
                body_expected_ns: None,
                body: Body::None,
                reply: None,
                deleted: false,
                counted: false,
            };
            self.streams.insert(context, Box::new(entry));
        }
    }

    /// The configuration has come. It is always accepted: a host that is told "no" runs without
    /// the filter, and that would mean unprotected.
    pub fn on_configure(&mut self, context: u32, size: usize) -> bool {
        self.begin(context);
        let text = self
            .host
            .buffer(Buffer::Configuration, 0, size)
            .unwrap_or_default();
        self.profile = Profile::detect(&self.host);
        let Some(root) = self.roots.get_mut(&context) else {
            return true;
        };
        root.configure(&self.host, self.profile, &text);
        // A host that configures a root anew does not want its tick set anew (in Kong it traps).
        // It runs without a tick where none can be set; nothing else to do about it.
        if !std::mem::replace(&mut root.ticking, true) {
            let _ = self.host.set_tick(self.profile.tick_ms());
        }
        true
    }

    /// Request headers have come. `end`: there is no body.
    pub fn on_request_headers(&mut self, context: u32, end: bool) -> Flow {
        self.begin(context);
        let Some(entry) = self.streams.get(&context) else {
            return Flow::Continue;
        };
        let root_id = entry.root;
        let Some(root) = self.roots.get(&root_id) else {
            return Flow::Continue;
        };
        let Some(settings) = root.settings() else {
            return self.misconfigured(context, root_id);
        };
        let Decision { strip, verdict } = match head::read(self.profile, &self.host, end) {
            Some(head) => decide(&settings.core, head, &HostProperties(&self.host)),
            None => Decision {
                strip: Vec::new(),
                verdict: decide::unreadable(),
            },
        };
        for name in &strip {
            let _ = self.host.remove_header(Map::Request, name);
        }
        match verdict {
            Verdict::Pass => {
                // Nothing of it matters any more: its other callbacks are to cost nothing.
                self.streams.remove(&context);
                Flow::Continue
            }
            Verdict::Observed(problem) => {
                self.count(root_id, Counter::Observed(problem));
                Flow::Continue
            }
            Verdict::Refuse(problem, reply) => self.refuse(context, root_id, problem, reply),
            Verdict::Protect { request, hasher } => {
                let late = settings.late_bodies;
                let body = match body::of(self.profile, &request, late, &self.host, end) {
                    Ok(body) => body,
                    Err((problem, _)) if request.rule.observes() => {
                        self.count(root_id, Counter::Observed(problem));
                        return Flow::Continue;
                    }
                    Err((problem, reply)) => return self.refuse(context, root_id, problem, reply),
                };
                let enforced = request.policy().mode == Mode::Enforce;
                if self.sends_twice && enforced && body == Body::Coming {
                    return self.misconfigured(context, root_id);
                }
                let whole: Option<&[u8]> = match &body {
                    Body::None => Some(&[]),
                    Body::Whole(bytes) => Some(bytes),
                    Body::Coming => None,
                };
                self.enter_callback(context, Phase::Request);
                let mut effects = Vec::new();
                let host = &self.host;
                let owners = &mut self.owners;
                let mut new_owner = || owners.next(host);
                let mut env = Env {
                    profile: self.profile,
                    clock: &|| self.clock.now(host),
                    new_owner: &mut new_owner,
                    effects: &mut effects,
                };
                let (stream, flow) = Stream::protect(*request, *hasher, whole, &mut env);
                // Where a worker that is told to end can record nothing any more, somebody has to know
                // when nothing is under way.
                let counted = self.profile == Profile::Kong;
                if counted {
                    self.count(root_id, Counter::ProtectedBegun);
                }
                if let Some(entry) = self.streams.get_mut(&context) {
                    entry.counted = counted;
                    entry.stream = stream;
                    let expected = whole.is_none();
                    entry.body_expected_ns = expected.then(|| self.clock.now(&self.host).least_ns);
                    entry.body = match body {
                        // It is hashed, and not needed any more.
                        Body::Whole(_) => Body::Whole(Bytes::new()),
                        other => other,
                    };
                }
                self.perform(root_id, context, effects);
                self.finish(flow)
            }
        }
    }

    /// Answers a request that is not to be executed.
    fn refuse(&mut self, context: u32, root: u32, problem: Problem, reply: LocalReply) -> Flow {
        if let Some(entry) = self.streams.get_mut(&context) {
            entry.stream = Stream::answered();
        }
        self.count(root, Counter::Problem(problem));
        if problem == Problem::Misconfigured {
            let detail = String::from_utf8_lossy(&reply.body);
            self.host
                .log(Level::Error, &format!("idempotency: refused: {detail}"));
        }
        self.reply(context, reply);
        Flow::Pause
    }

    /// A callback of the host has begun. Its time is looked up once, whatever contexts it acts on.
    fn begin(&mut self, context: u32) {
        self.current = context;
        self.clock.begin();
    }

    /// The time; the same one for all of a callback.
    fn now(&self) -> Moment {
        self.clock.now(&self.host)
    }

    fn misconfigured(&mut self, context: u32, root: u32) -> Flow {
        let method = self.host.header(Map::Request, ":method").ok().flatten();
        let safe = matches!(method.as_deref(), Some(b"GET" | b"HEAD" | b"OPTIONS"));
        if safe && !head::has_ours(self.profile, &self.host) {
            return Flow::Continue;
        }
        if let Some(entry) = self.streams.get_mut(&context) {
            entry.stream = Stream::answered();
        }
        self.count(root, Counter::Problem(Problem::Misconfigured));
        let reply = Problem::Misconfigured.reply(&ProblemSettings::DEFAULT, None);
        self.reply(context, reply);
        Flow::Pause
    }

    /// More of the request body has come.
    pub fn on_request_body(&mut self, context: u32, size: usize, end: bool) -> Flow {
        self.begin(context);
        let Some(entry) = self.streams.get_mut(&context) else {
            return Flow::Continue;
        };
        if !entry.stream.is_active() {
            return Flow::Continue;
        }
        if entry.stream.is_hashing() {
            self.bodies_come = true;
            entry.body_expected_ns = None;
        }
        match &entry.body {
            Body::None if self.profile == Profile::Kong && size > 0 => {
                self.enter_callback(context, Phase::Request);
                let flow = self.feed(context, Event::UnannouncedBody);
                return self.finish(flow);
            }
            Body::Whole(_) => return Flow::Continue,
            _ => {}
        }
        let start = entry.request.start();
        self.enter_callback(context, Phase::Request);
        let chunk = self.new_bytes(Buffer::Request, start, size);
        if chunk.is_none() {
            self.feed(context, Event::Unreadable);
        }
        let chunk = chunk.unwrap_or_default();
        let flow = self.feed(context, Event::RequestBody { chunk: &chunk, end });
        let flow = self.finish(flow);
        if let Some(entry) = self.streams.get_mut(&context) {
            entry.request.advance(size, flow);
        }
        flow
    }

    /// The request has trailers.
    pub fn on_request_trailers(&mut self, context: u32) -> Flow {
        self.begin(context);
        let active = self.is_active(context);
        let mut trailers = self.host.headers(Map::RequestTrailers).unwrap_or_default();
        trailers.retain(|(name, _)| {
            let keep = !self.must_go(name, active);
            if !keep {
                let _ = self.host.remove_header(Map::RequestTrailers, name);
            }
            keep
        });
        if !active {
            return Flow::Continue;
        }
        self.enter_callback(context, Phase::Request);
        let flow = self.feed(context, Event::RequestTrailers(Headers(trailers)));
        self.finish(flow)
    }

    /// Whether a trailer must not go upstream. Nothing is known any more of a stream that passes,
    /// so every configuration of this VM has a say there.
    fn must_go(&self, trailer: &[u8], active: bool) -> bool {
        if Names::default().kind(trailer) == Kind::Ours {
            return true;
        }
        let unwelcome = |root: &Root| {
            let settings = root.settings();
            settings.is_some_and(|s| s.core.names.kind(trailer) == Kind::Disguised)
        };
        !active && (names::replaces(trailer) || self.roots.values().any(|r| unwelcome(r)))
    }

    /// Response headers have come. `end`: there is no body.
    pub fn on_response_headers(&mut self, context: u32, end: bool) -> Flow {
        self.begin(context);
        if !self.is_active(context) {
            self.mend_headers(context);
            return Flow::Continue;
        }
        let fields = self.host.headers(Map::Response).unwrap_or_default();
        let event = match self.profile {
            Profile::Envoy => {
                let details = self.host.property(&["response", "code_details"]);
                Event::ResponseHeaders {
                    headers: Headers(fields),
                    source: details::from_details(details.as_deref()),
                    end,
                }
            }
            Profile::Kong => self.response_in_kong(fields),
        };
        self.enter_callback(context, Phase::Response);
        let flow = self.feed(context, event);
        self.finish(flow)
    }

    fn response_in_kong(&mut self, fields: Vec<(Bytes, Bytes)>) -> Event<'static> {
        let some_missing = fields.len() >= self.profile.max_fields();
        let headers = Headers::lowered(fields);
        let attempts = Attempts::read(&self.host);
        if attempts.restarted() {
            self.sends_twice = true;
            self.host
                .log(Level::Error, &format!("idempotency: {}", kong::SENT_TWICE));
        } else if attempts.count() > 1 {
            self.host.log(
                Level::Warn,
                "idempotency: nginx sent a protected request upstream more than once; set \
                 proxy_next_upstream off",
            );
        }
        let status = headers.get(":status").cloned().unwrap_or_default();
        let source = match some_missing {
            // What is not seen cannot be replayed, nor can the rest be trusted.
            true => Source::Doubtful,
            false => attempts.source(&status),
        };
        let end = kong::is_bodiless(&headers);
        Event::ResponseHeaders {
            headers,
            source,
            end,
        }
    }

    /// More of the response body has come.
    pub fn on_response_body(&mut self, context: u32, size: usize, end: bool) -> Flow {
        self.begin(context);
        let Some(entry) = self.streams.get(&context) else {
            return Flow::Continue;
        };
        if !entry.stream.is_active() {
            self.mend_body(context);
            return Flow::Continue;
        }
        let start = entry.response.start();
        self.enter_callback(context, Phase::Response);
        let chunk = self.new_bytes(Buffer::Response, start, size);
        if chunk.is_none() {
            self.feed(context, Event::Unreadable);
        }
        let chunk = chunk.unwrap_or_default();
        let flow = self.feed(context, Event::ResponseBody { chunk: &chunk, end });
        let flow = self.finish(flow);
        if let Some(entry) = self.streams.get_mut(&context) {
            entry.response.advance(size, flow);
        }
        flow
    }

    /// The response has trailers.
    pub fn on_response_trailers(&mut self, context: u32) -> Flow {
        self.begin(context);
        self.enter_callback(context, Phase::Response);
        let flow = self.feed(context, Event::ResponseTrailers);
        self.finish(flow)
    }

    /// A stream has ended. (`on_log` says the same, and is not listened to.) Of a
    /// root, the host asks whether it may go: one that is being replaced stays until its executions
    /// have ended and its settlements are delivered.
    pub fn on_done(&mut self, context: u32) -> bool {
        self.begin(context);
        if self.is_active(context) {
            self.feed(context, Event::Gone);
        }
        self.finish(Flow::Continue);
        let idle = self.is_idle(context);
        if let Some(root) = self.roots.get_mut(&context) {
            root.leaving = !idle;
        }
        idle
    }

    /// The context is no more. Kong's host leaves out `on_done` where an error page took the request
    /// over, and no hostcall may touch the stream any more.
    pub fn on_delete(&mut self, context: u32) {
        self.begin(context);
        if self.is_active(context) {
            self.feed(context, Event::Gone);
        }
        self.finish(Flow::Continue);
        match self.streams.get_mut(&context) {
            Some(entry) if entry.stream.lingers() => entry.deleted = true,
            Some(_) => self.forget(context),
            None => self.delete_root(context),
        }
    }

    /// A stream that was protected has come to its end, its settlement is in the outbox.
    fn forget(&mut self, context: u32) {
        if let Some(entry) = self.streams.remove(&context).filter(|entry| entry.counted) {
            self.count(entry.root, Counter::ProtectedEnded);
        }
    }

    fn delete_root(&mut self, context: u32) {
        if self.roots.remove(&context).is_some() {
            self.streams
                .retain(|_, e| !(e.deleted && e.root == context));
        }
    }

    /// Whether a root has nothing left to do. What is no root has nothing to do.
    fn is_idle(&self, context: u32) -> bool {
        let lingers = |e: &Entry| e.deleted && e.root == context;
        self.roots
            .get(&context)
            .is_none_or(|root| root.is_idle() && !self.streams.values().any(|e| lingers(e)))
    }

    /// The headers of our own answer pass the response callbacks.
    fn mend_headers(&mut self, context: u32) {
        let entry = self.streams.get_mut(&context);
        if let Some(reply) = entry.and_then(|e| e.reply.as_mut()) {
            reply.mend_headers(&self.host);
        }
    }

    /// The body of our own answer passes the response callbacks.
    fn mend_body(&mut self, context: u32) {
        let entry = self.streams.get_mut(&context);
        if let Some(reply) = entry.and_then(|e| e.reply.as_mut()) {
            reply.mend_body(&self.host);
        }
    }

    fn is_active(&self, context: u32) -> bool {
        self.streams
            .get(&context)
            .is_some_and(|e| e.stream.is_active())
    }

    fn new_bytes(&self, buffer: Buffer, start: usize, size: usize) -> Option<Bytes> {
        let length = size.saturating_sub(start);
        if length == 0 {
            return Some(Bytes::new());
        }
        let bytes = self.host.buffer(buffer, start, length).ok();
        bytes.filter(|bytes| bytes.len() == length)
    }

    /// Hands an event to a stream and does what it asks.
    fn feed(&mut self, context: u32, event: Event) -> Flow {
        let Some(entry) = self.streams.get_mut(&context) else {
            return Flow::Continue;
        };
        let root = entry.root;
        let mut effects = Vec::new();
        let host = &self.host;
        let owners = &mut self.owners;
        let mut new_owner = || owners.next(host);
        let mut env = Env {
            profile: self.profile,
            clock: &|| self.clock.now(host),
            new_owner: &mut new_owner,
            effects: &mut effects,
        };
        let flow = entry.stream.on(event, &mut env);
        let over = entry.deleted && !entry.stream.lingers();
        let counted = over && entry.counted;
        if over {
            self.streams.remove(&context);
        }
        self.perform(root, context, effects);
        if counted {
            // Behind its settlement, so that the two together are never nothing in between.
            self.count(root, Counter::ProtectedEnded);
        }
        flow
    }

    /// From here on, a resume of this stream is the callback's return value.
    fn enter_callback(&mut self, context: u32, phase: Phase) {
        self.inside = Some((context, phase));
        self.resumed = false;
    }

    /// Ends a callback: what it has brought is worked off, and a resume that was asked for meanwhile is its
    /// return value.
    fn finish(&mut self, flow: Flow) -> Flow {
        self.work_off();
        self.inside = None;
        if std::mem::take(&mut self.resumed) {
            Flow::Continue
        } else {
            flow
        }
    }
}
