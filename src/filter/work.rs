//! What a callback of the host has brought, and what came of it meanwhile. It is worked off once, at the end
//! of the callback, one piece after the other: what a piece leads to is put here too, so the stack does not
//! grow with the number of answers that come at once.
//!
//! Renewals come first, because a lease ends; then settlements, because they unlock the keys of what was
//! executed; operations that begin an execution come last. The batches have the same order
//! ([`crate::batch`]).

use super::callouts::{Job, Purpose};
use super::Filter;
use crate::call::CallResult;
use crate::execution::Executed;
use crate::host::Host;
use crate::stream::Event;
use idempotency_protocol::Operation;
use std::collections::VecDeque;

/// One thing that has happened.
// An answer is the usual one, and a box for it would cost every request two calls of the allocator.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub(super) enum Work {
    /// An operation has its answer, or will get none.
    Answered {
        root: u32,
        job: Job,
        result: CallResult,
    },
    /// The same of the wait of a stream.
    Waited { stream: u32, result: CallResult },
    /// The request of a detached execution is back, or could not be sent.
    Executed {
        root: u32,
        execution: u32,
        executed: Executed,
    },
}

impl Work {
    /// The line that it waits in.
    fn line(&self) -> usize {
        match self {
            Work::Answered { job, .. } => match (&job.purpose, &*job.operation) {
                (Purpose::Renewal(_), _) => 0,
                (_, Operation::Acquire(_) | Operation::Redeem(_)) => 2,
                _ => 1,
            },
            Work::Executed { .. } => 1,
            Work::Waited { .. } => 2,
        }
    }
}

/// What is still to be worked off in this callback.
#[derive(Debug, Default)]
pub(super) struct WorkQueue {
    lines: [VecDeque<Work>; 3],
    len: usize,
}

impl WorkQueue {
    pub fn push(&mut self, work: Work) {
        if let Some(line) = self.lines.get_mut(work.line()) {
            line.push_back(work);
            self.len += 1;
        }
    }

    fn pop(&mut self) -> Option<Work> {
        // Most callbacks bring nothing.
        if self.len == 0 {
            return None;
        }
        self.len -= 1;
        self.lines.iter_mut().find_map(VecDeque::pop_front)
    }
}

impl<H: Host> Filter<H> {
    /// Works off what the callback has brought. Called at its end, and nowhere else.
    pub(super) fn work_off(&mut self) {
        while let Some(work) = self.work.pop() {
            match work {
                Work::Answered { root, job, result } => self.answered(root, job, result),
                Work::Waited { stream, result } => {
                    self.feed(stream, Event::Answer(result));
                }
                Work::Executed {
                    root,
                    execution,
                    executed,
                } => self.executed(root, execution, executed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::CallFailed;
    use idempotency_protocol::{LookupKey, Origin, Owner};

    const OWNER: Owner = Owner([7; 16]);

    fn key() -> LookupKey {
        LookupKey {
            tenant: String::new(),
            namespace: String::new(),
            origin: Origin::Client,
            key: "k".into(),
        }
    }

    fn answered(operation: Operation, purpose: Purpose) -> Work {
        Work::Answered {
            root: 1,
            job: Job {
                operation: Box::new(operation),
                trace: bytes::Bytes::new(),
                purpose,
            },
            result: Err(CallFailed::NotSent),
        }
    }

    fn renewal() -> Work {
        let operation = Operation::Extend {
            key: key(),
            owner: OWNER,
            lease_ms: 1,
        };
        answered(operation, Purpose::Renewal(OWNER))
    }

    fn settlement(purpose: Purpose) -> Work {
        let operation = Operation::Abandon {
            key: key(),
            owner: OWNER,
        };
        answered(operation, purpose)
    }

    fn wait(stream: u32) -> Work {
        let result = Err(CallFailed::NotSent);
        Work::Waited { stream, result }
    }

    fn name(work: &Work) -> String {
        match work {
            Work::Answered { job, .. } => format!("{:?}", job.purpose),
            Work::Waited { stream, .. } => format!("wait {stream}"),
            Work::Executed { execution, .. } => format!("execution {execution}"),
        }
    }

    #[test]
    fn what_comes_later_goes_before_what_can_wait() {
        let mut queue = WorkQueue::default();
        queue.push(wait(1));
        queue.push(wait(2));
        queue.push(settlement(Purpose::Stream(3)));
        let mut done = Vec::new();
        let mut pop = |queue: &mut WorkQueue| done.extend(queue.pop().iter().map(name));
        pop(&mut queue);
        pop(&mut queue);
        queue.push(Work::Executed {
            root: 1,
            execution: 4,
            executed: Executed::NotSent,
        });
        queue.push(settlement(Purpose::Outbox(5)));
        queue.push(renewal());
        for _ in 0..5 {
            pop(&mut queue);
        }
        let renewal = format!("Renewal({OWNER:?})");
        let expected = [
            "Stream(3)",
            "wait 1",
            &renewal,
            "execution 4",
            "Outbox(5)",
            "wait 2",
        ];
        assert_eq!(done, expected);
    }
}
