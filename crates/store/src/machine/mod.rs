//! The transition function: what each event does to a record in each state.
//!
//! Pure: no I/O, and the time is an argument. [`apply`] is the table of states and events of
//! `docs/semantics.md`, one `match` over (phase, event); backends that cannot call it (because
//! the transition runs inside a database) are held to it by the contract suite.

mod event;
mod operator;
mod steps;

pub use event::{AcquireEvent, Event};
pub use operator::{resolve, stored, sweep, view, wait, SweepStep, WaitStep};

use crate::clock::{micros, Micros};
use crate::history::Failure;
use crate::quota::Quota;
use crate::record::{Execution, Lease, MarkKind, Slot, State, StoredOutcome};
use idempotency_protocol::Answer;
use steps::Step;

/// What the machine must know besides the record and the event.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Store time.
    pub now: Micros,
    /// Number of the store's current start; 0 for stores whose leases need no renewal.
    pub boot: u64,
    /// When that start was.
    pub boot_started: Micros,
    /// How much room there is.
    pub room: Room,
    /// Which quota of the key's tenant leaves no room for a new record, if one does.
    pub used_up: Option<Quota>,
}

/// How much room a store has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Room {
    /// Below the high-water mark.
    #[default]
    Plenty,
    /// Above it: no new executions, but those that were granted can still end.
    NoGrants,
    /// At the hard limit: completes are kept as tombstones.
    FactsOnly,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// This.
    Answer(Answer),
    /// The stored outcome; the backend turns it into [`Answer::Stored`], after reading the data
    /// if it is kept elsewhere.
    Replay(Replay),
}

/// All of [`idempotency_protocol::Stored`] but the decoded outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// What to replay.
    pub outcome: StoredOutcome,
    /// Fence of the execution.
    pub fence: u64,
    /// Attempt number of the execution.
    pub attempt: u32,
    /// Age of the record in milliseconds.
    pub age_ms: u64,
    /// When the record is forgotten, milliseconds since the Unix epoch.
    pub expires_at_ms: u64,
}

/// The result of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The slot as it is to be written; `None` if nothing changes.
    pub change: Option<Slot>,
    /// What is answered.
    pub reply: Reply,
}

/// The columns of the table. *Lapsed* is "executing, lease over, and nobody has noticed".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Absent,
    Executing,
    Lapsed,
    /// Done, told by the upstream, while its gateway holds a lease that is not over.
    Settled,
    Completed,
    Failed,
    Unknown,
}

impl Context {
    /// For a decision at `now`, in a store whose clock and leases outlive its process, that has
    /// room, and whose tenant is within its quotas. Set the other fields where that is not so.
    pub fn at(now: Micros) -> Context {
        Context {
            now,
            boot: 0,
            boot_started: 0,
            room: Room::Plenty,
            used_up: None,
        }
    }

    /// When a lease is over. A lease of an earlier start counts from this start: while the store
    /// was down nobody could renew it.
    pub(crate) fn lease_until(&self, lease: &Lease) -> Micros {
        if lease.boot == self.boot {
            lease.until
        } else {
            self.boot_started.saturating_add(micros(lease.length_ms))
        }
    }

    /// Until when the key is held in this state; `None` if it is not.
    pub(crate) fn held_until(&self, state: &State) -> Option<Micros> {
        match state {
            State::Executing(lease) => Some(self.lease_until(lease)),
            State::Settled(lease, _) => Some(lease.until),
            State::Completed(_) | State::Failed | State::Unknown => None,
        }
    }

    pub(crate) fn phase(&self, slot: &Slot) -> Phase {
        match slot.execution.as_ref().map(|e| &e.state) {
            None => Phase::Absent,
            Some(State::Executing(lease)) if self.now < self.lease_until(lease) => Phase::Executing,
            Some(State::Executing(_)) => Phase::Lapsed,
            // A settled record may have been replayed since its lease was over, so no restart gives it
            // another one.
            Some(State::Settled(lease, _)) if self.now < lease.until => Phase::Settled,
            Some(State::Completed(_) | State::Settled(..)) => Phase::Completed,
            Some(State::Failed) => Phase::Failed,
            Some(State::Unknown) => Phase::Unknown,
        }
    }

    /// The slot as it is now: what has expired behaves as absent at once, swept or not. An
    /// execution without an end never expires. The fence outlives it all.
    pub(crate) fn current(&self, slot: Option<&Slot>) -> Slot {
        let mut slot = slot.cloned().unwrap_or_default();
        let expires_at = slot.execution.as_ref().and_then(Execution::expires_at);
        if expires_at.is_some_and(|at| at <= self.now) {
            slot.execution = None;
        }
        slot.marks.retain(|m| m.until > self.now);
        slot
    }
}

/// Applies one event to what a store holds under one key; `slot` is `None` where it holds nothing.
///
/// Call it for every operation of [`Store::apply`](crate::Store::apply), with nobody else writing the
/// key between the read of `slot` and the write of [`Applied::change`]: under a lock, from one
/// thread, or by a compare-and-set on [`Slot::version`] that starts over when it fails. Answer when
/// both what was read and what was written are as durable as the store promises.
pub fn apply(slot: Option<&Slot>, context: &Context, event: &Event) -> Applied {
    use {Event as E, Phase as P};

    let step = Step::new(slot, context);
    let holds = |owner| step.is_held_by(owner);
    match (step.phase, event) {
        // acquire: the fingerprint before the state, in every state but absent; then what is
        // known of the owner; then the state.
        (P::Absent, E::Acquire(a)) => match step.mark_of(a.owner) {
            Some(mark) => step.barred(mark),
            None => step.grant_new(a),
        },
        (_, E::Acquire(a)) if !step.is_comparable(a) => step.keep(Answer::NotComparable),
        (_, E::Acquire(a)) if step.was_redirected(a) => step.redirect(a),
        // What was not done may be corrected; what may be half done must be repeated as it was.
        (P::Failed, E::Acquire(a)) if !step.is_same(a) && step.did_nothing() => {
            match step.mark_of(a.owner) {
                Some(mark) => step.barred(mark),
                None if holds(a.owner) => step.barred(MarkKind::Spent),
                None => step.grant(a),
            }
        }
        (_, E::Acquire(a)) if !step.is_same(a) => step.keep(Answer::Mismatch),
        (P::Completed, E::Acquire(_)) => step.replay(),
        (phase, E::Acquire(a)) => match (phase, step.mark_of(a.owner)) {
            (P::Executing, _) if holds(a.owner) => step.same_grant(),
            (_, Some(mark)) => step.barred(mark),
            (P::Failed | P::Settled, _) if holds(a.owner) => step.barred(MarkKind::Spent),
            (P::Failed, None) => step.grant(a),
            (P::Lapsed | P::Unknown, None) if step.retries_unknown(a) && !holds(a.owner) => {
                step.grant(a)
            }
            (P::Lapsed, None) if step.retries_unknown(a) => step.lapse_spent(),
            (P::Lapsed, None) => step.lapse(),
            (P::Unknown, None) if step.retries_unknown(a) => step.barred(MarkKind::Spent),
            (P::Unknown, None) => step.unknown_outcome(),
            (P::Executing | P::Settled | P::Absent | P::Completed, None) => step.in_flight(),
        },

        // complete: late is as good as in time, as long as nobody took the key.
        (P::Executing | P::Lapsed | P::Settled | P::Unknown, E::Complete { owner, outcome })
            if holds(*owner) =>
        {
            step.complete(outcome)
        }
        (P::Completed, E::Complete { owner, outcome }) if holds(*owner) => {
            step.completed_before(outcome)
        }
        (_, E::Complete { .. }) => step.keep(Answer::Lost),

        // fail: an owner that holds nothing is remembered, because its acquire may come later.
        (P::Absent, E::Fail { owner, .. }) => step.mark(*owner, Answer::Marked),
        (P::Executing | P::Lapsed, E::Fail { owner, failure }) if holds(*owner) => {
            step.fail(failure)
        }
        (P::Failed, E::Fail { owner, .. }) if holds(*owner) => step.keep(Answer::Failed),
        (P::Unknown, E::Fail { owner, .. }) if holds(*owner) && step.is_in_doubt() => {
            step.keep(Answer::Abandoned)
        }
        (P::Executing | P::Lapsed | P::Failed, E::Fail { owner, .. }) => {
            step.mark(*owner, Answer::Lost)
        }
        (P::Settled | P::Completed | P::Unknown, E::Fail { owner, .. }) => {
            step.mark(*owner, Answer::Refused)
        }

        // abandon
        (P::Absent, E::Abandon { owner }) => step.mark(*owner, Answer::Marked),
        (P::Executing | P::Lapsed, E::Abandon { owner }) if holds(*owner) => step.abandon(),
        (P::Unknown, E::Abandon { owner }) if holds(*owner) => step.keep(Answer::Abandoned),
        (P::Executing | P::Lapsed | P::Unknown, E::Abandon { owner }) => {
            step.mark(*owner, Answer::Lost)
        }
        (P::Settled | P::Completed | P::Failed, E::Abandon { owner }) => {
            step.mark(*owner, Answer::Refused)
        }

        // extend
        (P::Executing | P::Lapsed | P::Settled, E::Extend { owner, lease_ms }) if holds(*owner) => {
            step.extend(*lease_ms)
        }
        (P::Absent | P::Executing | P::Lapsed | P::Settled, E::Extend { .. }) => {
            step.keep(Answer::Lost)
        }
        (P::Completed | P::Failed | P::Unknown, E::Extend { .. }) => step.keep(Answer::Refused),

        // settle: by fence, the upstream's proof that the execution is its own.
        (P::Absent, E::Settle { .. }) => step.keep(Answer::Lost),
        (_, E::Settle { fence, .. }) if !step.has_fence(*fence) => step.keep(Answer::Lost),
        (
            P::Executing,
            E::Settle {
                outcome: Some(outcome),
                ..
            },
        ) => step.settle(outcome),
        (
            P::Lapsed | P::Unknown,
            E::Settle {
                outcome: Some(outcome),
                ..
            },
        ) => step.complete(outcome),
        (P::Unknown, E::Settle { outcome: None, .. }) if step.is_in_doubt() => {
            step.keep(Answer::Abandoned)
        }
        (P::Executing | P::Lapsed | P::Unknown, E::Settle { outcome: None, .. }) => {
            step.fail(&Failure::Other)
        }
        (
            P::Settled | P::Completed,
            E::Settle {
                outcome: Some(outcome),
                ..
            },
        ) => step.completed_before(outcome),
        (P::Failed, E::Settle { outcome: None, .. }) => step.keep(Answer::Failed),
        (P::Settled | P::Completed | P::Failed, E::Settle { .. }) => step.keep(Answer::Refused),

        // redeem: once for each execution, while it runs.
        (
            P::Executing,
            E::Redeem {
                fence,
                fingerprint,
                expires_at_ms,
            },
        ) if step.has_fence(*fence) && step.has_fingerprint(fingerprint) => {
            step.redeem(*expires_at_ms)
        }
        (_, E::Redeem { .. }) => step.keep(Answer::Lost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;
    use idempotency_protocol::{
        AttemptKind, Fingerprint, OnUnknown, Outcome, Owner, Retention, Scheme, Tombstone,
        TombstoneReason,
    };

    /// A replay that somebody got must not be taken back by a restart of the store.
    #[test]
    fn a_restart_gives_a_settled_record_no_new_lease() {
        let fingerprint = Fingerprint {
            scheme: Scheme(1),
            digest: [1; 32],
        };
        let retention = Retention {
            ttl_ms: 60_000,
            unknown_ttl_ms: 60_000,
        };
        let lease = Lease {
            until: 2_000_000,
            length_ms: 1_000,
            boot: 1,
        };
        let outcome = StoredOutcome::new(&Outcome::Tombstone(Tombstone {
            status: 201,
            reason: TombstoneReason::Trailers,
        }));
        let slot = Slot {
            version: 1,
            fence: 1,
            marks: Vec::new(),
            execution: Some(Execution {
                owner: Some(Owner([1; 16])),
                fingerprint,
                attempt: 1,
                retention,
                created_at: 1_000_000,
                changed_at: 1_500_000,
                state: State::Settled(lease, outcome),
                history: History::first(AttemptKind::Gateway, None, 1_000_000),
            }),
        };
        let acquire = Event::Acquire(AcquireEvent {
            owner: Owner([2; 16]),
            fingerprint,
            lease_ms: 1_000,
            retention,
            on_unknown: OnUnknown::Refuse,
            kind: AttemptKind::Gateway,
            about: None,
        });
        let restarted = |now| Context {
            boot: 2,
            boot_started: now,
            ..Context::at(now)
        };
        let before = apply(Some(&slot), &restarted(1_900_000), &acquire);
        assert!(matches!(
            before.reply,
            Reply::Answer(Answer::InFlight {
                lease_left_ms: 100,
                ..
            })
        ));
        let after = apply(Some(&slot), &restarted(2_100_000), &acquire);
        assert!(matches!(after.reply, Reply::Replay(_)));
    }
}
