//! What the filter does with the answer to an operation, and the work that goes on without a client: the
//! outbox, and detached executions.

use super::callouts::{Job, Purpose};
use super::Filter;
use crate::call::CallResult;
use crate::execution::Executed;
use crate::host::Host;
use crate::note::Note;
use crate::outbox::Full;
use crate::profile::Profile;
use crate::settlement;
use crate::stats::Counter;
use crate::stream::{Effect, Event};
use bytes::Bytes;
use idempotency_core::settled::Settled;
use idempotency_protocol::{LookupKey, Operation};

/// How many settlements leave the outbox at once; the rest follow at the next tick.
const OUTBOX_BURST: usize = 32;

impl<H: Host> Filter<H> {
    /// An operation has its answer, or will get none.
    pub(super) fn answered(&mut self, root: u32, job: Job, result: CallResult) {
        match job.purpose {
            Purpose::Stream(context) => match *job.operation {
                Operation::Acquire(_) | Operation::Redeem(_) => {
                    self.feed(context, Event::Answer(result));
                }
                _ if self.is_active(context) => {
                    self.feed(context, Event::Settled(job.operation, result));
                }
                _ => {
                    let mut effects = Vec::new();
                    settlement::returned(None, job.operation, &result, &mut effects);
                    self.perform(root, context, Some(&job.trace), effects);
                }
            },
            Purpose::ExecutionSettlement(execution) => {
                self.execution_settled(root, execution, job.operation, &result);
            }
            Purpose::Outbox(id) => self.outbox_answered(root, id, &result),
            Purpose::Renewal(owner) => {
                let Some(r) = self.roots.get_mut(&root) else {
                    return;
                };
                let held = r.leases.renewed(owner, result.as_ref().ok());
                match result {
                    _ if !held => {
                        let why = "another execution, or an operator, took the key";
                        self.tell_of_key(root, Counter::LeaseLost, job.operation.key(), why);
                    }
                    Ok(_) => self.count(root, Counter::LeaseRenewed),
                    Err(_) => {}
                }
            }
        }
    }

    fn outbox_answered(&mut self, root: u32, id: u32, result: &CallResult) {
        let now_ns = self.now().least_ns;
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        let settled = Settled::read(result);
        if settled == Settled::Unanswered {
            if let Some(operation) = r.outbox.unanswered(id, now_ns) {
                self.count(root, Counter::OutboxLeft);
                let why = "its time was over, and the service had not answered";
                self.tell_of_key(root, Counter::OutboxDropped, operation.key(), why);
            }
            return;
        }
        let answered = r.outbox.answered(id);
        self.count(root, Counter::OutboxLeft);
        let Some((operation, late)) = answered else {
            return;
        };
        let Some(counter) = settlement::counter(settled, &operation) else {
            return;
        };
        match settlement::note(counter, &operation, result) {
            Some(note) => self.tell(root, &note),
            None => self.count(root, counter),
        }
        if late && counter == Counter::Completed {
            let why = "the service has it now; before, a try had no answer";
            self.tell_of_key(root, Counter::CompleteLate, operation.key(), why);
        }
    }

    /// Tells of a record of which nothing else is known any more.
    fn tell_of_key(&mut self, root: u32, what: Counter, key: &LookupKey, why: &'static str) {
        let mut note = Note::new(what);
        note.key = Some(key.clone());
        note.why = why.into();
        self.tell(root, &note);
    }

    /// Settles in the background, in the name of the request with this `traceparent`.
    pub(super) fn background(&mut self, root: u32, operation: Operation, trace: Bytes) {
        let now_ns = self.now().least_ns;
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        // An acquire that was never sent has nothing to take back. Sent after its own fail, it would depend on
        // the store's memory of that, which is short.
        if let Operation::Fail { owner, .. } = &operation {
            let is_its =
                |job: &Job| matches!(&*job.operation, Operation::Acquire(a) if a.owner == *owner);
            if r.batches.withdraw(is_its).is_some() {
                return;
            }
        }
        if let Err(Full(key)) = r.outbox.push(operation, trace, now_ns) {
            return self.tell_of_key(root, Counter::OutboxDropped, &key, "too many wait already");
        }
        self.count(root, Counter::OutboxEntered);
        // In Kong, what runs now may be a callback that must not call.
        if self.profile == Profile::Envoy {
            self.flush_outbox(root, now_ns);
        }
    }

    /// Sends what is due.
    pub(super) fn flush_outbox(&mut self, root: u32, now_ns: u64) {
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        let mut left = OUTBOX_BURST;
        let due = r.outbox.due(now_ns, |_| {
            let room = left > 0;
            left = left.saturating_sub(1);
            room
        });
        for (id, operation, trace) in due {
            let job = Job {
                operation: Box::new(operation),
                trace,
                purpose: Purpose::Outbox(id),
            };
            self.ask(root, job);
        }
    }

    /// The request of a detached execution is back, or could not be sent.
    pub(super) fn executed(&mut self, root: u32, id: u32, executed: Executed) {
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        let Some(execution) = r.executions.get_mut(&id) else {
            return;
        };
        let stream = execution.stream;
        let mut effects = Vec::new();
        let operation = execution.executed(executed, &mut effects);
        let trace = execution.trace();
        self.perform(root, stream, Some(&trace), effects);
        let job = Job {
            operation,
            trace,
            purpose: Purpose::ExecutionSettlement(id),
        };
        self.ask(root, job);
    }

    fn execution_settled(
        &mut self,
        root: u32,
        id: u32,
        operation: Box<Operation>,
        result: &CallResult,
    ) {
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        let Some(execution) = r.executions.remove(&id) else {
            return;
        };
        let stream = execution.stream;
        let trace = execution.trace();
        let mut effects: Vec<Effect> = Vec::new();
        let reply = execution.settled(operation, result, &mut effects);
        self.perform(root, stream, Some(&trace), effects);
        if let Some(reply) = reply {
            self.feed(stream, Event::Executed(reply));
        }
    }
}
