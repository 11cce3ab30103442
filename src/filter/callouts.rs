//! Callouts: which stream an answer is for, and what a missing answer means. All callouts are dispatched
//! from the root context, because an answer must be processed even if the stream that asked has gone (a
//! host drops the answers of streams that have ended).

use super::work::Work;
use super::Filter;
use crate::call::{
    read_answer, read_answers, why_undecodable, Call, CallFailed, CallResult, Callout, Read,
};
use crate::execution::Executed;
use crate::host::{Buffer, Host, Map};
use crate::note::Note;
use crate::profile::Profile;
use crate::settings::Settings;
use crate::stats::{Counter, CALLOUT_OPERATIONS, CALLOUT_TIME};
use crate::stream::Flow;
use bytes::Bytes;
use idempotency_core::headers::Headers;
use idempotency_protocol::{Answer, Operation, Outcome, Owner, Tombstone, TombstoneReason, Wire};
use std::borrow::Cow;

/// Status of an answer to a request that was too large (RFC 9110 §15.5.14): a limit of the service, or of
/// something in front of it.
const CONTENT_TOO_LARGE: u16 = 413;

/// Status of a service's answer to a message that it cannot read as a whole, for its version among others.
const BAD_REQUEST: u16 = 400;

/// Makes a job ready to be sent once more, alone, after its callout was too large. Beside others it may have
/// been the others: it stays as it is. By itself, its response is left out: done, and not to be replayed.
/// False: there is nothing to leave out.
fn make_smaller(job: &mut Job, shared: bool) -> bool {
    if shared {
        return true;
    }
    let Operation::Complete(complete) = &mut *job.operation else {
        return false;
    };
    let Outcome::Response(response) = &*complete.outcome else {
        return false;
    };
    complete.outcome = Outcome::Tombstone(Tombstone {
        status: response.status,
        reason: TombstoneReason::TooLarge,
    })
    .into();
    true
}

/// Whom the answer to an operation is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// A stream; a settlement goes on without it.
    Stream(u32),
    /// A detached execution: its settlement.
    ExecutionSettlement(u32),
    /// A settlement that no client waits for.
    Outbox(u32),
    /// The renewal of a lease.
    Renewal(Owner),
}

/// An operation on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub operation: Box<Operation>,
    /// The `traceparent` of its request; empty: it has none.
    pub trace: Bytes,
    pub purpose: Purpose,
}

/// Lists of jobs that a callout has brought back, to be used for the next ones.
#[derive(Default)]
pub(super) struct SpareLists(Vec<Vec<Job>>);

impl SpareLists {
    /// As many as there are callouts with one operation at a time, in a usual configuration.
    const MOST: usize = 8;

    fn keep(&mut self, list: Vec<Job>) {
        if self.0.len() < SpareLists::MOST {
            self.0.push(list);
        }
    }

    /// A list of this one.
    pub fn of(&mut self, job: Job) -> Vec<Job> {
        let mut list = self.0.pop().unwrap_or_default();
        list.push(job);
        list
    }
}

/// How operations leave, and so who is told when they are back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By themselves, beside all others.
    Alone,
    /// One of the batches in flight.
    Batch,
    /// Kong: in the root's only callout.
    Lane,
}

/// What a callout carries.
#[derive(Debug)]
pub(super) enum Cargo {
    /// Operations, in the order of their answers.
    Operations {
        jobs: Vec<Job>,
        way: Way,
        wire: Wire,
    },
    /// The wait of a stream.
    Wait { stream: u32, wire: Wire },
    /// A detached execution: its answer is the upstream's.
    Execution(u32),
    /// Kong: whether the service can be reached from the root's tick.
    Probe,
}

/// A callout that is out.
#[derive(Debug)]
pub(super) struct Pending {
    root: u32,
    cargo: Cargo,
    /// When it left; `None`: it is not measured.
    sent_ns: Option<u64>,
}

impl<H: Host> Filter<H> {
    /// Asks the service on behalf of a stream.
    pub(super) fn call(&mut self, root: u32, context: u32, call: Call) {
        match call {
            Call::Operation(operation) => {
                let job = self.job_of_stream(context, operation);
                self.ask(root, job);
            }
            Call::Wait(wait) => {
                let wire = self.wire(root);
                let trace = self.trace_of(context);
                let sent = self.send(root, |settings| {
                    Callout::wait(&wait, trace, wire, &settings.service)
                });
                match sent {
                    Some(token) => {
                        let stream = context;
                        self.sent(root, token, Cargo::Wait { stream, wire });
                    }
                    None => self.waited(root, context, Err(CallFailed::NotSent)),
                }
            }
        }
    }

    /// An operation of a stream.
    pub(super) fn job_of_stream(&self, context: u32, operation: Box<Operation>) -> Job {
        Job {
            operation,
            trace: self.trace_of(context),
            purpose: Purpose::Stream(context),
        }
    }

    /// The `traceparent` of a stream's request; empty where it has none, or the stream has gone.
    pub(super) fn trace_of(&self, context: u32) -> Bytes {
        let entry = self.streams.get(&context);
        entry.map_or_else(Bytes::new, |entry| entry.trace.clone())
    }

    /// Sends operations in one callout. Those that cannot be sent are answered as failed, at once.
    pub(super) fn send_operations(&mut self, root: u32, jobs: Vec<Job>, way: Way) {
        let wire = self.wire(root);
        match self.write_and_send(root, &jobs, way, wire) {
            Some(token) => self.sent(root, token, Cargo::Operations { jobs, way, wire }),
            None => {
                self.operations_failed(root, jobs, CallFailed::NotSent, way);
                self.returned(root, way);
            }
        }
    }

    fn write_and_send(&mut self, root: u32, jobs: &[Job], way: Way, wire: Wire) -> Option<u32> {
        let r = self.roots.get_mut(&root)?;
        let settings = r.settings.as_ref()?;
        let timeout_ms = match way {
            Way::Alone | Way::Batch => settings.service.timeout_ms,
            Way::Lane => settings.lane_timeout_ms,
        };
        let operations = jobs.iter().map(|job| (&*job.operation, &*job.trace));
        let (headers, body) = r.writer.write(operations, wire);
        let target = &settings.service.target;
        let sent = self.host.callout(target, headers, body, &[], timeout_ms);
        sent.ok()
    }

    /// The version of the protocol in which the service is spoken to now.
    fn wire(&self, root: u32) -> Wire {
        let dialect = self.roots.get(&root).map(|r| r.dialect);
        dialect.unwrap_or_default().wire_at(|| self.now().least_ns)
    }

    /// Whether the service refused a message for its version: it is of an earlier release.
    fn is_older(&mut self, root: u32, wire: Wire, failed: CallFailed) -> bool {
        if wire == Wire::One || failed != CallFailed::Status(BAD_REQUEST) {
            return false;
        }
        let now_ns = self.now().least_ns;
        if let Some(r) = self.roots.get_mut(&root) {
            r.dialect.refused(now_ns);
        }
        self.count(root, Counter::OlderService);
        true
    }

    /// Starts a callout to the service; its token.
    pub(super) fn send(
        &mut self,
        root: u32,
        callout: impl FnOnce(&Settings) -> Callout,
    ) -> Option<u32> {
        let settings = self.roots.get(&root)?.settings()?;
        let callout = callout(&settings);
        self.dispatch(root, &settings.service.target, &callout)
    }

    /// Starts a callout on behalf of a root; its token.
    pub(super) fn dispatch(&mut self, root: u32, target: &str, callout: &Callout) -> Option<u32> {
        self.roots.get(&root)?;
        let Callout {
            headers,
            body,
            timeout_ms,
        } = callout;
        let sent = self.host.callout(target, headers, body, &[], *timeout_ms);
        sent.ok()
    }

    /// Whether a callout is out that may wait for the name of its target.
    pub(super) fn is_resolving(&self) -> bool {
        let others = self.pending.values();
        let mut others = others.filter(|pending| !matches!(pending.cargo, Cargo::Probe));
        others.any(|pending| {
            let root = self.roots.get(&pending.root);
            root.is_some_and(|r| r.lane.is_unresolved())
        })
    }

    /// Notes a callout that is out.
    pub(super) fn sent(&mut self, root: u32, token: u32, cargo: Cargo) {
        let is_service = matches!(cargo, Cargo::Operations { .. } | Cargo::Wait { .. });
        let metrics = self.roots.get_mut(&root).map(|r| &mut r.metrics);
        let measured = is_service && metrics.is_some_and(|metrics| metrics.is_measured());
        let sent_ns = measured.then(|| self.now().least_ns);
        let pending = Pending {
            root,
            cargo,
            sent_ns,
        };
        self.pending.insert(token, pending);
    }

    /// The answer of a callout; `headers` 0: there is none.
    pub fn on_callout(
        &mut self,
        context: u32,
        token: u32,
        headers: usize,
        size: usize,
        trailers: usize,
    ) {
        self.begin(context);
        let Some(pending) = self.pending.remove(&token) else {
            return;
        };
        let root = pending.root;
        if headers == 0
            && matches!(
                pending.cargo,
                Cargo::Probe | Cargo::Operations { way: Way::Lane, .. }
            )
        {
            self.lane_failed(root);
        }
        if headers != 0 && !matches!(pending.cargo, Cargo::Probe) {
            if let Some(r) = self.roots.get_mut(&root) {
                r.lane.resolved();
            }
        }
        // An answer whose body cannot be read is no answer.
        let body = if size == 0 {
            Some(Bytes::new())
        } else {
            self.host
                .buffer(Buffer::Callout, 0, size)
                .ok()
                .filter(|b| b.len() == size)
        };
        match pending.cargo {
            Cargo::Execution(execution) => {
                let map = self.host.headers(Map::CalloutHeaders);
                let map = map.ok().filter(|_| headers != 0).map(Headers);
                let executed = match (map, body) {
                    (Some(headers), Some(body)) => Executed::Answered {
                        headers,
                        body,
                        trailers: trailers > 0,
                    },
                    _ => Executed::Cut,
                };
                self.work.push(Work::Executed {
                    root,
                    execution,
                    executed,
                });
            }
            Cargo::Operations { jobs, way, wire } => {
                self.measure(root, pending.sent_ns, jobs.len());
                let mut answers = std::mem::take(&mut self.answers);
                match self.service_answers(headers, body, jobs.len(), &mut answers) {
                    Err(failed) if self.is_older(root, wire, failed) => {
                        self.ask_again(root, jobs, way);
                    }
                    Err(failed) => self.operations_failed(root, jobs, failed, way),
                    Ok(()) => self.operations_answered(root, jobs, answers.drain(..), way),
                }
                self.answers = answers;
                self.returned(root, way);
            }
            Cargo::Probe => self.returned(root, Way::Lane),
            Cargo::Wait { stream, wire } => {
                self.measure(root, pending.sent_ns, 0);
                let mut answers = Vec::new();
                let read = self.service_answers(headers, body, 1, &mut answers);
                if let Err(failed) = read {
                    // The next one speaks the older version; this one's client asks again.
                    self.is_older(root, wire, failed);
                }
                let answer = read.and_then(|()| match answers.pop() {
                    Some(answer) => read_answer(answer),
                    None => Err(CallFailed::Undecodable),
                });
                self.waited(root, stream, answer);
            }
        }
        self.finish(Flow::Continue);
    }

    fn measure(&mut self, root: u32, sent_ns: Option<u64>, operations: usize) {
        let Some(sent_ns) = sent_ns else {
            return;
        };
        let micros = self.now().least_ns.saturating_sub(sent_ns) / 1000;
        if let Some(root) = self.roots.get(&root) {
            root.metrics.record(&self.host, CALLOUT_TIME, micros);
            if let (Ok(operations), true) = (u64::try_from(operations), operations > 0) {
                root.metrics
                    .record(&self.host, CALLOUT_OPERATIONS, operations);
            }
        }
    }

    /// What the service has answered, one for each of `count` calls, into room that is there.
    fn service_answers(
        &self,
        headers: usize,
        body: Option<Bytes>,
        count: usize,
        answers: &mut Vec<Read>,
    ) -> Result<(), CallFailed> {
        // Of an answer that never came, hosts must not be asked for a header.
        if headers == 0 {
            return Err(CallFailed::Unanswered);
        }
        let is_readable = body.is_some();
        if body.is_some_and(|body| read_answers(&body, count, answers).is_some()) {
            return Ok(());
        }
        let status = self.host.header(Map::CalloutHeaders, ":status").ok();
        Err(match status.flatten() {
            None => CallFailed::Unanswered,
            Some(_) if !is_readable => CallFailed::Undecodable,
            Some(status) => why_undecodable(&status),
        })
    }

    /// Notes the answer of each operation.
    fn operations_answered(
        &mut self,
        root: u32,
        mut jobs: Vec<Job>,
        answers: impl Iterator<Item = Read>,
        way: Way,
    ) {
        let shared = jobs.len() > 1;
        for (job, answer) in jobs.drain(..).zip(answers) {
            let result = read_answer(answer);
            if shared && result == Ok(Answer::AskAlone) {
                self.ask_alone(root, job, way);
                continue;
            }
            if let Err(failed) = &result {
                self.call_failed(root, *failed);
            }
            self.work.push(Work::Answered { root, job, result });
        }
        self.spare.keep(jobs);
    }

    /// Notes that no operation has an answer.
    pub(super) fn operations_failed(
        &mut self,
        root: u32,
        jobs: Vec<Job>,
        failed: CallFailed,
        way: Way,
    ) {
        self.call_failed(root, failed);
        let too_large = failed == CallFailed::Status(CONTENT_TOO_LARGE);
        let shared = jobs.len() > 1;
        for mut job in jobs {
            match too_large && make_smaller(&mut job, shared) {
                true => self.ask_alone(root, job, way),
                false => self.work.push(Work::Answered {
                    root,
                    job,
                    result: Err(failed),
                }),
            }
        }
    }

    /// Counts a call that failed, and tells the operator of it, once in a while.
    fn call_failed(&mut self, root: u32, failed: CallFailed) {
        self.count(root, Counter::CalloutFailed);
        let mut note = Note::new(Counter::CalloutFailedBy(failed.reason()));
        note.why = Cow::Owned(failed.to_string());
        self.tell(root, &note);
    }

    /// Sends operations once more, none of which the service has looked at.
    fn ask_again(&mut self, root: u32, jobs: Vec<Job>, way: Way) {
        for job in jobs {
            match self.profile {
                Profile::Envoy => self.ask(root, job),
                Profile::Kong => self.ask_alone(root, job, way),
            }
        }
    }

    /// Sends an operation that was refused beside others once more.
    fn ask_alone(&mut self, root: u32, job: Job, way: Way) {
        match (way, self.roots.get_mut(&root)) {
            (Way::Lane, Some(r)) => r.lane.alone(job),
            _ => self.send_operations(root, vec![job], Way::Alone),
        }
    }

    fn waited(&mut self, root: u32, context: u32, result: CallResult) {
        if let Err(failed) = &result {
            self.call_failed(root, *failed);
        }
        let stream = context;
        self.work.push(Work::Waited { stream, result });
    }
}
