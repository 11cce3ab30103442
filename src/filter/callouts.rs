//! Callouts: whom an answer is for, and what a missing one means. All are dispatched from the root
//! context, because an answer must be heard even if the stream that asked has gone (a host drops
//! the answers of dead streams).

use super::{Filter, Internal};
use crate::call::{read_answers, Call, CallFailed, CallResult, Callout};
use crate::config::Service;
use crate::execution::Executed;
use crate::headers::Headers;
use crate::host::{Buffer, Host, Map};
use crate::profile::Profile;
use crate::settlement::Settled;
use crate::stats::{Counter, CALLOUT_OPERATIONS, CALLOUT_TIME};
use crate::stream::{Effect, Event};
use idempotency_protocol::{Answer, Operation, Owner};

/// How many settlements leave the outbox at once; the rest follow at the next tick.
const OUTBOX_BURST: usize = 32;
/// How many calls of observed streams may wait for a tick.
const MAX_DEFERRED: usize = 1024;

/// Whom the answer to an operation is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// A stream; a settlement goes on without it.
    Stream(u32),
    /// A detached execution: its settlement.
    ExecutionSettlement(u32),
    /// A settlement that no client waits for.
    Outbox(u64),
    /// The renewal of a lease.
    Renewal(Owner),
}

/// An operation on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub operation: Operation,
    pub purpose: Purpose,
}

/// What a callout carries.
#[derive(Debug)]
pub(super) enum Cargo {
    /// Operations, in the order of their answers. `counted`: one of the batches in flight.
    Operations { jobs: Vec<Job>, counted: bool },
    /// The wait of a stream.
    Wait(u32),
    /// A detached execution: its answer is the upstream's.
    Execution(u32),
}

/// A callout that is out.
#[derive(Debug)]
pub(super) struct Pending {
    root: u32,
    cargo: Cargo,
    sent_ns: u64,
}

impl<H: Host> Filter<H> {
    /// Asks the service on behalf of a stream.
    pub(super) fn call(&mut self, root: u32, context: u32, call: Call) {
        match call {
            Call::Operation(operation) => {
                let purpose = Purpose::Stream(context);
                self.ask(root, Job { operation, purpose });
            }
            Call::Wait(wait) => {
                let sent = self.send(root, |service| Callout::wait(&wait, service));
                match sent {
                    Some(token) => self.sent(root, token, Cargo::Wait(context)),
                    None => self.waited(root, context, Err(CallFailed)),
                }
            }
        }
    }

    /// Sends operations in one callout. Those that cannot be sent are answered as failed, at once.
    pub(super) fn send_operations(&mut self, root: u32, jobs: Vec<Job>, counted: bool) {
        let sent = self.send(root, |service| {
            Callout::operations(jobs.iter().map(|job| &job.operation), service)
        });
        match sent {
            Some(token) => self.sent(root, token, Cargo::Operations { jobs, counted }),
            None => {
                self.operations_answered(root, jobs, Err(CallFailed));
                self.batch_returned(root, counted);
            }
        }
    }

    /// Starts a callout to the service; its token.
    fn send(&mut self, root: u32, callout: impl FnOnce(&Service) -> Callout) -> Option<u32> {
        let settings = self.roots.get(&root)?.settings()?;
        let service = &settings.plan.service;
        let callout = callout(service);
        self.enter(root).then_some(())?;
        let Callout {
            headers,
            body,
            timeout_ms,
        } = &callout;
        let target = &service.target;
        let sent = self.host.callout(target, headers, body, &[], *timeout_ms);
        sent.ok()
    }

    /// Notes a callout that is out.
    pub(super) fn sent(&mut self, root: u32, token: u32, cargo: Cargo) {
        let pending = Pending {
            root,
            cargo,
            sent_ns: self.now(),
        };
        self.pending.insert(token, Box::new(pending));
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
        // An answer whose body cannot be read is no answer.
        let body = if size == 0 {
            Some(bytes::Bytes::new())
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
                self.executed(root, execution, executed);
            }
            Cargo::Operations { jobs, counted } => {
                self.measure(root, pending.sent_ns, jobs.len());
                let answers = self.service_answers(headers, body, jobs.len());
                self.operations_answered(root, jobs, answers);
                self.batch_returned(root, counted);
            }
            Cargo::Wait(stream) => {
                self.measure(root, pending.sent_ns, 0);
                let answers = self.service_answers(headers, body, 1);
                let answer = answers.and_then(|mut answers| answers.pop().ok_or(CallFailed));
                self.waited(root, stream, answer);
            }
        }
        self.settle_internal();
    }

    fn measure(&mut self, root: u32, sent_ns: u64, operations: usize) {
        let micros = self.now().saturating_sub(sent_ns) / 1000;
        if let Some(root) = self.roots.get(&root) {
            root.metrics.record(&self.host, CALLOUT_TIME, micros);
            if let (Ok(operations), true) = (u64::try_from(operations), operations > 0) {
                root.metrics
                    .record(&self.host, CALLOUT_OPERATIONS, operations);
            }
        }
    }

    /// What the service has answered, one for each of `count` calls.
    fn service_answers(
        &self,
        headers: usize,
        body: Option<bytes::Bytes>,
        count: usize,
    ) -> Result<Vec<Answer>, CallFailed> {
        // One header is cheaper to read than all of them. Of an answer that never came, hosts must
        // not be asked for any.
        let status = match headers {
            0 => None,
            _ => self.host.header(Map::CalloutHeaders, ":status").ok(),
        };
        match (status.flatten(), body) {
            (Some(status), Some(body)) => read_answers(&status, body, count),
            _ => Err(CallFailed),
        }
    }

    /// Hands each operation its answer.
    pub(super) fn operations_answered(
        &mut self,
        root: u32,
        jobs: Vec<Job>,
        answers: Result<Vec<Answer>, CallFailed>,
    ) {
        match answers {
            Ok(answers) => {
                let shared = jobs.len() > 1;
                for (job, answer) in jobs.into_iter().zip(answers) {
                    if shared && answer == Answer::AskAlone {
                        self.send_operations(root, vec![job], false);
                    } else {
                        self.answered(root, job, Ok(answer));
                    }
                }
            }
            Err(failed) => {
                self.count(root, Counter::CalloutFailed);
                for job in jobs {
                    self.answered(root, job, Err(failed));
                }
            }
        }
    }

    fn waited(&mut self, root: u32, context: u32, result: CallResult) {
        if result.is_err() {
            self.count(root, Counter::CalloutFailed);
        }
        if self.is_active(context) {
            self.internal.push_back(Internal::Answer(context, result));
        }
    }

    fn answered(&mut self, root: u32, job: Job, result: CallResult) {
        match job.purpose {
            Purpose::Stream(context) => {
                if self.is_active(context) {
                    self.internal.push_back(Internal::Answer(context, result));
                } else if !matches!(job.operation, Operation::Acquire(_)) {
                    self.settled_without_client(root, job.operation, &result);
                }
            }
            Purpose::ExecutionSettlement(execution) => {
                self.internal
                    .push_back(Internal::Settled(root, execution, result));
            }
            Purpose::Outbox(id) => self.outbox_answered(root, id, &result),
            Purpose::Renewal(owner) => {
                let Some(r) = self.roots.get_mut(&root) else {
                    return;
                };
                let held = r.leases.renewed(owner, result.as_ref().ok());
                match result {
                    _ if !held => self.count(root, Counter::LeaseLost),
                    Ok(_) => self.count(root, Counter::LeaseRenewed),
                    Err(_) => {}
                }
            }
        }
    }

    fn settled_without_client(&mut self, root: u32, operation: Operation, result: &CallResult) {
        let settled = Settled::read(result);
        if let Some(counter) = settled.counter(&operation) {
            self.count(root, counter);
        }
        if settled == Settled::Unanswered {
            self.background(root, operation);
        }
    }

    fn outbox_answered(&mut self, root: u32, id: u64, result: &CallResult) {
        let now_ns = self.now();
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        let settled = Settled::read(result);
        if settled == Settled::Unanswered {
            if !r.outbox.unanswered(id, now_ns) {
                self.count(root, Counter::OutboxDropped);
            }
            return;
        }
        let counter = r
            .outbox
            .operation(id)
            .and_then(|operation| settled.counter(operation));
        r.outbox.answered(id);
        if let Some(counter) = counter {
            self.count(root, counter);
        }
    }

    /// Settles in the background.
    pub(super) fn background(&mut self, root: u32, operation: Operation) {
        let now_ns = self.now();
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        if r.outbox.push(operation, now_ns).is_err() {
            self.count(root, Counter::OutboxDropped);
            return;
        }
        // In Kong, what runs now may be a callback that must not call.
        if self.profile == Profile::Envoy {
            self.flush_outbox(root, now_ns);
        }
    }

    /// Puts a call of a stream that is only observed off until the next tick.
    pub(super) fn defer(&mut self, root: u32, context: u32, call: Call) {
        if let Some(r) = self.roots.get_mut(&root) {
            if r.deferred.len() < MAX_DEFERRED {
                r.deferred.push_back((context, call));
                return;
            }
        }
        self.internal
            .push_back(Internal::Answer(context, Err(CallFailed)));
    }

    /// Sends the calls that were put off.
    pub(super) fn flush_deferred(&mut self, root: u32) {
        for _ in 0..OUTBOX_BURST {
            let next = self
                .roots
                .get_mut(&root)
                .and_then(|r| r.deferred.pop_front());
            let Some((context, call)) = next else {
                return;
            };
            self.call(root, context, call);
        }
    }

    /// Sends what is due.
    pub(super) fn flush_outbox(&mut self, root: u32, now_ns: u64) {
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        for (id, operation) in r.outbox.due(now_ns, OUTBOX_BURST) {
            let purpose = Purpose::Outbox(id);
            self.ask(root, Job { operation, purpose });
        }
    }

    fn executed(&mut self, root: u32, id: u32, executed: Executed) {
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        let Some(execution) = r.executions.get_mut(&id) else {
            return;
        };
        let stream = execution.stream;
        let mut effects = Vec::new();
        let operation = execution.executed(executed, &mut effects);
        self.perform(root, stream, effects);
        let purpose = Purpose::ExecutionSettlement(id);
        self.ask(root, Job { operation, purpose });
    }

    /// Works off what happened while something else was done.
    pub(super) fn settle_internal(&mut self) {
        while let Some(event) = self.internal.pop_front() {
            match event {
                Internal::Answer(context, result) => {
                    self.feed(context, None, Event::Answer(result));
                }
                Internal::Executed(context, reply) => {
                    self.feed(context, None, Event::Executed(reply));
                }
                Internal::ExecutionNotSent(root, id) => {
                    self.executed(root, id, Executed::NotSent);
                }
                Internal::Settled(root, id, result) => {
                    let Some(r) = self.roots.get_mut(&root) else {
                        continue;
                    };
                    let Some(execution) = r.executions.remove(&id) else {
                        continue;
                    };
                    let stream = execution.stream;
                    let mut effects: Vec<Effect> = Vec::new();
                    let reply = execution.settled(&result, &mut effects);
                    self.perform(root, stream, effects);
                    if let (Some(reply), true) = (reply, self.is_active(stream)) {
                        self.internal.push_back(Internal::Executed(stream, reply));
                    }
                }
            }
        }
    }
}
