//! The filter of one worker and one configuration: who may run it, and what is done when it has returned.
//!
//! While a stream of the worker lives, the filter runs on the worker, in the hooks of streams. When none lives, it
//! runs on the main thread: there its callouts and its clock go on, so that what clients left behind is settled.
//! One lock is held while it runs, and never over a call of Envoy's that may end a stream or call a hook.
//!
//! A panic is caught. Then the filter is made anew, and every stream that the old one knew is answered with 503 or
//! cut off. Their leases run out into `unknown`: nothing is executed again.
#![allow(unsafe_code)]

use crate::abi::{status, Object};
use crate::core::{end_of, new_filter, Core};
use crate::envoy::{self, Body};
use crate::home::{lock, Home};
use crate::host::{Answer, News, Op, Reply, State, ROOT};
use bytes::Bytes;
use idempotency_filter::stream::Flow;
use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

thread_local! {
    /// This thread runs a filter. A hook that Envoy calls meanwhile must not wait for the lock.
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
}

/// What hooks of a stream are given back by Envoy.
#[derive(Debug)]
pub struct Handle {
    pub unit: Arc<Unit>,
    pub number: u32,
    /// Envoy has not said that it ends.
    alive: Arc<AtomicBool>,
    /// The filter wants to know no more of it, but its trailers.
    passes: AtomicBool,
}

/// One worker's filter.
pub struct Unit {
    home: Arc<Home>,
    core: Mutex<Core>,
    /// The worker does what the filter has asked for.
    draining: AtomicBool,
}

impl std::fmt::Debug for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unit").finish_non_exhaustive()
    }
}

/// Why the filter did not run.
#[derive(Debug, PartialEq, Eq)]
enum NotRun {
    /// It is at work on this thread.
    Busy,
    /// It panicked.
    Panicked,
}

/// Has the filter define its metrics and say what it thinks of its configuration, while Envoy loads it.
pub fn rehearse(home: &Arc<Home>) -> bool {
    catch_unwind(AssertUnwindSafe(|| drop(new_filter(home)))).is_ok()
}

impl Unit {
    /// The filter of this worker.
    pub fn new(home: &Arc<Home>) -> Option<Arc<Unit>> {
        let filter = catch_unwind(AssertUnwindSafe(|| new_filter(home))).ok()?;
        let core = Core {
            filter,
            dead: false,
        };
        Some(Arc::new(Unit {
            home: Arc::clone(home),
            core: Mutex::new(core),
            draining: AtomicBool::new(false),
        }))
    }

    /// Whether it is one of this configuration's.
    pub fn is_of(&self, home: &Arc<Home>) -> bool {
        Arc::ptr_eq(&self.home, home)
    }

    /// Whether Envoy still has its configuration.
    pub fn is_alive(&self) -> bool {
        self.home.is_alive()
    }

    /// Runs the filter, or looks at its state.
    fn with<T>(&self, work: impl FnOnce(&mut Core) -> T) -> Result<T, NotRun> {
        if AT_WORK.replace(true) {
            return Err(NotRun::Busy);
        }
        let mut core = lock(&self.core);
        let done = catch_unwind(AssertUnwindSafe(|| work(&mut core)));
        let done = done.map_err(|_| {
            envoy::log(
                4,
                "idempotency: a panic in the filter; its streams are refused or cut off, and it starts anew",
            );
            core.renew(&self.home);
            NotRun::Panicked
        });
        drop(core);
        AT_WORK.set(false);
        done
    }

    /// A stream begins.
    pub fn begin(self: &Arc<Self>, envoy: Object) -> Option<Handle> {
        let alive = Arc::new(AtomicBool::new(true));
        let number = self.with(|core| {
            let number = core.state().streams.begin(envoy, Arc::clone(&alive));
            core.filter.on_context_create(number, ROOT);
            number
        });
        Some(Handle {
            unit: Arc::clone(self),
            number: number.ok()?,
            alive,
            passes: AtomicBool::new(false),
        })
    }

    /// Runs the filter in a hook of a stream, and does what it asks for. `HOLD` where it cannot run: nothing goes
    /// on that was not decided on.
    fn hook(self: &Arc<Self>, handle: &Handle, run: impl FnOnce(&mut Core, u32) -> Flow) -> u32 {
        let number = handle.number;
        let flow = self.with(|core| {
            {
                let mut state = core.state();
                if state.streams.sends(number) {
                    return Flow::Continue;
                }
                if state.streams.ends(number) {
                    return Flow::Pause;
                }
                if core.dead {
                    let op = end_of(state.streams.responds(number));
                    state.ops.push_back((number, op));
                    state.streams.finish(number);
                    return Flow::Pause;
                }
                state.current = number;
                state.inside = Some(number);
            }
            let flow = run(core, number);
            let mut state = core.state();
            state.inside = None;
            state.streams.hold(number, flow == Flow::Pause);
            flow
        });
        self.drain(Some(number));
        match flow {
            Ok(Flow::Continue) => status::CONTINUE,
            Ok(Flow::Pause) | Err(_) => status::HOLD,
        }
    }

    pub fn request_headers(self: &Arc<Self>, handle: &Handle, end: bool) -> u32 {
        self.hook(handle, |core, number| {
            let flow = core.filter.on_request_headers(number, end);
            let passes = flow == Flow::Continue && !core.filter.knows(number);
            handle.passes.store(passes, Ordering::Relaxed);
            let mut state = core.state();
            state.dirty |= !passes;
            if passes {
                state.streams.pass(number);
            }
            drop(state);
            flow
        })
    }

    pub fn request_body(self: &Arc<Self>, handle: &Handle, end: bool) -> u32 {
        if handle.passes.load(Ordering::Relaxed) {
            return status::CONTINUE;
        }
        self.hook(handle, |core, number| {
            let size = core.filter.host().look_at(number, Body::Request);
            let flow = core.filter.on_request_body(number, size, end);
            core.filter.host().look_away();
            flow
        })
    }

    pub fn request_trailers(self: &Arc<Self>, handle: &Handle) -> u32 {
        self.hook(handle, |core, number| {
            core.filter.on_request_trailers(number)
        })
    }

    pub fn response_headers(self: &Arc<Self>, handle: &Handle, end: bool) -> u32 {
        if handle.passes.load(Ordering::Relaxed) {
            return status::CONTINUE;
        }
        self.hook(handle, |core, number| {
            core.state().dirty = true;
            let flow = core.filter.on_response_headers(number, end);
            core.state().streams.respond(number);
            flow
        })
    }

    pub fn response_body(self: &Arc<Self>, handle: &Handle, end: bool) -> u32 {
        if handle.passes.load(Ordering::Relaxed) {
            return status::CONTINUE;
        }
        self.hook(handle, |core, number| {
            let size = core.filter.host().look_at(number, Body::Response);
            let flow = core.filter.on_response_body(number, size, end);
            core.filter.host().look_away();
            flow
        })
    }

    pub fn response_trailers(self: &Arc<Self>, handle: &Handle) -> u32 {
        if handle.passes.load(Ordering::Relaxed) {
            return status::CONTINUE;
        }
        self.hook(handle, |core, number| {
            core.filter.on_response_trailers(number)
        })
    }

    /// Envoy ends a stream. From here on nothing may be asked of it.
    pub fn end(self: &Arc<Self>, handle: &Handle) {
        if !handle.alive.swap(false, Ordering::Relaxed) {
            return;
        }
        let number = handle.number;
        let ended = self.with(|core| {
            {
                let mut state = core.state();
                state.streams.end(number);
                state.current = number;
                state.inside = None;
                if state
                    .bell
                    .as_ref()
                    .is_some_and(|(whose, _)| *whose == number)
                {
                    state.bell = None;
                    state.rung = false;
                }
            }
            if !core.dead {
                core.filter.on_done(number);
                core.filter.on_delete(number);
            }
            core.carry_over(number);
        });
        if ended == Err(NotRun::Busy) {
            envoy::log(
                4,
                "idempotency: Envoy ended a stream in the middle of a call of ours",
            );
        }
        self.drain(None);
    }

    /// The answer of a callout that a stream carries.
    pub fn answered(self: &Arc<Self>, handle: &Handle, id: u64, answer: Option<Answer>) {
        let number = handle.number;
        // While the filter is at work, it is of a callout that could not be sent: that call says so itself.
        let _ = self.with(|core| {
            let mut state = core.state();
            if let Some(token) = state.callouts.answered(number, id) {
                state.news.push_back(News::Answered(token, answer));
            }
        });
        self.drain(None);
    }

    /// The hook that a bell has called.
    pub fn scheduled(self: &Arc<Self>) {
        let _ = self.with(|core| {
            let mut state = core.state();
            state.rung = false;
            let later = std::mem::take(&mut state.later);
            state.ops.extend(later);
            drop(state);
            core.look_around();
        });
        self.drain(None);
    }

    /// Does what the filter has asked for, on the worker. `inside`: a hook of this stream runs.
    fn drain(self: &Arc<Self>, inside: Option<u32>) {
        if AT_WORK.get() || self.draining.swap(true, Ordering::Relaxed) {
            // Whoever called Envoy goes on when Envoy has returned, so that the stack does not grow.
            return;
        }
        loop {
            let next = self.with(|core| core.next(inside));
            match next {
                Ok(Some((envoy, op))) => perform(envoy, op),
                Ok(None) => break,
                Err(NotRun::Panicked) => {}
                Err(NotRun::Busy) => break,
            }
        }
        self.draining.store(false, Ordering::Relaxed);
        let main = self.with(Core::rest);
        if main == Ok(true) {
            self.home.call_main();
        }
    }

    /// The main thread was called: it sends what is left to it, and runs the filter if no stream lives.
    pub fn turn_on_main(self: &Arc<Self>) {
        loop {
            let next = self.with(|core| {
                let mut state = core.state();
                let token = state.for_main.pop_front()?;
                let out = state.callouts.get(token)?;
                Some((token, Arc::clone(&out.message), out.deadline_ms))
            });
            let Ok(Some((token, message, deadline_ms))) = next else {
                let more = self.with(|core| !core.state().for_main.is_empty());
                match more {
                    Ok(true) => continue,
                    _ => break,
                }
            };
            let left_ms = deadline_ms.saturating_sub(crate::clock_ms());
            // The lock is free: an answer that Envoy makes at once comes under a number that nobody knows.
            if left_ms == 0 || !self.home.call(self, token, &message, left_ms) {
                self.answered_by_main(token, None);
            }
        }
        let _ = self.with(Core::run_on_main);
        let more = self.with(|core| {
            let mut state = core.state();
            state.busy = state.dirty || !state.callouts.is_empty() || !core.filter.is_idle(ROOT);
            !state.for_main.is_empty() || state.turn && state.streams.is_empty()
        });
        if more == Ok(true) {
            self.home.call_main();
        }
    }

    /// The answer of a callout that the main thread has sent.
    pub fn answered_by_main(self: &Arc<Self>, token: u32, answer: Option<Answer>) {
        let _ = self.with(|core| {
            let mut state = core.state();
            if !state.callouts.answered_by_main(token) {
                return;
            }
            state.news.push_back(News::Answered(token, answer));
            if !state.streams.is_empty() {
                // The worker has the filter.
                state.ring();
                return;
            }
            drop(state);
            core.run_on_main();
        });
        let more = self.with(|core| {
            let state = core.state();
            !state.for_main.is_empty() || state.turn && state.streams.is_empty()
        });
        if more == Ok(true) {
            self.home.call_main();
        }
    }

    /// The clock has gone on; called by a thread of its own.
    pub fn tick(&self) {
        let main = self.with(|core| {
            let mut state = core.state();
            if !state.busy {
                return false;
            }
            state.tick = true;
            if state.streams.is_empty() {
                return true;
            }
            state.ring();
            false
        });
        if main == Ok(true) {
            self.home.call_main();
        }
    }

    /// Envoy destroys the configuration: how much is left undone.
    pub fn close(&self) -> usize {
        let left = self.with(|core| {
            core.filter.on_done(ROOT);
            let left = core.state().callouts.len();
            if core.filter.is_idle(ROOT) {
                left
            } else {
                left.max(1)
            }
        });
        left.unwrap_or(0)
    }
}

impl State {
    /// Calls a hook of this worker, if it is not called already.
    pub fn ring(&mut self) {
        if self.rung {
            return;
        }
        if let Some((_, bell)) = &self.bell {
            bell.ring(0);
            self.rung = true;
        }
    }
}

/// Does what the filter has asked for. Envoy may call hooks before this returns.
fn perform(envoy: Object, op: Op) {
    match op {
        Op::ResumeRequest => envoy::resume_request(envoy),
        Op::ResumeResponse => envoy::resume_response(envoy),
        Op::Reset => envoy::reset(envoy),
        Op::Reply(reply) if reply.raw => send_raw(envoy, *reply),
        Op::Body(body) => envoy::send_body(envoy, &body),
        Op::Reply(reply) => {
            let Reply {
                status,
                headers,
                body,
                details,
                ..
            } = *reply;
            envoy::local_reply(envoy, status, &headers, &body, &details);
        }
    }
}

/// Sends an answer that Envoy's local replies would change.
fn send_raw(envoy: Object, reply: Reply) {
    let Reply {
        status,
        mut headers,
        body,
        ..
    } = reply;
    let length = Bytes::from_static(b"content-length");
    headers.retain(|(name, _)| *name != length);
    headers.insert(
        0,
        (Bytes::from_static(b":status"), status.to_string().into()),
    );
    if !matches!(status, 100..=199 | 204 | 304) {
        headers.push((length, body.len().to_string().into()));
    }
    envoy::send_head(envoy, &headers, body.is_empty());
}

#[cfg(test)]
#[path = "unit_test.rs"]
mod tests;
