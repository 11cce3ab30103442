//! Effects become hostcalls here, and nowhere else.

use super::callouts::Cargo;
use super::own_reply::{given, OwnReply};
use super::work::Work;
use super::{Filter, Phase};
use crate::detached;
use crate::execution::{Executed, Execution};
use crate::forward::{self, HeaderChange};
use crate::host::{Buffer, Host, Level, Map};
use crate::profile::Profile;
use crate::stats::Counter;
use crate::stream::{Effect, Execute};
use bytes::Bytes;
use idempotency_core::reply::LocalReply;

impl<H: Host> Filter<H> {
    /// Makes hostcalls act on `context`. False: there is no such context any more.
    ///
    /// Callouts need none of it: they are the root's, whichever of its contexts they are made in
    /// (docs/envoy-facts.md).
    pub(super) fn enter(&mut self, context: u32) -> bool {
        if self.current == context {
            return true;
        }
        // Kong's host takes every number, and does nothing.
        if self.profile == Profile::Envoy && self.host.set_context(context).is_err() {
            return false;
        }
        self.current = context;
        true
    }

    pub(super) fn count(&self, root: u32, counter: Counter) {
        if let Some(root) = self.roots.get(&root) {
            root.metrics.count(&self.host, counter);
        }
    }

    /// Whether a call in the name of this stream would hold it, though it is only observed.
    fn is_held_by_calls(&self, context: u32) -> bool {
        self.profile == Profile::Kong
            && self
                .streams
                .get(&context)
                .is_some_and(|e| e.stream.is_observing())
    }

    /// Answers the current stream.
    pub(super) fn reply(&mut self, context: u32, reply: LocalReply) {
        let details = self.profile.reply_details(reply.status);
        let sent = self.host.local_reply(
            reply.status,
            details,
            &reply.headers,
            given(self.profile, &reply),
        );
        if sent.is_err() {
            self.host
                .log(Level::Error, "idempotency: the host refused a local reply");
            if self.profile == Profile::Envoy {
                let _ = self.host.reset_stream();
            }
        }
        if let Some(entry) = self.streams.get_mut(&context) {
            entry.reply = Some(OwnReply::new(self.profile, reply));
        }
    }

    /// Does what a stream asked for, in order. `trace`: the `traceparent` of its request, where the stream may have
    /// gone.
    pub(super) fn perform(
        &mut self,
        root: u32,
        context: u32,
        trace: Option<&Bytes>,
        mut effects: Vec<Effect>,
    ) {
        for effect in effects.drain(..) {
            self.one(root, context, trace, effect);
        }
        self.effects = effects;
    }

    fn one(&mut self, root: u32, context: u32, trace: Option<&Bytes>, effect: Effect) {
        let trace = |filter: &Filter<H>| match trace {
            Some(trace) => trace.clone(),
            None => filter.trace_of(context),
        };
        match effect {
            Effect::Call(call) if self.is_held_by_calls(context) => {
                self.defer(root, context, call);
            }
            Effect::Call(call) => self.call(root, context, call),
            Effect::Background(operation) => {
                let trace = trace(self);
                self.background(root, *operation, trace);
            }
            Effect::Execute(execute) => self.execute(root, context, *execute),
            Effect::Track(lease) => {
                let trace = trace(self);
                if let Some(r) = self.roots.get_mut(&root) {
                    r.leases.track(lease, trace);
                }
            }
            Effect::Untrack(owner) => {
                if let Some(r) = self.roots.get_mut(&root) {
                    r.leases.untrack(owner);
                }
            }
            Effect::Count(counter) => self.count(root, counter),
            Effect::CountRule(counter, rule) => self.count_rule(root, counter, &rule),
            Effect::Note(note) => self.tell_of(root, context, &note),
            Effect::ChangeRequest(changes) => {
                if self.enter(context) {
                    self.change_request(&changes);
                }
            }
            Effect::ResumeRequest => {
                if self.inside == Some((context, Phase::Request)) {
                    self.resumed = true;
                } else if self.profile == Profile::Envoy && self.enter(context) {
                    // (Kong's host goes on by itself after the last answer.)
                    let _ = self.host.resume_request();
                }
            }
            Effect::AddResponseHeader(name, value) => {
                if self.enter(context) {
                    let _ = self.host.set_header(Map::Response, &name, &value);
                }
            }
            Effect::RemoveResponseHeader(name) => {
                if self.enter(context) {
                    let _ = self.host.remove_header(Map::Response, &name);
                }
            }
            Effect::ResumeResponse => {
                if self.inside == Some((context, Phase::Response)) {
                    self.resumed = true;
                } else if self.enter(context) {
                    let _ = self.host.resume_response();
                }
            }
            Effect::Reply(reply) => {
                if self.enter(context) {
                    self.reply(context, reply);
                }
            }
            Effect::Reset => {
                if self.enter(context) {
                    let _ = self.host.reset_stream();
                }
            }
        }
    }

    fn change_request(&self, changes: &[HeaderChange]) {
        for change in changes {
            // A host that refuses a change of a request header has no reason to (the request is
            // still held); the fence is advice to the upstream, the lock does not depend on it.
            let _ = match change {
                HeaderChange::Remove(name) => self.host.remove_header(Map::Request, name),
                HeaderChange::Set(name, value) => self.host.set_header(Map::Request, name, value),
            };
        }
    }

    /// Sends a request on its detached way.
    fn execute(&mut self, root: u32, context: u32, execute: Execute) {
        let Execute {
            request,
            lease,
            forwarding,
            trailers,
        } = execute;
        let size = self.streams.get(&context).map_or(0, |e| e.request.seen);
        let body = if size == 0 {
            Some(Bytes::new())
        } else if self.enter(context) {
            self.host
                .buffer(Buffer::Request, 0, size)
                .ok()
                .filter(|b| b.len() == size)
        } else {
            None
        };
        let changes = forward::changes(self.profile, &request, &lease.key, &forwarding);
        let headers = detached::detached_headers(&request.headers, &changes);
        let timeout_ms = request.policy().execution_timeout_ms;

        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        let cluster = r.settings().and_then(|s| s.detached_cluster.clone());
        r.next_execution = r.next_execution.wrapping_add(1);
        let id = r.next_execution;
        let execution = Execution::new(request, lease, context);
        r.executions.insert(id, Box::new(execution));

        let token = match (body, cluster) {
            (Some(body), Some(cluster)) => self
                .host
                .callout(&cluster, &headers.0, &body, &trailers, timeout_ms)
                .ok(),
            _ => None,
        };
        match token {
            Some(token) => self.sent(root, token, Cargo::Execution(id)),
            None => self.work.push(Work::Executed {
                root,
                execution: id,
                executed: Executed::NotSent,
            }),
        }
    }
}
