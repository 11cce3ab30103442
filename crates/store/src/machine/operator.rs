//! What operators, sweepers and waiters do to a slot.

use super::steps::replay;
use super::{Context, Phase, Reply};
use crate::clock::micros;
use crate::record::{MarkKind, Slot, State, StoredOutcome};
use crate::store::{RecordView, Resolution, Resolve, Resolved};
use idempotency_protocol::{Answer, LookupKey, Wait};

/// The record as an operator sees it; `None` where there is none, or none any more. For
/// [`Store::inspect`](crate::Store::inspect) and, by [`crate::keys::PageBuilder`], for listing.
pub fn view(slot: Option<&Slot>, context: &Context, key: &LookupKey) -> Option<RecordView> {
    view_of(&context.current(slot), context, key)
}

/// What is stored for a completed record, for [`Store::stored`](crate::Store::stored). Its data may be elsewhere
/// ([`crate::codec::is_separate`]).
pub fn stored(slot: Option<&Slot>, context: &Context) -> Option<StoredOutcome> {
    let slot = context.current(slot);
    slot.execution.as_ref()?.state.outcome().cloned()
}

fn view_of(slot: &Slot, context: &Context, key: &LookupKey) -> Option<RecordView> {
    let execution = slot.execution.as_ref();
    let lease_until = execution
        .and_then(|e| context.held_until(&e.state))
        .filter(|until| is_executing(slot) || context.now < *until);
    slot.view(key, context.now, lease_until)
}

fn is_executing(slot: &Slot) -> bool {
    matches!(
        slot.execution.as_ref().map(|e| &e.state),
        Some(State::Executing(_))
    )
}

/// Applies an operator's decision, for [`Store::resolve`](crate::Store::resolve); the slot is `None`
/// if nothing changes. Between read and write the same holds as for [`apply`](super::apply). The
/// decision wins over the execution: the owner that held the key counts as settled from now on,
/// so its late complete, fail or acquire finds no record of its own.
pub fn resolve(
    slot: Option<&Slot>,
    context: &Context,
    request: &Resolve,
) -> (Option<Slot>, Resolved) {
    let mut slot = context.current(slot);
    let Some(seen) = view_of(&slot, context, &request.key) else {
        return (None, Resolved::NoSuchKey);
    };
    if seen.version != request.version {
        return (None, Resolved::VersionChanged(seen));
    }
    if context.phase(&slot) == Phase::Executing && !request.force {
        return (None, Resolved::Executing(seen));
    }

    if let Some(owner) = slot.execution.as_mut().and_then(|e| e.owner.take()) {
        slot.mark(owner, MarkKind::Spent, context.now);
    }
    let state = match &request.to {
        Resolution::Completed(outcome) => Some(State::Completed(StoredOutcome::new(outcome))),
        Resolution::Prepared(outcome) => Some(State::Completed(outcome.clone())),
        Resolution::Failed => Some(State::Failed),
        Resolution::Deleted => None,
    };
    match (state, slot.execution.as_mut()) {
        (Some(state), Some(execution)) => {
            execution.state = state;
            execution.changed_at = context.now;
            // The operator has looked: nothing is in doubt. What a failed attempt left is not told.
            execution.history.doubt = false;
            execution.history.effects = true;
        }
        // The marks and the fence stay until they, too, are over.
        (None, _) | (_, None) => slot.execution = None,
    }
    slot.version = slot.version.saturating_add(1).max(context.now);
    let view = view_of(&slot, context, &request.key);
    (Some(slot), Resolved::Done(view))
}

/// What a sweep does to a slot: write the slot that comes with it, or remove the one that was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SweepStep {
    /// Not due.
    Keep,
    /// Not due, but its time in the index was: a lease of an earlier start, now counted from this
    /// one.
    Move(Slot),
    /// The lease was over: now `unknown`.
    Lapse(Slot),
    /// The record was over; what is left are marks.
    Expire(Slot),
    /// Nothing is left.
    Remove {
        /// There was a record, not only marks.
        expired: bool,
    },
}

/// Looks at one slot on behalf of [`Store::sweep`](crate::Store::sweep), once it is due by
/// [`Slot::due`]; another slot is only kept. Wake who waits for what lapses. An execution with a
/// live lease is never touched, and
/// one whose lease is over becomes `unknown`, whose TTL begins now.
pub fn sweep(slot: &Slot, context: &Context) -> SweepStep {
    let mut current = context.current(Some(slot));
    let now = context.now;
    let expired = slot.execution.is_some() && current.execution.is_none();
    match current.execution.as_mut() {
        None if current.marks.is_empty() => SweepStep::Remove { expired },
        None if expired => SweepStep::Expire(current),
        None => SweepStep::Keep,
        Some(execution) => match &mut execution.state {
            State::Executing(lease) => {
                let until = context.lease_until(lease);
                if now < until {
                    if lease.boot == context.boot {
                        return SweepStep::Keep;
                    }
                    lease.until = until;
                    lease.boot = context.boot;
                    return SweepStep::Move(current);
                }
                execution.state = State::Unknown;
                execution.changed_at = now;
                current.version = current.version.saturating_add(1).max(now);
                SweepStep::Lapse(current)
            }
            State::Settled(..) | State::Completed(_) | State::Failed | State::Unknown => {
                SweepStep::Keep
            }
        },
    }
}

/// What a waiter finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitStep {
    /// The wait is over.
    Over(Reply),
    /// The execution goes on; its lease ends after that many milliseconds, unless renewed.
    Wait {
        /// At least 1.
        lease_left_ms: u64,
    },
}

/// Looks at one slot on behalf of a waiter: the look of
/// [`Waiters::wait`](crate::waiters::Waiters::wait).
pub fn wait(slot: Option<&Slot>, context: &Context, wait: &Wait) -> WaitStep {
    let slot = context.current(slot);
    let changed = WaitStep::Over(Reply::Answer(Answer::Changed));
    let Some(execution) = slot.execution.as_ref() else {
        return changed;
    };
    if slot.fence != wait.fence || execution.fingerprint != wait.fingerprint {
        return changed;
    }
    match (context.phase(&slot), &execution.state) {
        (Phase::Executing | Phase::Settled, state) => {
            let until = context.held_until(state).unwrap_or(context.now);
            let left = until.saturating_sub(context.now);
            WaitStep::Wait {
                lease_left_ms: left.div_ceil(micros(1)).max(1),
            }
        }
        (Phase::Completed, _) => match replay(&slot, context) {
            Some(replay) => WaitStep::Over(Reply::Replay(replay)),
            None => changed,
        },
        _ => changed,
    }
}
