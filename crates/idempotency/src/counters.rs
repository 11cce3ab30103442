//! What a guard counts. The names are those of the gateway's metrics, without their prefix.

use idempotency_core::problem::Problem;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    Executed,
    Replayed,
    Waited,
    PassedUnprotected,
    GrantExpired,
    Completed,
    Failed,
    Unknown,
    CompleteUnanswered,
    CompleteRefused,
    LeaseRenewed,
    LeaseLost,
    OutboxEntered,
    OutboxLeft,
    OutboxDropped,
    ObservedReplay,
    ObservedExecution,
    Problem(Problem),
    Observed(Problem),
}

const SINGLE: [(Counter, &str); 17] = [
    (Counter::Executed, "executed"),
    (Counter::Replayed, "replayed"),
    (Counter::Waited, "waited"),
    (Counter::PassedUnprotected, "passed_unprotected"),
    (Counter::GrantExpired, "grant_expired"),
    (Counter::Completed, "completed"),
    (Counter::Failed, "failed"),
    (Counter::Unknown, "unknown"),
    (Counter::CompleteUnanswered, "complete_unanswered"),
    (Counter::CompleteRefused, "complete_refused"),
    (Counter::LeaseRenewed, "lease_renewed"),
    (Counter::LeaseLost, "lease_lost"),
    (Counter::OutboxEntered, "outbox_entered"),
    (Counter::OutboxLeft, "outbox_left"),
    (Counter::OutboxDropped, "outbox_dropped"),
    (Counter::ObservedReplay, "observed_replay"),
    (Counter::ObservedExecution, "observed_execution"),
];

#[derive(Debug, Default)]
pub(crate) struct Counters {
    single: [AtomicU64; SINGLE.len()],
    problems: [AtomicU64; Problem::ALL.len()],
    observed: [AtomicU64; Problem::ALL.len()],
}

impl Counters {
    pub fn count(&self, counter: Counter) {
        let place = |problem| Problem::ALL.iter().position(|p| *p == problem);
        let cell = match counter {
            Counter::Problem(problem) => place(problem).and_then(|at| self.problems.get(at)),
            Counter::Observed(problem) => place(problem).and_then(|at| self.observed.get(at)),
            single => {
                let at = SINGLE.iter().position(|(counter, _)| *counter == single);
                at.and_then(|at| self.single.get(at))
            }
        };
        if let Some(cell) = cell {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All of them now, by name.
    pub fn read(&self) -> BTreeMap<String, u64> {
        let value = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let mut all = BTreeMap::new();
        for ((_, name), cell) in SINGLE.iter().zip(&self.single) {
            all.insert((*name).to_owned(), value(cell));
        }
        for (kind, cells) in [("problem", &self.problems), ("observed", &self.observed)] {
            for (problem, cell) in Problem::ALL.iter().zip(cells) {
                let name = problem.name().replace('-', "_");
                all.insert(format!("{kind}_{name}"), value(cell));
            }
        }
        all
    }
}
