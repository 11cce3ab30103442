//! What the lock of a worker guards: the filter, and what it has asked for. Nothing here waits for the lock. Envoy is called
//! only to send a callout again, and to ask for a hook.

use crate::abi::Object;
use crate::callouts::Carrier;
use crate::envoy::{self, Bell, Caller};
use crate::home::Home;
use crate::host::{Native, News, Op, Reply, State, QUEUE, ROOT};
use idempotency_core::problem::{Problem, ProblemSettings};
use idempotency_filter::details::OURS;
use idempotency_filter::filter::Filter;
use std::cell::RefMut;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

/// The filter of one worker.
pub struct Core {
    pub filter: Filter<Native>,
    /// The filter could not be made anew: everything is refused.
    pub dead: bool,
}

/// A filter with a root and its configuration.
pub fn new_filter(home: &Arc<Home>) -> Filter<Native> {
    let mut filter = Filter::new(Native::new(Arc::clone(home)));
    filter.on_context_create(ROOT, 0);
    filter.on_configure(ROOT, home.text.len());
    filter
}

impl Core {
    pub fn state(&self) -> RefMut<'_, State> {
        self.filter.host().state()
    }

    /// After a panic: another filter, without the streams of this one.
    pub fn renew(&mut self, home: &Arc<Home>) {
        let streams = std::mem::take(&mut self.state().streams);
        match catch_unwind(AssertUnwindSafe(|| new_filter(home))) {
            Ok(filter) => self.filter = filter,
            Err(_) => self.dead = true,
        }
        let mut state = self.state();
        state.ops.clear();
        state.later.clear();
        state.news.clear();
        for number in streams.protected() {
            state
                .ops
                .push_back((number, end_of(streams.responds(number))));
        }
        state.streams = streams;
        for number in state.streams.protected() {
            state.streams.finish(number);
        }
    }

    /// What a stream has carried is carried on by another one, or by the main thread.
    pub fn carry_over(&mut self, number: u32) {
        let orphans = self.state().callouts.orphans(number);
        for token in orphans {
            let (message, left_ms, carrier) = {
                let mut state = self.state();
                let may = state.callouts.may_move(token);
                let Some(out) = state.callouts.get(token) else {
                    continue;
                };
                let message = Arc::clone(&out.message);
                let left_ms = out.deadline_ms.saturating_sub(crate::clock_ms());
                let waiting = if may { state.streams.waiting() } else { None };
                let carrier = waiting.and_then(|s| Some((s, state.streams.envoy(s)?)));
                (message, left_ms, carrier)
            };
            let sent = match carrier {
                _ if left_ms == 0 => None,
                Some((stream, envoy)) => {
                    let sent = envoy::callout(Caller::Stream(envoy), &message, left_ms);
                    sent.ok().map(|id| Carrier::Stream(stream, id))
                }
                None => Some(Carrier::Main),
            };
            let mut state = self.state();
            match sent {
                Some(carrier) => {
                    state.callouts.moved(token, carrier);
                    if carrier == Carrier::Main {
                        state.for_main.push_back(token);
                    }
                }
                None => {
                    state.callouts.give_up(token);
                    state.news.push_back(News::Answered(token, None));
                }
            }
        }
    }

    /// The next thing to do for a stream; before, the filter hears all news.
    pub fn next(&mut self, inside: Option<u32>) -> Option<(Object, Op)> {
        loop {
            let news = self.state().news.pop_front();
            if let Some(news) = news {
                self.hear(news);
                continue;
            }
            let mut state = self.state();
            let (stream, op) = state.ops.pop_front()?;
            // Its end was told meanwhile.
            let Some(envoy) = state.streams.envoy(stream) else {
                continue;
            };
            if let Op::Reply(reply) = &op {
                if reply.raw && inside == Some(stream) {
                    state.later.push((stream, op));
                    continue;
                }
                if reply.raw {
                    // It passes our own hooks, as an upstream's answer does.
                    state.streams.send(stream);
                    if !reply.body.is_empty() {
                        let body = Op::Body(reply.body.clone());
                        state.ops.push_front((stream, body));
                    }
                }
            }
            if matches!(op, Op::ResumeRequest | Op::ResumeResponse) && state.streams.ends(stream) {
                continue;
            }
            return Some((envoy, op));
        }
    }

    pub fn hear(&mut self, news: News) {
        if self.dead {
            return;
        }
        let News::Answered(token, answer) = news;
        {
            let mut state = self.state();
            state.current = ROOT;
            state.inside = None;
            state.dirty = true;
        }
        let fields = answer.as_ref().map_or(0, |answer| answer.fields);
        let size = answer.as_ref().map_or(0, |answer| answer.body.len());
        self.filter.host().show(answer);
        self.filter.on_callout(ROOT, token, fields, size, 0);
        self.filter.host().show(None);
    }

    /// The filter's turn and tick, if they are due.
    pub fn look_around(&mut self) {
        if self.dead {
            return;
        }
        let (turn, tick) = {
            let mut state = self.state();
            state.current = ROOT;
            state.inside = None;
            (
                std::mem::take(&mut state.turn),
                std::mem::take(&mut state.tick),
            )
        };
        if turn {
            self.filter.on_queue_ready(ROOT, QUEUE);
        }
        if tick {
            self.state().dirty = false;
            self.filter.on_tick(ROOT);
        }
    }

    /// The worker has done everything: it makes sure of being called again. True: the main thread has something
    /// to do.
    pub fn rest(&mut self) -> bool {
        let idle = self.filter.is_idle(ROOT);
        let mut state = self.state();
        state.busy = state.dirty || !idle || !state.callouts.is_empty();
        let main = !state.for_main.is_empty();
        if state.streams.is_empty() {
            return main || state.turn || !state.news.is_empty();
        }
        let wanted = state.busy || state.turn || !state.later.is_empty();
        if wanted && state.bell.is_none() {
            let stream = state.streams.waiting().or_else(|| state.streams.any());
            let bell = stream.and_then(|s| Some((s, Bell::new(state.streams.envoy(s)?)?)));
            state.bell = bell;
        }
        if state.turn || !state.later.is_empty() || !state.news.is_empty() {
            state.ring();
        }
        main
    }

    /// Runs the filter where no stream lives. What it asks for streams is for none.
    pub fn run_on_main(&mut self) {
        if !self.state().streams.is_empty() {
            return;
        }
        self.state().on_main = true;
        loop {
            let news = self.state().news.pop_front();
            match news {
                Some(news) => self.hear(news),
                None => break,
            }
        }
        self.look_around();
        let mut state = self.state();
        state.ops.clear();
        state.later.clear();
        state.on_main = false;
    }
}

/// How a stream ends that nobody knows anything of any more.
pub fn end_of(responds: bool) -> Op {
    if responds {
        return Op::Reset;
    }
    let reply = Problem::StoreUnavailable.reply(&ProblemSettings::DEFAULT, None);
    Op::Reply(Box::new(Reply {
        status: reply.status,
        headers: reply.headers,
        body: reply.body,
        details: OURS.to_owned(),
        raw: false,
    }))
}
