//! Who may hold a key, until when, and what may have come of it.

use super::faults::Cause;
use super::index::{Execution, Index, Key, Op};
use super::SETTLING;
use crate::clock::{Micros, MS, SECOND};
use crate::history::End;
use crate::workload::{Class, HOP};

/// Why the outcome of an operation may be unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The upstream's own answer means that.
    Upstream,
    /// The client left in an inline execution.
    ClientLeft,
    /// Something was broken on purpose.
    Fault,
    /// The machine stood still.
    Stall,
    /// It took, measured, about as long as the gateway has patience.
    Slow,
}

/// Whether the operation met its own lock: the second gateway of its path spent the first one's proof, and did not
/// hear that it had. Nobody knows then whether another copy of the request was let through.
pub(super) fn met_itself(index: &Index, op: &Op) -> bool {
    let refused = op.answer().and_then(|answer| answer.problem.as_deref());
    op.rule.path.starts_with(HOP) && refused == Some("in-flight") && index.troubled(op)
}

/// Whether the operation may have been granted its key: it executed, or its end does not tell.
pub(super) fn may_have_held(index: &Index, op: &Op) -> bool {
    if op.execution.is_some() || met_itself(index, op) {
        return true;
    }
    match op.end {
        End::Cut { .. } | End::Left | End::Hung => true,
        End::Refused { .. } => false,
        End::Answer(answer) => match answer.problem.as_deref() {
            // No answer of the service: the acquire may have arrived all the same.
            Some("store-unavailable" | "outcome-unknown" | "outcome-unrecorded") => {
                answer.status != 409
            }
            Some(_) => false,
            // Envoy's own: granted, and cut.
            None => answer.id.is_none(),
        },
    }
}

/// Why an attempt before this execution may be unknown to the store. One that never reached the upstream may be,
/// too.
pub(super) fn doubt_before(index: &Index, key: &Key, execution: &Execution) -> Option<Doubt> {
    let is_before = |op: &&Op| match &op.execution {
        Some(other) => other.fence < execution.fence,
        None => op.invoke.at <= execution.started.at,
    };
    let mut before = key.ops.iter().filter(is_before);
    before.find_map(|op| doubt(index, op))
}

/// Why the outcome of this operation may be unknown to the store.
pub(super) fn doubt(index: &Index, op: &Op) -> Option<Doubt> {
    if !may_have_held(index, op) {
        return None;
    }
    if let Some(execution) = &op.execution {
        if execution.class == Class::Unknown {
            return Some(Doubt::Upstream);
        }
        // The upstream died in it.
        if !execution.finished {
            return Some(Doubt::Fault);
        }
        let timeout = op.rule.timeout_ms * MS;
        let left = matches!(op.end, End::Left);
        let over = if left { execution.over } else { op.over() };
        let took = over.saturating_sub(execution.started.at);
        if took + SECOND / 2 >= timeout {
            return Some(Doubt::Slow);
        }
    }
    if matches!(op.end, End::Left) && !op.rule.detached {
        return Some(Doubt::ClientLeft);
    }
    let spans = index.faults.hits(op, op.invoke.at, op.over() + SETTLING);
    let mut found = None;
    for span in spans {
        if !matches!(span.cause, Cause::Stall(_)) {
            return Some(Doubt::Fault);
        }
        found = Some(Doubt::Stall);
    }
    found
}

/// Until when the operation may hold its key at the longest.
fn lock_ends(index: &Index, op: &Op) -> Micros {
    let lease = index.run.lease_ms * MS;
    let mut end = op.over() + SETTLING;
    let mut broken = false;
    // Nobody may have told the store, and the lease runs anew when an embedded store starts.
    loop {
        let spans = index.faults.hits(op, op.invoke.at, end);
        let last = spans.map(|span| span.to).max();
        let Some(last) = last else {
            return end;
        };
        let later = last.max(op.over()) + lease + SETTLING + super::AFTERMATH;
        if broken && later <= end {
            return end;
        }
        broken = true;
        end = end.max(later);
    }
}

/// Whether anybody but `op` may have held the key while `op` ran.
pub(super) fn locked_by_another(index: &Index, key: &Key, op: &Op) -> bool {
    key.ops.iter().any(|other| {
        other.invoke.op != op.invoke.op
            && other.invoke.at <= op.returned
            && may_have_held(index, other)
            && lock_ends(index, other) >= op.invoke.at
    })
}
