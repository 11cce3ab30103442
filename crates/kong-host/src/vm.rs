//! One worker's filter: the host's callbacks in their order, and the judge's verdict on each.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use idempotency_filter::filter::Filter;
use idempotency_filter::stream::Flow;
use idempotency_filter::testing::kong_rules::{Step, Verdict};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::{interval, MissedTickBehavior};

use crate::callout::{self, Answer};
use crate::host::{Handle, Shared};
use crate::metrics::Metrics;
use crate::report::broken;
use crate::stream::{Body, Fields, Reply, Stream, Upstream};

/// The root's id. The host makes them of a checksum, so they are large and not 1.
const ROOT: u32 = 2_494_085_596;

/// A VM with one root.
pub struct Vm {
    /// `None`: everything passes, as on a route without a filter chain.
    filter: Option<RefCell<Filter<Handle>>>,
    shared: Rc<Shared>,
    /// Streams that are held by a callout.
    held: RefCell<BTreeMap<u32, oneshot::Sender<Verdict>>>,
    last: Cell<u32>,
}

impl Vm {
    /// Starts the root: context, VM start, configuration, and its tick from then on. Must be
    /// called in a local task set.
    pub fn start(configuration: Option<&str>, metrics: Arc<Metrics>, resolver: bool) -> Rc<Self> {
        let text = configuration.unwrap_or_default();
        let shared = Shared::new(Bytes::copy_from_slice(text.as_bytes()), metrics, resolver);
        let filter = configuration.map(|_| RefCell::new(Filter::new(Handle(shared.clone()))));
        let vm = Rc::new(Self {
            filter,
            shared,
            held: RefCell::default(),
            last: Cell::new(0),
        });
        vm.callback(Step::Configure(ROOT), None, |filter| {
            filter.on_context_create(ROOT, 0);
            if !filter.on_configure(ROOT, text.len()) {
                broken("on_configure said no: traffic would flow without a filter");
            }
            Flow::Continue
        });
        if let Some(period) = vm.shared.tick.get() {
            spawn_local(vm.clone().tick(period));
        }
        vm
    }

    async fn tick(self: Rc<Self>, period: std::time::Duration) {
        let mut ticks = interval(period);
        // The timer is set again after each tick.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.callback(Step::Tick(ROOT), None, |filter| {
                filter.on_tick(ROOT);
                Flow::Continue
            });
        }
    }

    /// Runs one callback, and sends off what it dispatched.
    fn callback(
        self: &Rc<Self>,
        step: Step,
        stream: Option<u32>,
        run: impl FnOnce(&mut Filter<Handle>) -> Flow,
    ) -> Verdict {
        let Some(filter) = &self.filter else {
            return Verdict::GoesOn;
        };
        self.shared.current.set(stream);
        self.shared.rules.borrow_mut().begin(step, stream);
        let flow = run(&mut filter.borrow_mut());
        let verdict = Shared::judge(self.shared.rules.borrow_mut().end(flow));
        self.dispatch();
        verdict
    }

    fn dispatch(self: &Rc<Self>) {
        for (token, callout) in self.shared.outgoing.take() {
            let vm = self.clone();
            spawn_local(async move {
                vm.shared.metrics.callout_out();
                let answer = callout::make(callout).await;
                vm.shared.metrics.callout_back();
                vm.answered(token, answer);
            });
        }
    }

    fn answered(self: &Rc<Self>, token: u32, answer: Answer) {
        let Some(filter) = &self.filter else {
            return;
        };
        if !self.shared.rules.borrow().is_pending(token) {
            return;
        }
        let (headers, size) = (answer.headers.len(), answer.size);
        self.shared.answer.replace(answer);
        let stream = self
            .shared
            .rules
            .borrow_mut()
            .begin_answer(token, headers, size);
        self.shared.current.set(stream);
        filter
            .borrow_mut()
            .on_callout(ROOT, token, headers, size, 0);
        let verdict = Shared::judge(self.shared.rules.borrow_mut().end(Flow::Continue));
        self.dispatch();
        if let (Some(stream), Verdict::GoesOn | Verdict::Replies) = (stream, verdict) {
            if let Some(held) = self.held.borrow_mut().remove(&stream) {
                // The request may have gone meanwhile.
                let _ = held.send(verdict);
            }
        }
    }

    /// A request has come.
    pub fn open(self: &Rc<Self>, stream: Stream) -> u32 {
        let id = self.last.get().wrapping_add(1);
        self.last.set(id);
        self.shared.streams.borrow_mut().insert(id, stream);
        if let Some(filter) = &self.filter {
            filter.borrow_mut().on_context_create(id, ROOT);
        }
        id
    }

    /// Request headers. `end` is always false on this host.
    pub async fn request_headers(self: &Rc<Self>, id: u32) -> Verdict {
        let verdict = self.callback(Step::RequestHeaders, Some(id), |filter| {
            filter.on_request_headers(id, false)
        });
        self.until_decided(id, verdict).await
    }

    /// Somebody reads the body before the filter runs.
    pub fn read_early(&self, id: u32, body: Body) {
        self.shared.stream(id, |stream| stream.body = Some(body));
    }

    /// The whole body, once; never an empty one. `ignore_client_abort`: as nginx is set.
    pub async fn request_body(
        self: &Rc<Self>,
        id: u32,
        body: Body,
        ignore_client_abort: bool,
    ) -> Verdict {
        let size = body.bytes().len();
        self.shared.stream(id, |stream| stream.body = Some(body));
        let verdict = self.callback(Step::RequestBody(size), Some(id), |filter| {
            filter.on_request_body(id, size, true)
        });
        if verdict == Verdict::Waits && ignore_client_abort {
            // Measured: the module stays the request's write event handler.
            broken(
                "a callout from the body callback with proxy_ignore_client_abort on: nginx runs the \
                 content phase again at the next write event, and the request is executed twice",
            );
        }
        self.until_decided(id, verdict).await
    }

    async fn until_decided(self: &Rc<Self>, id: u32, verdict: Verdict) -> Verdict {
        if verdict != Verdict::Waits {
            return verdict;
        }
        let (sender, decided) = oneshot::channel();
        self.held.borrow_mut().insert(id, sender);
        // The sender goes only with the VM.
        decided.await.unwrap_or(Verdict::Replies)
    }

    /// What the filter answered with.
    pub fn reply(&self, id: u32) -> Option<Reply> {
        self.shared.stream(id, |stream| stream.reply.take())?
    }

    /// What goes upstream: method and headers, as the filter left them.
    pub fn request(&self, id: u32) -> Option<(Bytes, Fields)> {
        self.shared
            .stream(id, |stream| (stream.method.clone(), stream.request.clone()))
    }

    /// What became of the try to reach an upstream.
    pub fn tried(&self, id: u32, upstream: Upstream) {
        self.shared
            .stream(id, |stream| stream.upstream = Some(upstream));
    }

    /// Response headers; returns what the filter made of them.
    pub fn response_headers(
        self: &Rc<Self>,
        id: u32,
        status: u16,
        headers: Fields,
    ) -> (u16, Fields) {
        self.shared.stream(id, |stream| {
            stream.status = Some(status);
            stream.response = headers;
        });
        self.callback(Step::ResponseHeaders, Some(id), |filter| {
            filter.on_response_headers(id, false)
        });
        let changed = self.shared.stream(id, |stream| {
            (stream.status.unwrap_or(status), stream.response.clone())
        });
        changed.unwrap_or((status, Fields::new()))
    }

    /// A piece of the response body; returns what the filter made of it.
    pub fn response_body(self: &Rc<Self>, id: u32, piece: Bytes, end: bool) -> Bytes {
        let size = piece.len();
        self.shared.stream(id, |stream| stream.piece = piece);
        self.callback(Step::ResponseBody(size), Some(id), |filter| {
            filter.on_response_body(id, size, end)
        });
        let piece = self
            .shared
            .stream(id, |stream| std::mem::take(&mut stream.piece));
        piece.unwrap_or_default()
    }

    /// The request is over. `logged`: it passes the log phase; after an internal redirect to
    /// Kong's error page the host has forgotten its filters, and only deletes their contexts. What the filter has
    /// told in `$idempotency`.
    pub fn close(self: &Rc<Self>, id: u32, status: u16, logged: bool) -> Bytes {
        if logged {
            self.shared
                .stream(id, |stream| stream.status = Some(status));
            self.callback(Step::Log, Some(id), |filter| {
                // What it says is ignored.
                let _ = filter.on_done(id);
                Flow::Continue
            });
        }
        self.shared.rules.borrow_mut().forget(id);
        let stream = self.shared.streams.borrow_mut().remove(&id);
        self.callback(Step::Delete, None, |filter| {
            filter.on_delete(id);
            Flow::Continue
        });
        stream.map(|stream| stream.told).unwrap_or_default()
    }
}
