//! The rules of Kong's host (ngx_wasm_module), as a judge: every callback and every hostcall is
//! told to it, and it says which rule was broken. It does no I/O and answers nothing, so that a
//! fake host and a real server can both stand behind it.
//!
//! Each rule is a fact that was measured in a real nginx, or read in its source; breaking one
//! traps, crashes the worker, hangs the request or sends it twice.

use super::lookups::Lookups;
use crate::host::{Buffer, Map, MetricKind};
use crate::stream::Flow;
use bytes::Bytes;
use idempotency_core::config;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A callback of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `on_configure` of this root.
    Configure(u32),
    /// `on_tick` of this root.
    Tick(u32),
    /// `on_request_headers`.
    RequestHeaders,
    /// `on_request_body`, with the size that it tells; comes once, whole, and never for an empty
    /// body.
    RequestBody(usize),
    /// `on_response_headers`.
    ResponseHeaders,
    /// `on_response_body`, with the size of this piece.
    ResponseBody(usize),
    /// `on_done`, and `on_log` right after it. Left out where an error page took over.
    Log,
    /// `on_delete`: only the clock, the log and metrics; all else crashes the worker.
    Delete,
    /// `on_http_call_response`, with the size of its body.
    Answer(usize),
}

/// A hostcall, as far as the rules look at it.
#[derive(Clone, Copy, Debug)]
pub enum Hostcall<'a> {
    /// `proxy_http_call`.
    Callout {
        /// Where to.
        target: &'a str,
        /// With pseudo headers.
        headers: &'a [(Bytes, Bytes)],
        /// In milliseconds.
        timeout_ms: u64,
    },
    /// `proxy_get_buffer_bytes`.
    ReadBuffer(Buffer, usize, usize),
    /// `proxy_set_buffer_bytes` from 0 over 0 bytes, of which buffer.
    PrependBuffer(Buffer),
    /// A header, or all of them, are read.
    ReadHeaders(Map),
    /// `:dispatch_status` of a callout, which one that failed has, too; not [`Hostcall::ReadHeaders`].
    DispatchStatus,
    /// A header is set, added or removed.
    WriteHeaders(Map),
    /// A header is removed; besides [`Hostcall::WriteHeaders`].
    RemoveHeader(Map),
    /// A header is set that occurs more than once; besides [`Hostcall::WriteHeaders`].
    SetRepeated(Map),
    /// `proxy_get_property`.
    Property(&'a [&'a str]),
    /// `proxy_set_property`.
    SetProperty(&'a [&'a str]),
    /// `proxy_set_tick_period_milliseconds`.
    SetTick(u32),
    /// `proxy_send_local_response`: status, length of the body.
    LocalReply(u16, usize),
    /// `proxy_continue_stream`.
    Resume,
    /// `proxy_close_stream`.
    Reset,
    /// `proxy_define_metric`.
    DefineMetric,
    /// `proxy_increment_metric` on a metric of this kind.
    Increment(MetricKind),
    /// `proxy_record_metric` on a metric of this kind.
    Record(MetricKind),
}

/// A broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Callouts only in request callbacks, the tick and answers of callouts; elsewhere a trap.
    CalloutInWrongStep,
    /// A callout needs `:method` and `:path`, else a trap; we also want `:authority`.
    CalloutWithoutPseudoHeader,
    /// `ip:port`, `host[:port]`, `unix:/path`; everything else traps.
    CalloutTarget,
    /// A callout without a timeout hangs.
    CalloutWithoutTimeout,
    /// A root has one callout out at most, and none leaves from the answer to another one of its
    /// own: the host never frees the connection of a callout whose root has one more (its resume
    /// handler says `NGX_AGAIN`), and the worker ends without any.
    OverlappingRootCallouts,
    /// A root's callout waits for a lookup of its name that somebody else began: the worker dies.
    LookupBesideAnother,
    /// A stream that was answered by us, or whose response began, or that has gone.
    CalloutForAnsweredStream,
    /// A dispatch followed by `Continue` crashes the worker or sends the request twice.
    ContinueAfterDispatch,
    /// `Pause` of a request with neither a callout nor a local reply hangs it.
    PauseWithoutDispatch,
    /// `Pause` of response headers or bodies holds nothing, and fails in the log.
    PauseOfResponse,
    /// `get_buffer` ignores the offset, and a size below the total can overrun the heap.
    PartialBufferRead,
    /// Each buffer has its callbacks; elsewhere a trap.
    BufferInWrongStep,
    /// Only the response body may be written, and only in front of it. A buffer that is left empty
    /// is freed into the wrong pool: the next request of the connection fails.
    BufferWrite,
    /// Each header map has its callbacks; elsewhere a trap or a crash.
    HeadersInWrongStep,
    /// Headers of an answer that never came.
    HeadersOfNoAnswer,
    /// A property outside of a request.
    PropertyOutsideRequest,
    /// A property that this host does not have, and writes an error about each time, or traps on.
    UnknownProperty,
    /// A second tick period traps; so does one that is not set for a root.
    TickTwice,
    /// A second local reply, or one after the response began, traps; outside a stream, a crash.
    LocalReplyTooLate,
    /// A local reply's body stands in the buffer of the callout before it. If that one failed, the
    /// buffer is emptied, and the client gets no answer at all. (And it gets a newline.)
    LocalReplyWithBody,
    /// A request header that is removed, or the further ones of a name that is set, only vanish
    /// from the filter's sight: nginx sends them upstream.
    RequestHeaderStays,
    /// Nothing to be resumed: outside a stream, or in a response.
    ResumeOutsideRequest,
    /// This host cannot cut a stream off: nothing would happen.
    ResetIsNoOp,
    /// Defining a metric, and a histogram that grows, take a lock that Kong's Prometheus plugin holds
    /// while it sleeps: a worker that meets it in a request stands still for ever. Before the first
    /// request nobody asks.
    MetricsLock,
    /// Counters are incremented, gauges recorded; the other way round traps.
    MetricKind,
}

/// Which rule was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// What was done.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.detail)
    }
}

/// What the host does after a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on: to the next callback, to the upstream, to the client.
    GoesOn,
    /// Waits for the answers of the stream's callouts.
    Waits,
    /// The local reply is sent.
    Replies,
}

#[derive(Debug, Default)]
struct Stream {
    callouts: BTreeSet<u32>,
    replied: bool,
    responding: bool,
    gone: bool,
}

/// Who sent a callout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Stream(u32),
    Root(u32),
}

/// The callback that is running.
#[derive(Debug)]
struct Running {
    step: Step,
    stream: Option<u32>,
    /// The root that acts, if no stream does.
    root: Option<u32>,
    dispatched: bool,
    /// Whether the answer has headers (it came at all).
    answered: bool,
}

/// The judge of one VM.
#[derive(Debug, Default)]
pub struct KongRules {
    running: Option<Running>,
    streams: BTreeMap<u32, Stream>,
    /// Who waits for a callout.
    callouts: BTreeMap<u32, Sender>,
    /// Roots whose tick period is set.
    ticking: BTreeSet<u32>,
    lookups: Lookups,
}

type Judged<T> = Result<T, Violation>;

fn broken<T>(rule: Rule, detail: impl Into<String>) -> Judged<T> {
    Err(Violation {
        rule,
        detail: detail.into(),
    })
}

impl KongRules {
    /// The next callback begins, of a stream or (without one) of a root.
    pub fn begin(&mut self, step: Step, stream: Option<u32>) {
        if let Some(id) = stream {
            let stream = self.streams.entry(id).or_default();
            match step {
                Step::ResponseHeaders | Step::ResponseBody(_) => stream.responding = true,
                Step::Log | Step::Delete => stream.gone = true,
                _ => {}
            }
        }
        let root = match step {
            Step::Configure(root) | Step::Tick(root) => Some(root),
            _ => None,
        };
        self.running = Some(Running {
            step,
            stream,
            root,
            dispatched: false,
            answered: false,
        });
    }

    /// The answer of a callout begins; `headers`: how many it has, 0 for a failure. Returns the
    /// stream on which hostcalls act, `None` for a root.
    pub fn begin_answer(&mut self, token: u32, headers: usize, size: usize) -> Option<u32> {
        self.lookups.answered(token, headers == 0);
        let (stream, root) = match self.callouts.remove(&token) {
            Some(Sender::Stream(stream)) => (Some(stream), None),
            Some(Sender::Root(root)) => (None, Some(root)),
            None => (None, None),
        };
        if let Some(stream) = stream.and_then(|id| self.streams.get_mut(&id)) {
            stream.callouts.remove(&token);
        }
        self.running = Some(Running {
            step: Step::Answer(size),
            stream,
            root,
            dispatched: false,
            answered: headers > 0,
        });
        stream
    }

    /// The callout that was just allowed got this token.
    pub fn dispatched(&mut self, token: u32) {
        let Some(running) = &mut self.running else {
            return;
        };
        running.dispatched = true;
        let sender = match (running.stream, running.root) {
            (Some(stream), _) => Sender::Stream(stream),
            (None, root) => Sender::Root(root.unwrap_or_default()),
        };
        self.callouts.insert(token, sender);
        self.lookups.dispatched(token);
        if let Some(stream) = running.stream.and_then(|id| self.streams.get_mut(&id)) {
            stream.callouts.insert(token);
        }
    }

    /// Whether the host may still call back with this token: a local reply cancels the callouts of
    /// its stream.
    pub fn is_pending(&self, token: u32) -> bool {
        self.callouts.contains_key(&token)
    }

    /// The host has forgotten the stream. Callouts of it that are still out are answered to nobody.
    pub fn forget(&mut self, stream: u32) {
        self.streams.remove(&stream);
    }

    /// A hostcall is about to be made.
    pub fn call(&mut self, call: Hostcall) -> Judged<()> {
        let Some(Running {
            step,
            stream,
            root,
            answered,
            ..
        }) = self.running
        else {
            return Ok(());
        };
        match call {
            Hostcall::Callout {
                target,
                headers,
                timeout_ms,
            } => {
                self.callout(step, stream, target, headers, timeout_ms)?;
                self.one_of_a_root(step, root)?;
                match self.lookups.waits(target) && root.is_some() {
                    true => broken(Rule::LookupBesideAnother, target),
                    false => Ok(()),
                }
            }
            Hostcall::ReadBuffer(buffer, start, size) => read_buffer(step, buffer, start, size),
            Hostcall::PrependBuffer(buffer) => match (step, buffer) {
                (Step::ResponseBody(_), Buffer::Response) => Ok(()),
                _ => broken(Rule::BufferWrite, format!("{buffer:?} in {step:?}")),
            },
            Hostcall::ReadHeaders(map) => {
                let fine = match map {
                    Map::CalloutHeaders => {
                        if matches!(step, Step::Answer(_)) && !answered {
                            return broken(Rule::HeadersOfNoAnswer, "the callout failed");
                        }
                        matches!(step, Step::Answer(_))
                    }
                    Map::Request | Map::Response => stream.is_some() && step != Step::Delete,
                    Map::RequestTrailers => false,
                };
                if fine {
                    return Ok(());
                }
                broken(
                    Rule::HeadersInWrongStep,
                    format!("read {map:?} in {step:?}"),
                )
            }
            Hostcall::DispatchStatus => match step {
                Step::Answer(_) => Ok(()),
                _ => broken(
                    Rule::HeadersInWrongStep,
                    format!("a callout's status in {step:?}"),
                ),
            },
            Hostcall::WriteHeaders(map) => self.write_headers(step, stream, map),
            Hostcall::RemoveHeader(Map::Request) => broken(Rule::RequestHeaderStays, "removed"),
            Hostcall::SetRepeated(Map::Request) => broken(Rule::RequestHeaderStays, "repeated"),
            Hostcall::RemoveHeader(_) | Hostcall::SetRepeated(_) => Ok(()),
            Hostcall::Property(path) => property(stream.filter(|_| step != Step::Delete), path),
            Hostcall::SetProperty(path) => {
                let alive = !matches!(step, Step::Delete | Step::Log);
                set_property(stream.filter(|_| alive), path)
            }
            Hostcall::SetTick(period) => {
                let fresh = match step {
                    Step::Configure(root) if period > 0 => self.ticking.insert(root),
                    _ => false,
                };
                if fresh {
                    return Ok(());
                }
                broken(Rule::TickTwice, format!("{period} ms in {step:?}"))
            }
            Hostcall::LocalReply(status, length) => self.local_reply(step, stream, status, length),
            Hostcall::Resume => {
                let request = matches!(
                    step,
                    Step::RequestHeaders | Step::RequestBody(_) | Step::Answer(_)
                );
                if request && stream.is_some() {
                    return Ok(());
                }
                broken(Rule::ResumeOutsideRequest, format!("in {step:?}"))
            }
            Hostcall::Reset => broken(Rule::ResetIsNoOp, format!("in {step:?}")),
            Hostcall::DefineMetric if !matches!(step, Step::Configure(_)) => {
                broken(Rule::MetricsLock, format!("in {step:?}"))
            }
            Hostcall::Increment(kind) if kind != MetricKind::Counter => {
                broken(Rule::MetricKind, format!("incremented a {kind:?}"))
            }
            Hostcall::Record(MetricKind::Histogram) => {
                broken(Rule::MetricsLock, "recorded a histogram")
            }
            Hostcall::Record(MetricKind::Counter) => broken(Rule::MetricKind, "recorded a counter"),
            Hostcall::DefineMetric | Hostcall::Increment(_) | Hostcall::Record(_) => Ok(()),
        }
    }

    /// The callback has returned. `flow` counts for request and response callbacks only.
    pub fn end(&mut self, flow: Flow) -> Judged<Verdict> {
        let Some(Running {
            step,
            stream,
            dispatched,
            ..
        }) = self.running.take()
        else {
            return Ok(Verdict::GoesOn);
        };
        let Some(state) = stream.and_then(|id| self.streams.get_mut(&id)) else {
            return Ok(Verdict::GoesOn);
        };
        match step {
            Step::RequestHeaders | Step::RequestBody(_) => {
                if state.replied {
                    return Ok(Verdict::Replies);
                }
                match (state.callouts.is_empty(), flow) {
                    (true, Flow::Continue) => Ok(Verdict::GoesOn),
                    (false, Flow::Pause) => Ok(Verdict::Waits),
                    (true, Flow::Pause) => {
                        broken(Rule::PauseWithoutDispatch, format!("in {step:?}"))
                    }
                    (false, Flow::Continue) => broken(
                        Rule::ContinueAfterDispatch,
                        format!("in {step:?}, dispatched now: {dispatched}"),
                    ),
                }
            }
            Step::ResponseHeaders | Step::ResponseBody(_) if flow == Flow::Pause => {
                broken(Rule::PauseOfResponse, format!("in {step:?}"))
            }
            // The chain resumes by itself after the last answer.
            Step::Answer(_) if state.replied && !state.responding => Ok(Verdict::Replies),
            Step::Answer(_) if !state.callouts.is_empty() => Ok(Verdict::Waits),
            _ => Ok(Verdict::GoesOn),
        }
    }

    fn callout(
        &self,
        step: Step,
        stream: Option<u32>,
        target: &str,
        headers: &[(Bytes, Bytes)],
        timeout_ms: u64,
    ) -> Judged<()> {
        if !matches!(
            step,
            Step::RequestHeaders | Step::RequestBody(_) | Step::Tick(_) | Step::Answer(_)
        ) {
            return broken(Rule::CalloutInWrongStep, format!("{step:?}"));
        }
        for name in [":method", ":path", ":authority"] {
            if !headers.iter().any(|(n, v)| n == name && !v.is_empty()) {
                return broken(Rule::CalloutWithoutPseudoHeader, name);
            }
        }
        if !config::is_kong_target(target) {
            return broken(Rule::CalloutTarget, target);
        }
        if timeout_ms == 0 {
            return broken(Rule::CalloutWithoutTimeout, target);
        }
        let state = stream.and_then(|id| self.streams.get(&id));
        if state.is_some_and(|s| s.replied || s.responding || s.gone) {
            return broken(Rule::CalloutForAnsweredStream, format!("in {step:?}"));
        }
        Ok(())
    }

    fn one_of_a_root(&self, step: Step, root: Option<u32>) -> Judged<()> {
        let Some(root) = root else {
            return Ok(());
        };
        let out = |sender: &&Sender| **sender == Sender::Root(root);
        let out = self.callouts.values().filter(out).count();
        if out == 0 && matches!(step, Step::Tick(_)) {
            return Ok(());
        }
        broken(
            Rule::OverlappingRootCallouts,
            format!("in {step:?}, {out} of the root are out"),
        )
    }

    fn write_headers(&self, step: Step, stream: Option<u32>, map: Map) -> Judged<()> {
        let responding = stream
            .and_then(|id| self.streams.get(&id))
            .is_none_or(|s| s.responding || s.gone);
        let fine = match (map, step) {
            (
                Map::Request | Map::Response,
                Step::RequestHeaders | Step::RequestBody(_) | Step::Answer(_),
            ) => !responding,
            (Map::Response, Step::ResponseHeaders) => true,
            _ => false,
        };
        if fine {
            return Ok(());
        }
        broken(
            Rule::HeadersInWrongStep,
            format!("wrote {map:?} in {step:?}"),
        )
    }

    fn local_reply(
        &mut self,
        step: Step,
        stream: Option<u32>,
        status: u16,
        length: usize,
    ) -> Judged<()> {
        if length > 0 {
            return broken(
                Rule::LocalReplyWithBody,
                format!("{status}, {length} bytes"),
            );
        }
        let in_request = matches!(
            step,
            Step::RequestHeaders | Step::RequestBody(_) | Step::Answer(_)
        );
        let state = stream.and_then(|id| self.streams.get_mut(&id));
        let Some(state) = state.filter(|s| in_request && !s.replied && !s.responding && !s.gone)
        else {
            return broken(Rule::LocalReplyTooLate, format!("{status} in {step:?}"));
        };
        state.replied = true;
        // "local response produced, cancelling pending dispatch calls"
        for token in std::mem::take(&mut state.callouts) {
            self.callouts.remove(&token);
        }
        Ok(())
    }
}

fn read_buffer(step: Step, buffer: Buffer, start: usize, size: usize) -> Judged<()> {
    let total = match (buffer, step) {
        // Where somebody has read the body before the filter came: any size covers it.
        (Buffer::Request, Step::RequestHeaders) => None,
        (Buffer::Request, Step::RequestBody(total))
        | (Buffer::Response, Step::ResponseBody(total))
        | (Buffer::Callout, Step::Answer(total)) => Some(total),
        (Buffer::Configuration, Step::Configure(_)) => None,
        _ => return broken(Rule::BufferInWrongStep, format!("{buffer:?} in {step:?}")),
    };
    if start != 0 || total.is_some_and(|total| total != size) {
        return broken(
            Rule::PartialBufferRead,
            format!("{buffer:?} from {start}, {size} bytes, in {step:?}"),
        );
    }
    Ok(())
}

/// What the filter may ask for. The rest is unknown to this host, which writes an error line each
/// time, or is answered by Lua code that may trap.
fn property(stream: Option<u32>, path: &[&str]) -> Judged<()> {
    let name = path.join(".");
    if stream.is_none() {
        return broken(Rule::PropertyOutsideRequest, name);
    }
    if config::is_kong_property(&name) {
        return Ok(());
    }
    broken(Rule::UnknownProperty, name)
}

/// nginx' own variables only: what Lua code sets traps where that raises an error.
fn set_property(stream: Option<u32>, path: &[&str]) -> Judged<()> {
    let name = path.join(".");
    match (stream, path) {
        (None, _) => broken(Rule::PropertyOutsideRequest, name),
        (Some(_), ["ngx", _]) => Ok(()),
        _ => broken(Rule::UnknownProperty, name),
    }
}

#[cfg(test)]
mod tests;
