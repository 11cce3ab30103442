//! What the host tells of a client's request.

use super::root::Root;
use super::{Filter, Phase};
use crate::body::{self, Body};
use crate::head::{self, HostProperties};
use crate::host::{Buffer, Host, Level, Map};
use crate::profile::Profile;
use crate::stats::Counter;
use crate::stream::{Env, Event, Flow, Stream};
use bytes::Bytes;
use idempotency_core::config::Mode;
use idempotency_core::decide::{self, decide, Decision, Verdict};
use idempotency_core::headers::Headers;
use idempotency_core::names::{self, Kind, Names};
use idempotency_core::problem::{Problem, ProblemSettings};
use idempotency_core::reply::LocalReply;

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
                let mut effects = std::mem::take(&mut self.effects);
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
}
