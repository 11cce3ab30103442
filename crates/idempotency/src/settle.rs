//! How the end of an execution is told to the store.

use crate::counters::Counter;
use crate::error::SettleError;
use crate::operations;
use crate::shared::Shared;
use idempotency_protocol::{Answer, FaultCode, Operation, Outcome, Tombstone, TombstoneReason};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout, Instant};

/// Longest wait for one answer.
const LONGEST_CALL: Duration = Duration::from_secs(5);
/// How long a settlement is tried again.
const LONGEST: Duration = Duration::from_secs(15 * 60);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How the store took a settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// As asked; when the record is forgotten, where it is an outcome.
    Recorded { expires_at_ms: Option<u64> },
    /// Not as asked, and asking again is pointless.
    Refused(SettleError),
    /// No usable answer: ask again.
    Unanswered(String),
}

impl Settled {
    fn read(answer: Option<Answer>) -> Settled {
        match answer {
            Some(Answer::Completed { expires_at_ms }) => Settled::Recorded {
                expires_at_ms: Some(expires_at_ms),
            },
            Some(Answer::Failed | Answer::Abandoned | Answer::Marked) => Settled::Recorded {
                expires_at_ms: None,
            },
            Some(Answer::Lost) => Settled::Refused(SettleError::Lost),
            Some(Answer::Differs) => Settled::Refused(SettleError::Differs),
            Some(Answer::Refused) => Settled::Refused(SettleError::Refused),
            Some(Answer::Fault(fault)) if fault.code == FaultCode::Invalid => {
                Settled::Refused(SettleError::StoreFailed(fault.detail))
            }
            Some(Answer::Fault(fault)) => Settled::Unanswered(fault.to_string()),
            Some(other) => Settled::Unanswered(format!("answered {}", other.name())),
            None => Settled::Unanswered("no answer in time".to_owned()),
        }
    }

    /// As the caller is told.
    pub fn result(self) -> Result<Option<u64>, SettleError> {
        match self {
            Settled::Recorded { expires_at_ms } => Ok(expires_at_ms),
            Settled::Refused(error) => Err(error),
            Settled::Unanswered(detail) => Err(SettleError::StoreDown(detail)),
        }
    }
}

/// Tells the store. Without an answer, a task goes on telling it.
pub(crate) async fn settle(shared: &Arc<Shared>, operation: Operation) -> Settled {
    let settled = attempt(shared, &operation).await;
    if let Settled::Unanswered(detail) = &settled {
        tracing::warn!(
            operation = operation.name(),
            detail,
            "the end of an execution is not recorded yet"
        );
        again(shared, operation, &Handle::current());
    }
    settled
}

/// Tells the store from a task of its own.
pub(crate) fn in_background(shared: &Arc<Shared>, operation: Operation, handle: &Handle) {
    let owned = Arc::clone(shared);
    let work = async move {
        settle(&owned, operation).await;
    };
    shared.tasks.spawn_on(cuttable(shared, work), handle);
}

/// Asks once. An outcome that the store takes for too large is recorded without its bytes: done, and not to
/// be replayed.
async fn attempt(shared: &Shared, operation: &Operation) -> Settled {
    let settled = ask(shared, operation).await;
    match (&settled, without_bytes(operation)) {
        (Settled::Refused(SettleError::StoreFailed(detail)), Some(fact)) => {
            tracing::warn!(detail, "an answer is recorded without its bytes");
            ask(shared, &fact).await
        }
        _ => settled,
    }
}

fn without_bytes(operation: &Operation) -> Option<Operation> {
    let Operation::Complete(complete) = operation else {
        return None;
    };
    let Outcome::Response(response) = &complete.outcome else {
        return None;
    };
    let fact = Outcome::Tombstone(Tombstone {
        status: response.status,
        reason: TombstoneReason::TooLarge,
    });
    Some(operations::complete(
        complete.key.clone(),
        complete.owner,
        fact,
    ))
}

async fn ask(shared: &Shared, operation: &Operation) -> Settled {
    let call = shared.store.apply(vec![operation.clone()]);
    let answers = timeout(LONGEST_CALL, call).await.unwrap_or_default();
    let settled = Settled::read(answers.into_iter().next());
    if let Some(counter) = counter(&settled, operation) {
        shared.counters.count(counter);
    }
    settled
}

fn counter(settled: &Settled, operation: &Operation) -> Option<Counter> {
    Some(match (settled, operation) {
        (Settled::Recorded { .. }, Operation::Complete(_)) => Counter::Completed,
        (Settled::Recorded { .. }, Operation::Fail { .. }) => Counter::Failed,
        (Settled::Recorded { .. }, Operation::Abandon { .. }) => Counter::Unknown,
        (Settled::Refused(_), Operation::Complete(_)) => Counter::CompleteRefused,
        (Settled::Unanswered(_), Operation::Complete(_)) => Counter::CompleteUnanswered,
        _ => return None,
    })
}

fn again(shared: &Arc<Shared>, operation: Operation, handle: &Handle) {
    let kib = u32::try_from(size(&operation) >> 10).unwrap_or(u32::MAX);
    let room = (
        Arc::clone(&shared.waiting).try_acquire_owned(),
        Arc::clone(&shared.waiting_kib).try_acquire_many_owned(kib),
    );
    let (Ok(entry), Ok(bytes)) = room else {
        shared.counters.count(Counter::OutboxDropped);
        tracing::error!(
            operation = operation.name(),
            "no room to go on recording the end of an execution: it ends unknown"
        );
        return;
    };
    shared.counters.count(Counter::OutboxEntered);
    let waiting = Waiting(Arc::clone(shared), entry, bytes);
    let work = async move {
        persist(&waiting.0, &operation).await;
    };
    shared.tasks.spawn_on(cuttable(shared, work), handle);
}

/// A settlement that waits to be tried again.
struct Waiting(
    Arc<Shared>,
    #[expect(dead_code)] OwnedSemaphorePermit,
    #[expect(dead_code)] OwnedSemaphorePermit,
);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.counters.count(Counter::OutboxLeft);
    }
}

async fn persist(shared: &Shared, operation: &Operation) {
    let name = operation.name();
    let end = Instant::now() + LONGEST;
    let mut pause = FIRST_PAUSE;
    while Instant::now() < end {
        sleep(pause).await;
        match attempt(shared, operation).await {
            Settled::Recorded { .. } => {
                tracing::info!(operation = name, "the end of an execution is recorded late");
                return;
            }
            Settled::Refused(error) => {
                tracing::error!(operation = name, %error, "the end of an execution is not recorded");
                return;
            }
            Settled::Unanswered(_) => pause = (pause * 2).min(LONGEST_PAUSE),
        }
    }
    shared.counters.count(Counter::OutboxDropped);
    tracing::error!(operation = name, "the end of an execution is given up");
}

/// What a settlement holds in memory, in bytes.
fn size(operation: &Operation) -> usize {
    let Operation::Complete(complete) = operation else {
        return 0;
    };
    match &complete.outcome {
        Outcome::Response(response) => response.body.len(),
        Outcome::Tombstone(_) => 0,
    }
}

/// Ends with the work, or when the guard is told to end everything.
fn cuttable(
    shared: &Shared,
    work: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let cut = shared.cut.clone();
    async move {
        let _ = cut.run_until_cancelled(work).await;
    }
}
