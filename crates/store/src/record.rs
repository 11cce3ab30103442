//! What a store keeps under one key.

use crate::clock::{micros, Micros};
use crate::history::History;
use crate::store::{AttemptView, RecordState, RecordView};
use bytes::Bytes;
use idempotency_protocol::{
    CarriedOutcome, Fingerprint, LookupKey, Outcome, Owner, Retention, Tombstone, TombstoneReason,
};
use sha2::{Digest, Sha256};

/// Most owners that are remembered per key; the one that would be forgotten first makes room.
pub const MAX_MARKS: usize = 16;

/// How long a mark is remembered, in milliseconds. It has to outlive an acquire that is delayed
/// on its way to the store; one hour is far more than any callout's timeout.
pub const MARK_TTL_MS: u64 = 3_600_000;

/// Everything under one key: the newest execution, if there is one, and the owners that must
/// never be granted (again). A slot without an execution is *vacant*: to everybody but its marked
/// owners, the key is absent.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Slot {
    /// Grows with every change: `max(previous + 1, store time)`, so that a key that was forgotten
    /// and used again never shows an old version.
    pub version: u64,
    /// Fence of the newest execution, also after that was deleted; 0 if there was none.
    pub fence: u64,
    /// Owners that must not be granted.
    pub marks: Vec<Mark>,
    /// The newest execution.
    pub execution: Option<Execution>,
}

/// The newest execution of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// Who holds or held the key; `None` once an operator has decided: then nobody is the owner.
    pub owner: Option<Owner>,
    /// What was sent; compared before anything else.
    pub fingerprint: Fingerprint,
    /// 1 for the first execution.
    pub attempt: u32,
    /// How long results are kept.
    pub retention: Retention,
    /// When the key was first granted.
    pub created_at: Micros,
    /// When the execution entered its state.
    pub changed_at: Micros,
    /// Its state.
    pub state: State,
    /// What is remembered of the record's attempts.
    pub history: History,
}

/// State of an execution. `absent` is the lack of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Somebody holds the key.
    Executing(Lease),
    /// Done, told by the upstream itself. The gateway still holds the key: until the lease is over,
    /// duplicates are in flight, and its complete attaches the bytes that the client got.
    /// Afterwards this is [`State::Completed`] with the upstream's outcome.
    Settled(Lease, StoredOutcome),
    /// Done.
    Completed(StoredOutcome),
    /// Provably not done.
    Failed,
    /// May have been done.
    Unknown,
}

/// How long an execution may hold its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// When it is over, if the store has not been restarted since `boot`.
    pub until: Micros,
    /// Its length in milliseconds.
    pub length_ms: u64,
    /// Number of the store's start in which it was given.
    pub boot: u64,
}

/// A stored outcome: what must be known of it, and the outcome itself where it is at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredOutcome {
    /// Status of the response or tombstone.
    pub status: u16,
    /// Size of the body; `None` for a tombstone.
    pub body_bytes: Option<u64>,
    /// SHA-256 of the outcome as it was handed in, which tells a repeated complete from a
    /// contradicting one, also where only a tombstone could be kept.
    pub digest: [u8; 32],
    /// Length of [`Outcome::encode`] in bytes.
    pub size: u64,
    /// [`Outcome::encode`]; `None` if it is kept elsewhere and has not been read.
    pub data: Option<Bytes>,
}

impl StoredOutcome {
    /// Encodes an outcome and computes its digest. Costs time in proportion to the body.
    pub fn new(outcome: &Outcome) -> StoredOutcome {
        StoredOutcome::of(outcome, outcome.encode().into())
    }

    /// The same of an outcome that may have brought its bytes: then it is not encoded again.
    pub fn carried(outcome: &CarriedOutcome) -> StoredOutcome {
        StoredOutcome::of(outcome, outcome.bytes())
    }

    fn of(outcome: &Outcome, data: Bytes) -> StoredOutcome {
        let (status, body_bytes) = match outcome {
            Outcome::Response(response) => (
                response.status,
                Some(u64::try_from(response.body.len()).unwrap_or(u64::MAX)),
            ),
            Outcome::Tombstone(tombstone) => (tombstone.status, None),
        };
        StoredOutcome {
            status,
            body_bytes,
            digest: Sha256::digest(&data).into(),
            size: u64::try_from(data.len()).unwrap_or(u64::MAX),
            data: Some(data),
        }
    }

    /// The same fact in the least space.
    pub(crate) fn into_tombstone(self) -> StoredOutcome {
        if self.body_bytes.is_none() {
            return self;
        }
        let fact = Outcome::Tombstone(Tombstone {
            status: self.status,
            reason: TombstoneReason::Capacity,
        });
        let data = Bytes::from(fact.encode());
        let size = u64::try_from(data.len()).unwrap_or(u64::MAX);
        StoredOutcome {
            body_bytes: None,
            size,
            data: Some(data),
            ..self
        }
    }
}

/// An owner that must not be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The owner.
    pub owner: Owner,
    /// Why.
    pub kind: MarkKind,
    /// When this may be forgotten.
    pub until: Micros,
}

/// Why an owner must not be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// Its fail or abandon came before its acquire.
    Cancelled,
    /// It had its execution.
    Spent,
}

impl State {
    /// What is stored, if the execution is done.
    pub fn outcome(&self) -> Option<&StoredOutcome> {
        match self {
            State::Completed(outcome) | State::Settled(_, outcome) => Some(outcome),
            State::Executing(_) | State::Failed | State::Unknown => None,
        }
    }

    /// The lease under which the key is held, over or not.
    pub fn lease(&self) -> Option<&Lease> {
        match self {
            State::Executing(lease) | State::Settled(lease, _) => Some(lease),
            State::Completed(_) | State::Failed | State::Unknown => None,
        }
    }
}

impl Execution {
    /// When this execution is forgotten; `None` while executing: that is never forgotten.
    pub fn expires_at(&self) -> Option<Micros> {
        let after = |ttl_ms| self.changed_at.saturating_add(micros(ttl_ms));
        Some(match &self.state {
            State::Executing(_) => return None,
            State::Completed(_) | State::Failed => after(self.retention.ttl_ms),
            State::Unknown => after(self.retention.unknown_ttl_ms),
            State::Settled(lease, _) => after(self.retention.ttl_ms).max(lease.until),
        })
    }
}

impl Execution {
    fn attempts(&self) -> Vec<AttemptView> {
        let history = &self.history;
        if history.started_at == 0 {
            return Vec::new();
        }
        let past = history.past.iter().map(|past| AttemptView {
            number: 0,
            kind: past.kind,
            started_at_ms: past.started_at / 1_000,
            end: Some((past.end, past.ended_at / 1_000)),
        });
        let newest = AttemptView {
            number: 0,
            kind: history.newest,
            started_at_ms: history.started_at / 1_000,
            end: None,
        };
        let mut attempts: Vec<AttemptView> = past.chain([newest]).collect();
        for (attempt, number) in attempts.iter_mut().rev().zip((1..=self.attempt).rev()) {
            attempt.number = number;
        }
        attempts
    }
}

impl Slot {
    /// When a sweep should next look at this slot, as far as the slot itself tells.
    pub fn due(&self) -> Micros {
        match &self.execution {
            Some(Execution {
                state: State::Executing(lease),
                ..
            }) => lease.until,
            Some(execution) => execution.expires_at().unwrap_or(Micros::MAX),
            // With nothing left, at once: the version is the time of the last change, or later.
            None => self
                .marks
                .iter()
                .map(|m| m.until)
                .max()
                .unwrap_or(self.version),
        }
    }

    /// Why `owner` must not be granted, if it must not.
    pub(crate) fn mark_of(&self, owner: Owner) -> Option<MarkKind> {
        self.marks.iter().find(|m| m.owner == owner).map(|m| m.kind)
    }

    /// Remembers that `owner` must not be granted. What is known already stays known.
    pub(crate) fn mark(&mut self, owner: Owner, kind: MarkKind, now: Micros) {
        if self.mark_of(owner).is_some() {
            return;
        }
        if self.marks.len() >= MAX_MARKS {
            // In the order in which they came, hence in the order of their end.
            self.marks.remove(0);
        }
        self.marks.push(Mark {
            owner,
            kind,
            until: now.saturating_add(micros(MARK_TTL_MS)),
        });
    }

    /// The record as an operator sees it; `None` if the slot is vacant. `lease_until` is the end
    /// of the lease, if there is one.
    pub(crate) fn view(
        &self,
        key: &LookupKey,
        now: Micros,
        lease_until: Option<Micros>,
    ) -> Option<RecordView> {
        let execution = self.execution.as_ref()?;
        let outcome = execution.state.outcome();
        Some(RecordView {
            key: key.clone(),
            state: match execution.state {
                State::Executing(_) => RecordState::Executing,
                State::Completed(_) | State::Settled(..) => RecordState::Completed,
                State::Failed => RecordState::Failed,
                State::Unknown => RecordState::Unknown,
            },
            version: self.version,
            fence: self.fence,
            attempt: execution.attempt,
            owner: execution
                .owner
                .map(|owner| owner.0.iter().take(4).map(|b| format!("{b:02x}")).collect()),
            status: outcome.map(|o| o.status),
            body_bytes: outcome.and_then(|o| o.body_bytes),
            tombstone: outcome.is_some_and(|o| o.body_bytes.is_none()),
            created_at_ms: execution.created_at / 1_000,
            changed_at_ms: execution.changed_at / 1_000,
            lease_left_ms: lease_until.map(|until| until.saturating_sub(now) / 1_000),
            expires_at_ms: execution.expires_at().map(|at| at / 1_000),
            about: execution.history.about.as_deref().cloned().map(Box::new),
            attempts: execution.attempts(),
        })
    }
}
