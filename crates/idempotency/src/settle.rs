//! How the end of an execution is told to the store.

use crate::counters::Counter;
use crate::error::SettleError;
use crate::operations;
use crate::outbox;
use crate::patience::within;
use crate::shared::Shared;
use idempotency_protocol::{Answer, FaultCode, Operation, Outcome, Tombstone, TombstoneReason};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{sleep, Instant};

/// Longest wait for one answer.
const LONGEST_CALL: Duration = Duration::from_secs(5);

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

/// Tells the store, and waits for its answer. Without one, the outbox goes on telling it. An outcome that the
/// store takes for too large is recorded without its bytes: done, and not to be replayed.
pub(crate) async fn settle(shared: &Arc<Shared>, mut operation: Operation) -> Settled {
    let mut settled = ask_one(shared, &operation).await;
    if let Settled::Refused(error) = &settled {
        if let Some(fact) = without_bytes(&operation, error) {
            operation = fact;
            settled = ask_one(shared, &operation).await;
        }
    }
    if matches!(settled, Settled::Unanswered(_)) {
        if matches!(operation, Operation::Complete(_)) {
            shared.counters.count(Counter::CompleteUnanswered);
        }
        outbox::put(shared, operation, &Handle::current());
    }
    settled
}

/// Asks again what got no answer, until it gets one, as long as the outbox does the same. Asking twice changes
/// nothing: the owner gets the same answer to the same outcome.
pub(crate) async fn until_answered(shared: &Shared, operation: Operation) -> Settled {
    let started = Instant::now();
    let mut pause = outbox::FIRST_PAUSE;
    loop {
        sleep(pause).await;
        let settled = ask_one(shared, &operation).await;
        let goes_on = started.elapsed() < outbox::LONGEST && !shared.cut.is_cancelled();
        match settled {
            Settled::Unanswered(_) if goes_on => pause = (pause * 2).min(outbox::LONGEST_PAUSE),
            settled => return settled,
        }
    }
}

async fn ask_one(shared: &Shared, operation: &Operation) -> Settled {
    let asked = ask(shared, vec![operation.clone()]).await;
    let none = || Settled::Unanswered("no answer".to_owned());
    asked.into_iter().next().unwrap_or_else(none)
}

/// Asks once; an answer each.
pub(crate) async fn ask(shared: &Shared, operations: Vec<Operation>) -> Vec<Settled> {
    let kinds: Vec<SettlementKind> = operations.iter().map(SettlementKind::of).collect();
    let call = within(LONGEST_CALL, shared.store.apply(operations)).await;
    let mut answers = call.unwrap_or_default().into_iter();
    let read = |kind: SettlementKind| {
        let settled = Settled::read(answers.next());
        if let Some(counter) = counter(&settled, kind) {
            shared.counters.count(counter);
        }
        settled
    };
    kinds.into_iter().map(read).collect()
}

/// The fact alone, if it was the outcome's size that the store refused.
pub(crate) fn without_bytes(operation: &Operation, error: &SettleError) -> Option<Operation> {
    let (Operation::Complete(complete), SettleError::StoreFailed(detail)) = (operation, error)
    else {
        return None;
    };
    let Outcome::Response(response) = &*complete.outcome else {
        return None;
    };
    tracing::warn!(detail, "an answer is recorded without its bytes");
    let fact = Outcome::Tombstone(Tombstone {
        status: response.status,
        reason: TombstoneReason::TooLarge,
    });
    let (key, owner) = (complete.key.clone(), complete.owner);
    Some(operations::complete(key, owner, fact))
}

/// What a settlement says.
#[derive(Clone, Copy)]
enum SettlementKind {
    Complete,
    Fail,
    Abandon,
    Other,
}

impl SettlementKind {
    fn of(operation: &Operation) -> SettlementKind {
        match operation {
            Operation::Complete(_) => SettlementKind::Complete,
            Operation::Fail { .. } => SettlementKind::Fail,
            Operation::Abandon { .. } => SettlementKind::Abandon,
            _ => SettlementKind::Other,
        }
    }
}

fn counter(settled: &Settled, kind: SettlementKind) -> Option<Counter> {
    Some(match (settled, kind) {
        (Settled::Recorded { .. }, SettlementKind::Complete) => Counter::Completed,
        (Settled::Recorded { .. }, SettlementKind::Fail) => Counter::Failed,
        (Settled::Recorded { .. }, SettlementKind::Abandon) => Counter::Unknown,
        (Settled::Refused(_), SettlementKind::Complete) => Counter::CompleteRefused,
        _ => return None,
    })
}
