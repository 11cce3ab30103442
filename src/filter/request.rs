//! What the host tells of a client's request.

use super::root::Root;
use super::{time, Filter, Phase};
use crate::body::{self, Body};
use crate::head::{self, HostProperties};
use crate::host::{Buffer, Host, Map};
use crate::kong;
use crate::note::{Note, REQUEST_ID};
use crate::profile::Profile;
use crate::stats::Counter;
use crate::stream::{Env, Event, Flow, Stream};
use bytes::Bytes;
use idempotency_core::config::Mode;
use idempotency_core::decide::{self, decide, Decision, Refused, Verdict};
use idempotency_core::headers::Headers;
use idempotency_core::names::{self, Kind, Names};
use idempotency_core::problem::{Problem, ProblemSettings};
use idempotency_core::reply::LocalReply;
use std::sync::Arc;

/// What the operator is told where nothing can be decided.
const WITHOUT_SETTINGS: &str =
    "the configuration was rejected, or the gateway sends requests twice; an earlier error line says what to correct";

impl<H: Host> Filter<H> {
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
            Verdict::Observed(refused) => {
                let what = Counter::Observed(refused.problem);
                self.tell_of_head(context, root_id, what, *refused, 0);
                Flow::Continue
            }
            Verdict::Refuse(refused, reply) => self.refuse(context, root_id, *refused, reply),
            Verdict::Protect {
                mut request,
                hasher,
            } => {
                let late = settings.late_bodies;
                let body = match body::of(self.profile, &request, late, &self.host, end) {
                    Ok(body) => body,
                    Err((problem, detail, reply)) => {
                        let refused = Refused {
                            problem,
                            rule: Some(Arc::clone(&request.rule)),
                            detail,
                        };
                        if request.rule.observes() {
                            let what = Counter::Observed(problem);
                            self.tell_of_head(context, root_id, what, refused, 0);
                            return Flow::Continue;
                        }
                        return self.refuse(context, root_id, refused, reply);
                    }
                };
                if let Some(request) = Arc::get_mut(&mut request) {
                    head::describe(self.profile, request, &self.host);
                }
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
                let mut effects = std::mem::take(&mut self.effects);
                let host = &self.host;
                let owners = &mut self.owners;
                let mut new_owner = || owners.next(host);
                let (clock, roots) = (&self.clock, &self.roots);
                let mut env = Env {
                    profile: self.profile,
                    clock: &|look| time(clock, host, roots.get(&root_id).map(|r| &**r), look),
                    new_owner: &mut new_owner,
                    effects: &mut effects,
                };
                let trace = request.traceparent();
                let (stream, flow) = Stream::protect(request, hasher, whole, &mut env);
                // Where a worker that is told to end can record nothing any more, somebody has to know
                // when nothing is under way.
                let counted = self.profile == Profile::Kong;
                if counted {
                    self.count(root_id, Counter::ProtectedBegun);
                }
                if let Some(entry) = self.streams.get_mut(&context) {
                    entry.counted = counted;
                    entry.stream = stream;
                    entry.trace = trace;
                    entry.body_expected_ns = whole.is_none().then_some(0);
                    entry.body = match body {
                        // It is hashed, and not needed any more.
                        Body::Whole(_) => Body::Whole(Bytes::new()),
                        other => other,
                    };
                }
                self.perform(root_id, context, None, effects);
                self.finish(flow)
            }
        }
    }

    /// Answers a request that is not to be executed.
    #[cold]
    fn refuse(&mut self, context: u32, root: u32, refused: Refused, reply: LocalReply) -> Flow {
        if let Some(entry) = self.streams.get_mut(&context) {
            entry.stream = Stream::answered();
        }
        let what = Counter::Problem(refused.problem);
        self.tell_of_head(context, root, what, refused, reply.status);
        self.reply(context, reply);
        Flow::Pause
    }

    /// Tells of a decision that was made from the head alone. `status`: the answer's; 0: as ever.
    #[cold]
    fn tell_of_head(
        &mut self,
        context: u32,
        root: u32,
        what: Counter,
        refused: Refused,
        status: u16,
    ) {
        // The head is gone with the decision, but for what was removed from it the host still has it.
        let header = |name| self.host.header(Map::Request, name).ok().flatten();
        let mut note = Note::new(what);
        note.method = header(":method").unwrap_or_default();
        note.request_id = match (header(REQUEST_ID), self.profile) {
            (Some(id), _) => id,
            (None, Profile::Kong) => self.host.property(&kong::REQUEST_ID).unwrap_or_default(),
            (None, Profile::Envoy) => Bytes::new(),
        };
        note.rule = refused.rule;
        note.why = refused.detail;
        if status != 0 {
            note.status = status;
        }
        self.tell_of(root, context, &note);
    }

    fn misconfigured(&mut self, context: u32, root: u32) -> Flow {
        let method = self.host.header(Map::Request, ":method").ok().flatten();
        let safe = matches!(method.as_deref(), Some(b"GET" | b"HEAD" | b"OPTIONS"));
        if safe && !head::has_ours(self.profile, &self.host) {
            return Flow::Continue;
        }
        let problem = Problem::Misconfigured;
        let refused = Refused {
            problem,
            rule: None,
            detail: WITHOUT_SETTINGS.into(),
        };
        let reply = problem.reply(&ProblemSettings::DEFAULT, None);
        self.refuse(context, root, refused, reply)
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
}
