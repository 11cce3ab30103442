//! What the operator is told of one request: a line in the gateway's log, and the same facts for its access log.
//!
//! A note is one JSON object (`docs/logs.md`). It is made only where there is something to say, and written out only
//! where somebody reads it. Of what a client sends, it has the method, the request id and the names that a
//! problem's detail has; never a key, a query or a body. The path is the rule's, not the request's.

use crate::stats::Counter;
use bytes::Bytes;
use idempotency_core::canonical_json::string;
use idempotency_core::config::{PathMatch, Rule};
use idempotency_core::problem::Problem;
use idempotency_core::request::Request;
use idempotency_protocol::limits::{MAX_METHOD_BYTES, MAX_REQUEST_ID_BYTES};
use idempotency_protocol::log_id;
use idempotency_protocol::LookupKey;
use std::borrow::Cow;
use std::sync::Arc;

/// Longest explanation, in bytes. It may hold a header's name or what a service says.
const MAX_WHY_BYTES: usize = 256;

/// What is known of a decision, or of the end of an execution.
#[derive(Clone, Debug)]
pub struct Note {
    /// What has happened.
    pub what: Counter,
    /// The rule; `None`: there is none, or it is not known any more.
    pub rule: Option<Arc<Rule>>,
    /// The request's method; empty: not known.
    pub method: Bytes,
    /// The request's id, as the gateway knows it; empty: it has none.
    pub request_id: Bytes,
    /// The record, whose log id is told.
    pub key: Option<LookupKey>,
    /// The fence of the execution that it is about; 0: none.
    pub fence: u64,
    /// The status that the client gets, or would have got; 0: none of ours.
    pub status: u16,
    /// Why, in words.
    pub why: Cow<'static, str>,
}

impl Note {
    /// Of something that is about no request, or about one that is not known any more.
    pub fn new(what: Counter) -> Note {
        let (status, why) = match what {
            Counter::Problem(problem) | Counter::Observed(problem) => {
                (problem.status(), problem.detail())
            }
            _ => (0, ""),
        };
        Note {
            what,
            rule: None,
            method: Bytes::new(),
            request_id: Bytes::new(),
            key: None,
            fence: 0,
            status,
            why: Cow::Borrowed(why),
        }
    }

    /// Of a request that a rule protects, or observes.
    pub fn of(request: &Request, what: Counter) -> Box<Note> {
        let mut note = Box::new(Note::new(what));
        note.add(request);
        note
    }

    /// Adds what is known of a request.
    pub fn add(&mut self, request: &Request) {
        self.rule = Some(Arc::clone(&request.rule));
        self.method = request.method.clone();
        self.request_id = request.request_id.clone();
    }

    /// With the record that it is about.
    pub fn about(mut self: Box<Note>, key: &LookupKey, fence: u64) -> Box<Note> {
        self.key = Some(key.clone());
        self.fence = fence;
        self
    }

    /// With an explanation, unless that is empty.
    pub fn because(mut self: Box<Note>, why: impl Into<Cow<'static, str>>) -> Box<Note> {
        let why = why.into();
        if !why.is_empty() {
            self.why = why;
        }
        self
    }

    /// The JSON object, open at its end.
    pub fn facts(&self) -> Vec<u8> {
        let (event, reason) = event(self.what);
        let mut out = Vec::with_capacity(384);
        out.push(b'{');
        text(&mut out, "event", event.as_bytes(), MAX_WHY_BYTES);
        text(&mut out, "reason", reason.as_bytes(), MAX_WHY_BYTES);
        if let Some(rule) = &self.rule {
            text(&mut out, "rule", rule.name.as_bytes(), MAX_WHY_BYTES);
            text(&mut out, "path", template(rule).as_bytes(), MAX_WHY_BYTES);
        }
        text(&mut out, "method", &self.method, MAX_METHOD_BYTES);
        text(
            &mut out,
            "request_id",
            &self.request_id,
            MAX_REQUEST_ID_BYTES,
        );
        if let Some(key) = &self.key {
            text(&mut out, "log_id", log_id(key).as_bytes(), MAX_WHY_BYTES);
        }
        number(&mut out, "fence", self.fence);
        number(&mut out, "status", u64::from(self.status));
        text(&mut out, "why", self.why.as_bytes(), MAX_WHY_BYTES);
        out
    }
}

/// The header that has the request's id.
pub const REQUEST_ID: &str = "x-request-id";

/// The path of a rule, which has nothing of a client's: `/*` at its end stands for the path before it and everything
/// below.
fn template(rule: &Rule) -> Cow<'_, str> {
    match &rule.matches.path {
        PathMatch::Exact(path) => Cow::Borrowed(path),
        PathMatch::Prefix(path) => {
            Cow::Owned([path.strip_suffix('/').unwrap_or(path), "/*"].concat())
        }
    }
}

/// What has happened, and why, in two names.
fn event(what: Counter) -> (&'static str, &'static str) {
    match what {
        Counter::Problem(problem) => ("refused", problem.name()),
        Counter::Observed(problem) => ("would-refuse", problem.name()),
        Counter::ObservedReplay => ("would-replay", "stored"),
        Counter::ObservedExecution => ("would-execute", "granted"),
        Counter::PassedUnprotected => ("unprotected", Problem::StoreUnavailable.name()),
        Counter::Unknown => ("unknown", "outcome-unknown"),
        Counter::CompleteUnanswered => ("settlement", "unanswered"),
        Counter::CompleteRefused => ("settlement", "refused"),
        Counter::CompleteLate => ("settlement", "late"),
        Counter::OutboxDropped => ("settlement", "undelivered"),
        Counter::LeaseLost => ("lease", "lost"),
        Counter::CalloutFailedBy(reason) => ("call-failed", reason.name()),
        _ => ("", ""),
    }
}

fn name(out: &mut Vec<u8>, name: &str) {
    if out.len() > 1 {
        out.push(b',');
    }
    string(name, out);
    out.push(b':');
}

/// A member; none where there is nothing to say.
fn text(out: &mut Vec<u8>, member: &str, value: &[u8], most: usize) {
    let value = value.get(..most).unwrap_or(value);
    if !value.is_empty() {
        name(out, member);
        string(&String::from_utf8_lossy(value), out);
    }
}

/// The same of a number; 0 is nothing.
pub fn number(out: &mut Vec<u8>, member: &str, value: u64) {
    if value != 0 {
        name(out, member);
        out.extend_from_slice(value.to_string().as_bytes());
    }
}

/// How long a reason's lines are counted.
const WINDOW_NS: u64 = 10_000_000_000;
/// Most lines of one reason in that time.
const MOST: u32 = 10;

/// Most lines of this reason: of a call that failed, each request that it failed for has a line of its own.
fn most(what: Counter) -> u32 {
    match what {
        Counter::CalloutFailedBy(_) => 1,
        _ => MOST,
    }
}

/// What was told of one reason.
#[derive(Debug)]
struct Told {
    what: Counter,
    since_ns: u64,
    lines: u32,
    left_out: u64,
}

/// How much is told, by reason: an outage must not fill a disk.
#[derive(Debug, Default)]
pub struct Limits(Vec<Told>);

impl Limits {
    /// Whether a line about this is due, and then how many were left out before it.
    pub fn say(&mut self, what: Counter, now_ns: u64) -> Option<u64> {
        let at = self.0.iter().position(|told| told.what == what);
        let at = at.unwrap_or_else(|| {
            self.0.push(Told {
                what,
                since_ns: now_ns,
                lines: 0,
                left_out: 0,
            });
            self.0.len() - 1
        });
        let told = self.0.get_mut(at)?;
        if now_ns.saturating_sub(told.since_ns) >= WINDOW_NS {
            (told.since_ns, told.lines) = (now_ns, 0);
        }
        if told.lines >= most(what) {
            told.left_out = told.left_out.saturating_add(1);
            return None;
        }
        told.lines += 1;
        Some(std::mem::take(&mut told.left_out))
    }
}

#[cfg(test)]
mod tests;
