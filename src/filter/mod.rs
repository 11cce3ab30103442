//! The glue between the host's callbacks and the state machines: it reads what an event needs,
//! hands it to the machine, and does what the machine asks. Generic over [`Host`], so that native
//! tests drive the same path as the wasm.

mod answers;
mod batches;
mod callouts;
mod lane;
mod metrics;
mod notes;
mod own_reply;
mod owners;
mod perform;
mod request;
mod response;
mod root;
#[cfg(any(test, feature = "testing"))]
mod tests;
mod tick;
mod work;

#[cfg(feature = "testing")]
pub use tests::random::random_events;

use crate::body::Body;
use crate::call::Read;
use crate::clock::{Clock, Moment};
use crate::host::{Buffer, Host};
use crate::ids::IdMap;
use crate::profile::Profile;
use crate::stats::Counter;
use crate::stream::{Effect, Env, Event, Flow, Look, Stream};
use bytes::Bytes;
use callouts::{Pending, SpareLists};
use own_reply::OwnReply;
use owners::Owners;
use root::Root;
use work::WorkQueue;

/// The time for a stream of this root.
#[inline(never)]
fn time<H: Host>(clock: &Clock, host: &H, root: Option<&Root>, look: Look) -> Moment {
    let ticks = look == Look::NotLater && root.is_some_and(|r| r.ticks());
    let last = clock.last().filter(|_| ticks);
    last.unwrap_or_else(|| clock.now(host))
}

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
struct StreamEntry {
    root: u32,
    stream: Stream,
    /// The `traceparent` of a protected request; empty: it has none.
    trace: Bytes,
    request: Cursor,
    response: Cursor,
    /// A request with a body waits for it, since this time ([`Moment::least_ns`]); 0: no tick has looked yet, and
    /// to look at the clock before would cost a hostcall of every request.
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
    streams: IdMap<u32, Box<StreamEntry>>,
    pending: IdMap<u32, Pending>,
    work: WorkQueue,
    /// Room for effects, used again and again.
    effects: Vec<Effect>,
    /// Room for answers of the service, used again and again.
    answers: Vec<Read>,
    spare: SpareLists,
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
            effects: Vec::new(),
            answers: Vec::new(),
            spare: SpareLists::default(),
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
            let entry = StreamEntry {
                root: parent,
                stream: Stream::passing(),
                trace: Bytes::new(),
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
            let ticks = self.host.set_tick(self.profile.tick_ms()).is_ok();
            root.ticks = ticks && self.profile == Profile::Envoy;
        }
        true
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
            root.metrics.flush(&self.host);
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
        if let Some(root) = self.roots.remove(&context) {
            root.metrics.flush(&self.host);
            self.streams
                .retain(|_, e| !(e.deleted && e.root == context));
        }
    }

    /// Whether anything is known of a stream; if not, its bodies and its response are nothing to the filter.
    pub fn knows(&self, context: u32) -> bool {
        self.streams.contains_key(&context)
    }

    /// Whether a root has nothing left to do. What is no root has nothing to do.
    pub fn is_idle(&self, context: u32) -> bool {
        let lingers = |e: &StreamEntry| e.deleted && e.root == context;
        self.roots
            .get(&context)
            .is_none_or(|root| root.is_idle() && !self.streams.values().any(|e| lingers(e)))
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
        let mut effects = std::mem::take(&mut self.effects);
        let host = &self.host;
        let owners = &mut self.owners;
        let mut new_owner = || owners.next(host);
        let (clock, roots) = (&self.clock, &self.roots);
        let mut env = Env {
            profile: self.profile,
            clock: &|look| time(clock, host, roots.get(&root).map(|r| &**r), look),
            new_owner: &mut new_owner,
            effects: &mut effects,
        };
        let flow = entry.stream.on(event, &mut env);
        let over = entry.deleted && !entry.stream.lingers();
        let counted = over && entry.counted;
        if over {
            self.streams.remove(&context);
        }
        self.perform(root, context, None, effects);
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
