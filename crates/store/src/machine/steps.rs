//! The cells of the table: each turns the slot into what it becomes, and names the answer.

use super::{AcquireEvent, Applied, Context, Phase, Replay, Reply, Room};
use crate::clock::{micros, Micros};
use crate::history::{Failure, History, PastAttempt, PastEnd, Redirect};
use crate::record::{Execution, Lease, MarkKind, Slot, State, StoredOutcome};
use idempotency_protocol::{
    Answer, AttemptKind, Fault, FaultCode, Fingerprint, Grant, Owner, Retention,
};

/// One event on its way through the table.
pub(super) struct Step<'a> {
    context: &'a Context,
    /// The slot as it is now: without what has expired.
    slot: Slot,
    /// The column.
    pub phase: Phase,
}

impl<'a> Step<'a> {
    pub fn new(slot: Option<&Slot>, context: &'a Context) -> Step<'a> {
        let slot = context.current(slot);
        let phase = context.phase(&slot);
        Step {
            context,
            slot,
            phase,
        }
    }

    fn execution(&self) -> Option<&Execution> {
        self.slot.execution.as_ref()
    }

    pub fn is_held_by(&self, owner: Owner) -> bool {
        self.execution().is_some_and(|e| e.owner == Some(owner))
    }

    pub fn has_fence(&self, fence: u64) -> bool {
        self.slot.fence == fence
    }

    pub fn has_fingerprint(&self, fingerprint: &Fingerprint) -> bool {
        self.execution()
            .is_some_and(|e| e.fingerprint == *fingerprint)
    }

    pub fn is_comparable(&self, a: &AcquireEvent) -> bool {
        self.execution()
            .is_some_and(|e| e.fingerprint.scheme == a.fingerprint.scheme)
    }

    pub fn is_same(&self, a: &AcquireEvent) -> bool {
        self.has_fingerprint(&a.fingerprint)
    }

    /// Whether the request with this fingerprint got a redirect before.
    pub fn was_redirected(&self, a: &AcquireEvent) -> bool {
        self.redirect_of(a).is_some()
    }

    fn redirect_of(&self, a: &AcquireEvent) -> Option<&Redirect> {
        self.execution()?.history.redirect_of(&a.fingerprint)
    }

    /// Whether no attempt so far can have done anything.
    pub fn did_nothing(&self) -> bool {
        self.execution()
            .is_some_and(|e| !e.history.effects && !e.history.doubt)
    }

    /// Whether an attempt before the newest one may have been done.
    pub fn is_in_doubt(&self) -> bool {
        self.execution().is_some_and(|e| e.history.doubt)
    }

    pub fn retries_unknown(&self, a: &AcquireEvent) -> bool {
        self.execution()
            .is_some_and(|e| a.retries_unknown(e.history.kinds))
    }

    pub fn mark_of(&self, owner: Owner) -> Option<MarkKind> {
        self.slot.mark_of(owner)
    }

    // Answers that change nothing.

    pub fn keep(self, answer: Answer) -> Applied {
        Applied {
            change: None,
            reply: Reply::Answer(answer),
        }
    }

    pub fn barred(self, mark: MarkKind) -> Applied {
        self.keep(match mark {
            MarkKind::Cancelled => Answer::Cancelled,
            MarkKind::Spent => Answer::Spent,
        })
    }

    /// The answer to an acquire that was sent twice. The lease has been running since the first
    /// one, so what is left of it is told: the caller counts from when it sent *this* one.
    pub fn same_grant(self) -> Applied {
        let answer = match self.execution() {
            Some(Execution {
                state: State::Executing(lease),
                attempt,
                ..
            }) => Answer::Granted(Grant {
                fence: self.slot.fence,
                attempt: *attempt,
                lease_ms: self.lease_left_ms(lease),
            }),
            _ => Answer::Lost,
        };
        self.keep(answer)
    }

    pub fn in_flight(self) -> Applied {
        let until = self
            .execution()
            .and_then(|e| self.context.held_until(&e.state));
        let lease_left_ms = until.map_or(0, |until| until.saturating_sub(self.context.now) / 1_000);
        let fence = self.slot.fence;
        self.keep(Answer::InFlight {
            fence,
            lease_left_ms,
        })
    }

    fn lease_left_ms(&self, lease: &Lease) -> u64 {
        self.context
            .lease_until(lease)
            .saturating_sub(self.context.now)
            / 1_000
    }

    pub fn replay(self) -> Applied {
        let Some(replay) = replay(&self.slot, self.context) else {
            return self.keep(Answer::Lost);
        };
        Applied {
            change: None,
            reply: Reply::Replay(replay),
        }
    }

    /// The redirect that this request got is its answer, whatever became of the key since.
    pub fn redirect(self, a: &AcquireEvent) -> Applied {
        let found = self
            .redirect_of(a)
            .and_then(|redirect| Some((redirect.clone(), redirect.stored()?)));
        let Some((redirect, outcome)) = found else {
            return self.keep(Answer::Mismatch);
        };
        Applied {
            change: None,
            reply: Reply::Replay(Replay {
                outcome,
                fence: redirect.fence,
                attempt: redirect.attempt,
                age_ms: self.context.now.saturating_sub(redirect.answered_at) / 1_000,
                expires_at_ms: self.forgotten_at() / 1_000,
            }),
        }
    }

    /// When the record is forgotten: for one that executes, if its execution ended now.
    fn forgotten_at(&self) -> Micros {
        self.execution().map_or(0, |e| {
            let executing = self.context.now.saturating_add(micros(e.retention.ttl_ms));
            e.expires_at().unwrap_or(executing)
        })
    }

    pub fn unknown_outcome(self) -> Applied {
        let expires_at_ms = self.expires_at_ms();
        self.keep(Answer::UnknownOutcome { expires_at_ms })
    }

    /// Complete or settle on a record that is completed: the same outcome is the same answer.
    pub fn completed_before(self, outcome: &StoredOutcome) -> Applied {
        let stored = self.execution().and_then(|e| e.state.outcome());
        let same = stored.is_some_and(|stored| stored.digest == outcome.digest);
        let expires_at_ms = self.expires_at_ms();
        self.keep(if same {
            Answer::Completed { expires_at_ms }
        } else {
            Answer::Differs
        })
    }

    fn expires_at_ms(&self) -> u64 {
        self.execution()
            .and_then(Execution::expires_at)
            .unwrap_or(0)
            / 1_000
    }

    // Answers that change the slot.

    fn put(mut self, answer: impl FnOnce(&Self) -> Answer) -> Applied {
        self.slot.version = self.slot.version.saturating_add(1).max(self.context.now);
        let answer = answer(&self);
        Applied {
            change: Some(self.slot),
            reply: Reply::Answer(answer),
        }
    }

    /// The grant of a key that has no record: quotas are about these.
    pub fn grant_new(self, a: &AcquireEvent) -> Applied {
        match self.context.used_up {
            Some(quota) if self.context.room == Room::Plenty => self.keep(quota.refusal()),
            _ => self.grant(a),
        }
    }

    pub fn grant(mut self, a: &AcquireEvent) -> Applied {
        if self.context.room != Room::Plenty {
            let detail = "above the high-water mark: no new executions".to_owned();
            return self.keep(Answer::Fault(Fault {
                code: FaultCode::Capacity,
                detail,
            }));
        }
        let now = self.context.now;
        let before = self.slot.execution.take();
        if let Some(owner) = before.as_ref().and_then(|e| e.owner) {
            self.slot.mark(owner, MarkKind::Spent, now);
        }
        self.slot.fence = self.slot.fence.saturating_add(1).max(now);
        let attempt = before.as_ref().map_or(1, |e| e.attempt.saturating_add(1));
        let history = self.next_history(before.as_ref(), a);
        let Retention {
            ttl_ms,
            unknown_ttl_ms,
        } = a.retention;
        self.slot.execution = Some(Execution {
            owner: Some(a.owner),
            fingerprint: a.fingerprint,
            attempt,
            // What may have happened is remembered at least as long as what has.
            retention: Retention {
                ttl_ms,
                unknown_ttl_ms: unknown_ttl_ms.max(ttl_ms),
            },
            created_at: before.map_or(now, |e| e.created_at),
            changed_at: now,
            state: State::Executing(self.lease(a.lease_ms)),
            history,
        });
        self.put(|step| {
            Answer::Granted(Grant {
                fence: step.slot.fence,
                attempt,
                lease_ms: a.lease_ms,
            })
        })
    }

    /// What is remembered from a grant on. An attempt that ends here without having failed leaves
    /// doubt.
    fn next_history(&self, before: Option<&Execution>, a: &AcquireEvent) -> History {
        let now = self.context.now;
        let Some(before) = before else {
            return History::first(a.kind, a.about.clone(), now);
        };
        let end = match before.state {
            State::Failed => PastEnd::Failed,
            State::Executing(_) | State::Settled(..) | State::Completed(_) | State::Unknown => {
                PastEnd::Unknown
            }
        };
        let mut history = before.history.clone();
        history.push_past(PastAttempt {
            kind: history.newest,
            end,
            started_at: history.started_at,
            // A lease that ran out unnoticed is noticed now.
            ended_at: match before.state {
                State::Executing(_) => now,
                _ => before.changed_at,
            },
        });
        // A transaction without a recorded end was rolled back with it, or will be: it leaves no doubt.
        history.doubt |= end == PastEnd::Unknown && history.newest != AttemptKind::Transaction;
        history.kinds = history.kinds.with(a.kind);
        history.newest = a.kind;
        history.started_at = now;
        history.about = a.about.clone();
        history
    }

    fn lease(&self, length_ms: u64) -> Lease {
        let until = self.context.now.saturating_add(micros(length_ms));
        Lease {
            until,
            length_ms,
            boot: self.context.boot,
        }
    }

    fn enter(&mut self, state: State) {
        if let Some(execution) = self.slot.execution.as_mut() {
            execution.state = state;
            execution.changed_at = self.context.now;
        }
    }

    /// The outcome as there is room for it.
    fn as_kept(&self, outcome: &StoredOutcome) -> StoredOutcome {
        match self.context.room {
            Room::Plenty | Room::NoGrants => outcome.clone(),
            Room::FactsOnly => outcome.clone().into_tombstone(),
        }
    }

    pub fn complete(mut self, outcome: &StoredOutcome) -> Applied {
        let outcome = self.as_kept(outcome);
        self.enter(State::Completed(outcome));
        self.put(|step| Answer::Completed {
            expires_at_ms: step.expires_at_ms(),
        })
    }

    /// The upstream says how its execution ended, while a gateway waits for its bytes.
    pub fn settle(mut self, outcome: &StoredOutcome) -> Applied {
        let outcome = self.as_kept(outcome);
        let lease = self.execution().and_then(|e| e.state.lease().copied());
        self.enter(match lease {
            Some(lease) => State::Settled(lease, outcome),
            None => State::Completed(outcome),
        });
        self.put(|step| Answer::Completed {
            expires_at_ms: step.expires_at_ms(),
        })
    }

    /// The newest attempt did nothing, or may be repeated. An earlier one may still have been done.
    pub fn fail(mut self, failure: &Failure) -> Applied {
        if self.is_in_doubt() {
            return self.abandon();
        }
        let (now, fence) = (self.context.now, self.slot.fence);
        if let Some(execution) = self.slot.execution.as_mut() {
            let history = &mut execution.history;
            match failure {
                Failure::Other => history.effects = true,
                Failure::NothingDone => {}
                Failure::Redirected(outcome) => history.push_redirect(Redirect {
                    fingerprint: execution.fingerprint,
                    fence,
                    attempt: execution.attempt,
                    answered_at: now,
                    outcome: outcome.clone(),
                }),
            }
        }
        self.enter(State::Failed);
        self.put(|_| Answer::Failed)
    }

    pub fn abandon(mut self) -> Applied {
        self.enter(State::Unknown);
        self.put(|_| Answer::Abandoned)
    }

    /// The lease was over and nobody had noticed.
    pub fn lapse(mut self) -> Applied {
        self.enter(State::Unknown);
        self.put(|step| Answer::UnknownOutcome {
            expires_at_ms: step.expires_at_ms(),
        })
    }

    /// The same, noticed by the owner's own second acquire under `retry`: it had its execution.
    pub fn lapse_spent(mut self) -> Applied {
        self.enter(State::Unknown);
        self.put(|_| Answer::Spent)
    }

    pub fn extend(mut self, lease_ms: u64) -> Applied {
        let lease = self.lease(lease_ms);
        if let Some(execution) = self.slot.execution.as_mut() {
            match &mut execution.state {
                State::Settled(held, _) => *held = lease,
                state => *state = State::Executing(lease),
            }
        }
        self.put(|_| Answer::Extended { lease_ms })
    }

    /// Remembers that the proof of the newest attempt was shown. Only a gateway's attempt has one.
    pub fn redeem(mut self, expires_at_ms: u64) -> Applied {
        let in_time = self.context.now < micros(expires_at_ms);
        let history = self.slot.execution.as_mut().map(|e| &mut e.history);
        match history.map(|history| (history.newest, history)) {
            Some((AttemptKind::Gateway, history)) if in_time => {
                history.newest = AttemptKind::Relayed;
                history.kinds = history.kinds.with(AttemptKind::Relayed);
            }
            Some((AttemptKind::Relayed, _)) => return self.keep(Answer::Spent),
            _ => return self.keep(Answer::Lost),
        }
        self.put(|step| {
            let lease = step.execution().and_then(|e| e.state.lease());
            Answer::Redeemed {
                lease_left_ms: lease.map_or(0, |lease| step.lease_left_ms(lease)),
            }
        })
    }

    /// Remembers an owner that holds nothing. One that holds or held the execution, or is known
    /// already, needs no mark.
    pub fn mark(mut self, owner: Owner, answer: Answer) -> Applied {
        if self.is_held_by(owner) || self.mark_of(owner).is_some() {
            return self.keep(answer);
        }
        self.slot.mark(owner, MarkKind::Cancelled, self.context.now);
        self.put(|_| answer)
    }
}

/// What a completed, current slot replays.
pub(super) fn replay(slot: &Slot, context: &Context) -> Option<Replay> {
    let execution = slot.execution.as_ref()?;
    let outcome = execution.state.outcome()?;
    Some(Replay {
        outcome: outcome.clone(),
        fence: slot.fence,
        attempt: execution.attempt,
        age_ms: context.now.saturating_sub(execution.changed_at) / 1_000,
        expires_at_ms: execution.expires_at()? / 1_000,
    })
}
