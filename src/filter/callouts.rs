//! Callouts: whom an answer is for, and what a missing one means. All are dispatched from the root
//! context, because an answer must be heard even if the stream that asked has gone (a host drops
//! the answers of dead streams).

use super::{Filter, Internal};
use crate::call::{read_answer, Call, CallFailed, CallResult};
use crate::execution::Executed;
use crate::headers::Headers;
use crate::host::{Buffer, Host, Map, MetricKind};
use crate::profile::Profile;
use crate::settlement::Settled;
use crate::stats::{Counter, CALLOUT_TIME};
use crate::stream::{Effect, Event};
use idempotency_protocol::{Operation, Owner};

/// How many settlements leave the outbox at once; the rest follow at the next tick.
const OUTBOX_BURST: usize = 32;
/// How many calls of observed streams may wait for a tick.
const MAX_DEFERRED: usize = 1024;

/// Whom the answer of a callout is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// A stream; a settlement goes on without it.
    Stream {
        context: u32,
        settlement: Option<Operation>,
    },
    /// A detached execution: the upstream's answer.
    Execution(u32),
    /// A detached execution: its settlement.
    ExecutionSettlement(u32),
    /// A settlement that no client waits for.
    Outbox(u64),
    /// The renewal of a lease.
    Renewal(Owner),
}

/// A callout that is out.
#[derive(Debug)]
pub(super) struct Pending {
    root: u32,
    purpose: Purpose,
    sent_ns: u64,
}

impl<H: Host> Filter<H> {
    /// Sends a call to the service. A call that cannot be sent is answered as failed, at once.
    pub(super) fn call(&mut self, root: u32, call: &Call, purpose: Purpose) {
        let settings = self.roots.get(&root).and_then(|r| r.settings());
        let sent = settings.and_then(|settings| {
            let service = &settings.plan.service;
            let callout = call.callout(service);
            self.enter(root).then_some(())?;
            let timeout = callout.timeout_ms;
            self.host
                .callout(
                    &service.target,
                    &callout.headers,
                    &callout.body,
                    &[],
                    timeout,
                )
                .ok()
        });
        match sent {
            Some(token) => {
                let sent_ns = self.now();
                self.pending.insert(
                    token,
                    Pending {
                        root,
                        purpose,
                        sent_ns,
                    },
                );
            }
            None => self.answered(root, purpose, Err(CallFailed)),
        }
    }

    /// Notes a callout that carries a detached execution.
    pub(super) fn execution_sent(&mut self, root: u32, token: u32, execution: u32) {
        let sent_ns = self.now();
        let purpose = Purpose::Execution(execution);
        self.pending.insert(
            token,
            Pending {
                root,
                purpose,
                sent_ns,
            },
        );
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
        let Some(Pending {
            root,
            purpose,
            sent_ns,
        }) = self.pending.remove(&token)
        else {
            return;
        };
        // An answer whose body cannot be read is no answer.
        let body = if size == 0 {
            Some(bytes::Bytes::new())
        } else {
            self.host
                .buffer(Buffer::Callout, 0, size)
                .ok()
                .filter(|b| b.len() == size)
        };
        if let Purpose::Execution(execution) = purpose {
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
        } else {
            let micros = self.now().saturating_sub(sent_ns) / 1000;
            if let Some(root) = self.roots.get_mut(&root) {
                let kind = MetricKind::Histogram;
                root.metrics.record(&self.host, kind, CALLOUT_TIME, micros);
            }
            // One header is cheaper to read than all of them. Of an answer that never came, hosts
            // must not be asked for any.
            let status = match headers {
                0 => None,
                _ => self.host.header(Map::CalloutHeaders, ":status").ok(),
            };
            let status = status.flatten();
            let result = match (status, body) {
                (Some(status), Some(body)) => read_answer(&status, body),
                _ => Err(CallFailed),
            };
            self.answered(root, purpose, result);
        }
        self.settle_internal();
    }

    fn answered(&mut self, root: u32, purpose: Purpose, result: CallResult) {
        if result.is_err() {
            self.count(root, Counter::CalloutFailed);
        }
        match purpose {
            Purpose::Stream {
                context,
                settlement,
            } => {
                if self.is_active(context) {
                    self.internal.push_back(Internal::Answer(context, result));
                } else if let Some(operation) = settlement {
                    self.settled_without_client(root, operation, &result);
                }
            }
            Purpose::ExecutionSettlement(execution) => {
                self.internal
                    .push_back(Internal::Settled(root, execution, result));
            }
            Purpose::Execution(execution) => {
                self.internal
                    .push_back(Internal::ExecutionNotSent(root, execution));
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
            let settlement = None;
            self.call(
                root,
                &call,
                Purpose::Stream {
                    context,
                    settlement,
                },
            );
        }
    }

    /// Sends what is due.
    pub(super) fn flush_outbox(&mut self, root: u32, now_ns: u64) {
        let Some(r) = self.roots.get_mut(&root) else {
            return;
        };
        for (id, operation) in r.outbox.due(now_ns, OUTBOX_BURST) {
            self.call(root, &Call::Operation(operation), Purpose::Outbox(id));
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
        self.call(
            root,
            &Call::Operation(operation),
            Purpose::ExecutionSettlement(id),
        );
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
