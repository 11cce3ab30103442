//! What comes of the answer to an operation, and what goes on without a client: the outbox, and detached
//! executions.

use super::callouts::{Job, Purpose};
use super::Filter;
use crate::call::CallResult;
use crate::execution::Executed;
use crate::host::Host;
use crate::profile::Profile;
use crate::settlement::{self, Settled};
use crate::stats::Counter;
use crate::stream::{Effect, Event};
use idempotency_protocol::Operation;

/// How many settlements leave the outbox at once; the rest follow at the next tick.
const OUTBOX_BURST: usize = 32;

impl<H: Host> Filter<H> {
    /// An operation has its answer, or will get none.
    pub(super) fn answered(&mut self, root: u32, job: Job, result: CallResult) {
        match job.purpose {
            Purpose::Stream(context) => match job.operation {
                Operation::Acquire(_) | Operation::Redeem(_) => {
                    self.feed(context, Event::Answer(result));
                }
                operation if self.is_active(context) => {
                    self.feed(context, Event::Settled(operation, result));
                }
                operation => self.settled_without_client(root, context, operation, &result),
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
                    _ if !held => self.count(root, Counter::LeaseLost),
                    Ok(_) => self.count(root, Counter::LeaseRenewed),
                    Err(_) => {}
                }
            }
        }
    }

    fn settled_without_client(
        &mut self,
        root: u32,
        stream: u32,
        operation: Operation,
        result: &CallResult,
    ) {
        let mut effects = Vec::new();
        settlement::returned(operation, result, &mut effects);
        self.perform(root, stream, effects);
    }

    fn outbox_answered(&mut self, root: u32, id: u32, result: &CallResult) {
        let now_ns = self.now().least_ns;
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        let settled = Settled::read(result);
        if settled == Settled::Unanswered {
            if !r.outbox.unanswered(id, now_ns) {
                self.count(root, Counter::OutboxDropped);
                self.count(root, Counter::OutboxLeft);
            }
            return;
        }
        let counter = r
            .outbox
            .operation(id)
            .and_then(|operation| settled.counter(operation));
        r.outbox.answered(id);
        self.count(root, Counter::OutboxLeft);
        if let Some(counter) = counter {
            self.count(root, counter);
        }
    }

    /// Settles in the background.
    pub(super) fn background(&mut self, root: u32, operation: Operation) {
        let now_ns = self.now().least_ns;
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        // An acquire that was never sent has nothing to take back. Sent after its own fail, it would depend on
        // the store's memory of that, which is short.
        if let Operation::Fail { owner, .. } = &operation {
            let is_its =
                |job: &Job| matches!(&job.operation, Operation::Acquire(a) if a.owner == *owner);
            if r.batches.withdraw(is_its).is_some() {
                return;
            }
        }
        if r.outbox.push(operation, now_ns).is_err() {
            self.count(root, Counter::OutboxDropped);
            return;
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
        for (id, operation) in due {
            let purpose = Purpose::Outbox(id);
            self.ask(root, Job { operation, purpose });
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
        self.perform(root, stream, effects);
        let purpose = Purpose::ExecutionSettlement(id);
        self.ask(root, Job { operation, purpose });
    }

    fn execution_settled(&mut self, root: u32, id: u32, operation: Operation, result: &CallResult) {
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        let Some(execution) = r.executions.remove(&id) else {
            return;
        };
        let stream = execution.stream;
        let mut effects: Vec<Effect> = Vec::new();
        let reply = execution.settled(operation, result, &mut effects);
        self.perform(root, stream, effects);
        if let Some(reply) = reply {
            self.feed(stream, Event::Executed(reply));
        }
    }
}
