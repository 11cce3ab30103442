//! Inline execution: the request went on through the filter chain, and its response streams by.

use super::{call, refuse_unannounced, Effect, Env, Flow, State, Step};
use crate::call::CallResult;
use crate::ending::{settle_telling, Ending, Passing, CUT, UNCLEAR};
use crate::lease::Lease;
use crate::profile::Profile;
use crate::settlement;
use idempotency_core::classify::Source;
use idempotency_core::headers::Headers;
use idempotency_core::reply;
use idempotency_core::request::Request;
use idempotency_protocol::Operation;
use std::sync::Arc;

/// Responses of known length up to this are held whole: the client sees nothing before the record
/// is stored, and the record's expiry can travel in a header. Well below any host's buffer limit.
const HOLD_LIMIT: u64 = 64 * 1024;

/// A running execution.
#[derive(Debug)]
pub(super) struct Run {
    pub request: Arc<Request>,
    pub lease: Lease,
}

/// What the client has seen of the response when the settlement goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Nothing.
    Whole,
    /// All but the end.
    End,
}

/// A response that is streaming by.
#[derive(Debug)]
pub(super) struct Capturing {
    run: Box<Run>,
    passing: Passing,
    held: Held,
    /// What is held says with this status that the execution was cut.
    cut: Option<u16>,
}

/// A response whose end waits for the settlement's answer.
#[derive(Debug)]
pub(super) struct Settling {
    run: Box<Run>,
    held: Held,
    cut: Option<u16>,
}

impl Run {
    pub(super) fn response(
        self: Box<Self>,
        headers: &Headers,
        source: &Source,
        end: bool,
        env: &mut Env,
    ) -> Step {
        let passing = Passing::begin(&self.request, Some(&self.lease), source, headers, end);
        for (name, _) in &headers.0 {
            if reply::is_ours(&self.request.settings.policies, name) {
                env.effect(Effect::RemoveResponseHeader(name.clone()));
            }
        }
        // A host that can hold no response passes on what it made itself.
        let cut = match env.profile {
            Profile::Envoy => passing.so_far().is_cut(source, headers),
            Profile::Kong => None,
        };
        let held = match passing.left() {
            _ if cut.is_some() => Held::Whole,
            Some(length) if length <= HOLD_LIMIT => Held::Whole,
            _ if end => Held::Whole,
            _ => Held::End,
        };
        let capturing = Box::new(Capturing {
            run: self,
            passing,
            held,
            cut,
        });
        capturing.go_on(held == Held::Whole, env)
    }

    /// It was never sent, and must not be: its fingerprint was made without the body.
    pub(super) fn unannounced(&self, env: &mut Env) -> Step {
        self.end(Ending::NotSent, (0, CUT), env);
        refuse_unannounced(&self.request, env)
    }

    /// The stream ended before there was an answer: it may have been executed.
    pub(super) fn cut_off(&self, env: &mut Env) {
        self.end(Ending::Unknown, (0, CUT), env);
    }

    /// Ends in the background.
    fn end(&self, ending: Ending, told: (u16, &'static str), env: &mut Env) {
        let operation = settle_telling(&self.request, ending, &self.lease, told, env.effects);
        env.effect(Effect::Background(operation));
    }
}

impl Capturing {
    pub(super) fn body(mut self: Box<Self>, chunk: &[u8], end: bool, env: &mut Env) -> Step {
        self.passing.body(chunk, end, env.profile);
        // A client is done when it has all of `content-length`, so the piece that reaches it is held back, not
        // only the empty last call (measured).
        let hold = self.held == Held::Whole || self.passing.left() == Some(0);
        self.go_on(hold, env)
    }

    pub(super) fn unreadable(&mut self) {
        self.passing.unreadable();
    }

    pub(super) fn trailers(mut self: Box<Self>, env: &mut Env) -> Step {
        self.passing.trailers();
        self.go_on(true, env)
    }

    /// Settles at the end of the response. `hold`: before that, what has come is not for the client yet, if
    /// the host can hold it.
    fn go_on(self: Box<Self>, hold: bool, env: &mut Env) -> Step {
        let can_hold = env.profile == Profile::Envoy;
        if !self.passing.is_over() {
            let flow = match hold && can_hold {
                true => Flow::Pause,
                false => Flow::Continue,
            };
            return (State::Capturing(self), flow);
        }
        let Capturing {
            run,
            passing,
            held,
            cut,
        } = *self;
        // A host that holds no responses makes no calls meanwhile, either.
        if !can_hold {
            let told = (passing.status(), UNCLEAR);
            run.end(passing.ending(), told, env);
            return (State::Answered, Flow::Continue);
        }
        let told = (passing.status(), UNCLEAR);
        let ending = passing.ending();
        let operation = settle_telling(&run.request, ending, &run.lease, told, env.effects);
        env.effect(call(operation));
        (State::Settling(Settling { run, held, cut }), Flow::Pause)
    }

    /// The stream ended in the middle of the response.
    pub(super) fn cut_off(self, env: &mut Env) {
        self.run.end(self.passing.ending(), (0, CUT), env);
    }
}

impl Settling {
    pub(super) fn settled(
        self,
        operation: Box<Operation>,
        result: &CallResult,
        env: &mut Env,
    ) -> Step {
        let Settling { run, held, cut } = self;
        let told = settlement::answered(&run.request, operation, result, env.effects);
        let told = match cut {
            Some(status) => Err(run.request.cut(&run.lease.key, status)),
            None => told,
        };
        match (told, held) {
            (Ok(header), _) => {
                if let (Some((name, value)), Held::Whole) = (header, held) {
                    env.effect(Effect::AddResponseHeader(name, value));
                }
                env.effect(Effect::ResumeResponse);
            }
            (Err(reply), Held::Whole) => env.effect(Effect::Reply(reply)),
            (Err(_), Held::End) => env.effect(Effect::Reset),
        }
        (State::Answered, Flow::Pause)
    }
}
