//! What is to be told to the store and nobody waits for: settlements that got no answer, and what a claim
//! says that was dropped. One task, one call at a time, [`MAX_OPERATIONS`] in a call. The queue is bounded.
//! What tells of effects has its own room, which a flood of refused requests cannot fill.

use crate::counters::Counter;
use crate::seldom::Seldom;
use crate::settle::{self, Settled};
use crate::shared::Shared;
use idempotency_protocol::{FailCause, Operation, Outcome, MAX_OPERATIONS};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{sleep, Instant};

/// Most outcomes, and executions that ended unknown.
const MAX_OUTCOMES: usize = 4_096;
/// Most keys that are to be freed: nothing was executed under them.
const MAX_RELEASES: usize = 2_048;
/// Most memory for outcomes, in bytes.
const MAX_BYTES: usize = 32 << 20;
/// How long one is tried.
pub(crate) const LONGEST: Duration = Duration::from_secs(15 * 60);
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(crate) struct Outbox {
    inner: Mutex<OutboxContents>,
    /// There is no room, or something is given up.
    losses: Seldom,
    /// The store does not answer.
    troubles: Seldom,
}

#[derive(Default)]
struct OutboxContents {
    outcomes: VecDeque<WaitingOperation>,
    releases: VecDeque<WaitingOperation>,
    bytes: usize,
    is_running: bool,
}

struct WaitingOperation {
    operation: Operation,
    until: Instant,
}

impl OutboxContents {
    fn is_empty(&self) -> bool {
        self.outcomes.is_empty() && self.releases.is_empty()
    }

    /// Whether there was room for it.
    fn put(&mut self, entry: WaitingOperation) -> bool {
        let bytes = self.bytes.saturating_add(size(&entry.operation));
        let is_release = matches!(entry.operation, Operation::Fail { .. });
        let (queue, most) = match is_release {
            true => (&mut self.releases, MAX_RELEASES),
            false => (&mut self.outcomes, MAX_OUTCOMES),
        };
        if queue.len() >= most || bytes > MAX_BYTES {
            return false;
        }
        queue.push_back(entry);
        self.bytes = bytes;
        true
    }

    fn take(&mut self) -> Option<WaitingOperation> {
        let outcome = self.outcomes.pop_front();
        let entry = outcome.or_else(|| self.releases.pop_front())?;
        self.bytes = self.bytes.saturating_sub(size(&entry.operation));
        Some(entry)
    }
}

impl Outbox {
    /// How much waits.
    pub fn len(&self) -> usize {
        let inner = self.lock();
        inner.outcomes.len() + inner.releases.len()
    }

    fn lock(&self) -> MutexGuard<'_, OutboxContents> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes an operation in, and sees to it that it is sent.
pub(crate) fn put(shared: &Arc<Shared>, operation: Operation, handle: &Handle) {
    let (until, name) = (Instant::now() + LONGEST, operation.name());
    let mut inner = shared.outbox.lock();
    if !inner.put(WaitingOperation { operation, until }) {
        return lost(shared, name);
    }
    shared.counters.count(Counter::OutboxEntered);
    let starts = !std::mem::replace(&mut inner.is_running, true);
    // A runtime that is shut down drops the task at once, and dropping it takes the lock.
    drop(inner);
    if starts {
        let cut = shared.cut.clone();
        let running = OutboxTask {
            shared: Arc::clone(shared),
            has_ended: false,
        };
        let work = async move {
            cut.run_until_cancelled(run(running)).await;
        };
        shared.tasks.spawn_on(work, handle);
    }
}

fn lost(shared: &Shared, operation: &str) {
    shared.counters.count(Counter::OutboxDropped);
    if let Some(unsaid) = shared.outbox.losses.say() {
        tracing::error!(
            operation,
            unsaid,
            "given up: its key ends unknown by its lease"
        );
    }
}

struct OutboxTask {
    shared: Arc<Shared>,
    has_ended: bool,
}

/// When a runtime that is shut down drops the task, the next operation starts another one.
impl Drop for OutboxTask {
    fn drop(&mut self) {
        if !self.has_ended {
            self.shared.outbox.lock().is_running = false;
        }
    }
}

async fn run(mut running: OutboxTask) {
    let mut pause = Duration::ZERO;
    loop {
        sleep(pause).await;
        let shared = &running.shared;
        let Some(batch) = next(shared) else {
            running.has_ended = true;
            return;
        };
        pause = match send(shared, batch).await {
            Ok(()) => Duration::ZERO,
            Err(detail) => {
                if let Some(unsaid) = shared.outbox.troubles.say() {
                    let what = "the store does not answer, and what is to be told waits";
                    tracing::warn!(detail, unsaid, "{what}");
                }
                (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
            }
        };
    }
}

/// What is sent next; `None`: nothing is left, and the task is over.
fn next(shared: &Shared) -> Option<Vec<WaitingOperation>> {
    let mut batch = Vec::new();
    let now = Instant::now();
    let mut inner = shared.outbox.lock();
    while batch.len() < MAX_OPERATIONS {
        let Some(entry) = inner.take() else {
            break;
        };
        if now >= entry.until {
            shared.counters.count(Counter::OutboxLeft);
            lost(shared, entry.operation.name());
            continue;
        }
        batch.push(entry);
    }
    if batch.is_empty() && inner.is_empty() {
        // Set under the lock, so that the next caller starts another task.
        inner.is_running = false;
        return None;
    }
    Some(batch)
}

/// Sends a batch; what got no answer goes back. `Err`: nothing got one.
async fn send(shared: &Shared, batch: Vec<WaitingOperation>) -> Result<(), String> {
    let operations: Vec<Operation> = batch.iter().map(|e| e.operation.clone()).collect();
    let mut any = batch.is_empty();
    let mut trouble = String::new();
    let answers = settle::ask(shared, operations).await;
    for (entry, settled) in batch.into_iter().zip(answers) {
        let again = match settled {
            Settled::Unanswered(detail) => {
                trouble = detail;
                Some(entry)
            }
            Settled::Refused(error) => {
                any = true;
                let without = settle::without_bytes(&entry.operation, &error);
                let is_outcome = matches!(entry.operation, Operation::Complete(_));
                if without.is_none() && is_outcome {
                    if let Some(unsaid) = shared.outbox.losses.say() {
                        tracing::warn!(%error, unsaid, "an outcome is not recorded");
                    }
                }
                without.map(|operation| WaitingOperation { operation, ..entry })
            }
            Settled::Recorded { .. } => {
                any = true;
                None
            }
        };
        let Some(entry) = again else {
            shared.counters.count(Counter::OutboxLeft);
            continue;
        };
        let name = entry.operation.name();
        let kept = shared.outbox.lock().put(entry);
        if !kept {
            // Others have taken its place meanwhile.
            shared.counters.count(Counter::OutboxLeft);
            lost(shared, name);
        }
    }
    match any {
        true => Ok(()),
        false => Err(trouble),
    }
}

/// What an operation holds in memory, in bytes, as far as that counts.
fn size(operation: &Operation) -> usize {
    match operation {
        Operation::Complete(complete) => match &*complete.outcome {
            Outcome::Response(response) => response.body.len(),
            Outcome::Tombstone(_) => 0,
        },
        Operation::Fail {
            cause: FailCause::Redirected(answer),
            ..
        } => answer.body.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations;
    use idempotency_core::ending::End;
    use idempotency_protocol::{LookupKey, Origin, Owner, StoredResponse};

    fn entry(operation: fn(LookupKey, Owner) -> Operation) -> WaitingOperation {
        let key = LookupKey {
            tenant: String::new(),
            namespace: String::new(),
            origin: Origin::Client,
            key: "k".to_owned(),
        };
        WaitingOperation {
            operation: operation(key, Owner([0; 16])),
            until: Instant::now(),
        }
    }

    fn fail(key: LookupKey, owner: Owner) -> Operation {
        End::NotDone(FailCause::NotSent).operation(key, owner)
    }

    fn large(key: LookupKey, owner: Owner) -> Operation {
        let response = StoredResponse {
            status: 200,
            headers: Vec::new(),
            body: vec![0; 1 << 20].into(),
        };
        operations::complete(key, owner, Outcome::Response(response))
    }

    #[test]
    fn refusals_push_no_outcome_out_and_outcomes_leave_first() {
        let mut inner = OutboxContents::default();
        while inner.put(entry(fail)) {}
        assert_eq!(inner.releases.len(), MAX_RELEASES);
        for _ in 0..MAX_OUTCOMES {
            assert!(inner.put(entry(operations::abandon)));
        }
        assert!(!inner.put(entry(operations::abandon)));
        for n in 0..MAX_OUTCOMES + MAX_RELEASES {
            let name = inner.take().unwrap().operation.name();
            assert_eq!(name == "abandon", n < MAX_OUTCOMES);
        }
        assert!(inner.take().is_none() && inner.is_empty());
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let mut inner = OutboxContents::default();
        let mut count = 0;
        while inner.put(entry(large)) {
            count += 1;
        }
        assert_eq!(count, MAX_BYTES >> 20);
        assert!(inner.put(entry(operations::abandon)));
        inner.take().unwrap();
        assert!(inner.put(entry(large)));
    }
}
