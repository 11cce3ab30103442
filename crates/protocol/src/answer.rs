//! What the service answers to one operation.

use crate::response::CarriedOutcome;
use std::fmt;

/// The lock is held by the asking owner: execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Grows with every grant of the key; below 2⁵³.
    pub fence: u64,
    /// 1 for the first execution.
    pub attempt: u32,
    /// The lease that was given.
    pub lease_ms: u64,
}

/// A completed record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What to replay.
    pub outcome: CarriedOutcome,
    /// Fence of the execution that stored it.
    pub fence: u64,
    /// Attempt number of that execution.
    pub attempt: u32,
    /// Age of the record in milliseconds.
    pub age_ms: u64,
    /// When the record is forgotten, as milliseconds since the Unix epoch.
    pub expires_at_ms: u64,
}

/// Class of a [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FaultCode {
    /// The store cannot answer now; the operation may or may not have happened.
    Unavailable = 0,
    /// Above the high-water mark: nothing happened.
    Capacity = 1,
    /// The operation is malformed or over a limit: nothing happened, and repeating is pointless.
    Invalid = 2,
    /// A defect in the service: the operation may or may not have happened.
    Internal = 3,
    /// The tenant's quota of new records is used up: nothing happened. To a gateway of version 1 it
    /// is a [`FaultCode::Capacity`] whose detail begins with [`Fault::QUOTA`], so that it refuses,
    /// and never takes it for an outage.
    Quota = 4,
    /// The store answers, but must not be relied on (it evicts records, or keeps nothing on disk):
    /// nothing happened. No outage: somebody has to change its settings. To a gateway of version 1
    /// it is a [`FaultCode::Capacity`].
    Untrusted = 5,
}

/// The operation could not be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Class of the fault.
    pub code: FaultCode,
    /// For logs; never contains a key or a payload.
    pub detail: String,
}

impl Fault {
    /// How the detail of a used-up quota begins on the wire.
    pub const QUOTA: &'static str = "tenant-quota: ";

    /// The code and the detail as they are written for a peer that knows this revision.
    pub(crate) fn written(&self, revision: u16) -> (FaultCode, String) {
        match self.code {
            FaultCode::Quota if revision < 2 => {
                let detail = format!("{}{}", Fault::QUOTA, self.detail);
                (FaultCode::Capacity, detail)
            }
            FaultCode::Untrusted if revision < 2 => (FaultCode::Capacity, self.detail.clone()),
            code => (code, self.detail.clone()),
        }
    }

    /// The reverse of [`Fault::written`].
    pub(crate) fn read(code: FaultCode, detail: String) -> Fault {
        match (code, detail.strip_prefix(Fault::QUOTA)) {
            (FaultCode::Capacity, Some(rest)) => Fault {
                code: FaultCode::Quota,
                detail: rest.to_owned(),
            },
            _ => Fault { code, detail },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Fault {}

/// The answer to one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Acquire: the caller holds the key.
    Granted(Grant),
    /// Acquire, wait: done before; replay.
    Stored(Stored),
    /// Acquire: another execution holds the key.
    InFlight {
        /// Fence of that execution, for [`crate::Wait`].
        fence: u64,
        /// What is left of its lease.
        lease_left_ms: u64,
    },
    /// Acquire: the key was used with another payload.
    Mismatch,
    /// Acquire: the record's fingerprint was made by another scheme.
    NotComparable,
    /// Acquire: the last execution may have happened.
    UnknownOutcome {
        /// When the record is forgotten, as milliseconds since the Unix epoch.
        expires_at_ms: u64,
    },
    /// Acquire: this owner's fail or abandon arrived before its acquire.
    Cancelled,
    /// Acquire: this owner has already settled. Redeem: this execution's proof has been redeemed before.
    Spent,
    /// Complete, settle: the outcome is stored.
    Completed {
        /// When the record is forgotten, as milliseconds since the Unix epoch.
        expires_at_ms: u64,
    },
    /// Complete, settle: this execution has already stored another outcome.
    Differs,
    /// Fail, settle: the key is free for a retry.
    Failed,
    /// Abandon: the record is `unknown`.
    Abandoned,
    /// Fail, abandon: there was nothing to settle; the owner's later acquire will be refused.
    Marked,
    /// Extend: the lease was renewed.
    Extended {
        /// The lease that was given.
        lease_ms: u64,
    },
    /// The caller does not hold the key (any more), or there is no record.
    Lost,
    /// The record is settled in another way: complete is not undone by fail or abandon.
    Refused,
    /// Wait: the execution has ended without a response to replay, or was replaced: acquire anew.
    Changed,
    /// Wait: still in flight.
    TimedOut,
    /// Acquire, wait: done before, and what is stored cannot be read, now or ever. Never executed
    /// again.
    Unreadable {
        /// Status that the first client saw; 0 if that is lost, too.
        status: u16,
        /// Fence of the execution that stored it.
        fence: u64,
        /// Attempt number of that execution.
        attempt: u32,
        /// When the record is forgotten, as milliseconds since the Unix epoch.
        expires_at_ms: u64,
    },
    /// The replay is too long for an answer that others share: ask again in a call of its own. An
    /// acquire with the same owner is the same acquire.
    AskAlone,
    /// Redeem: the proof was good, and is spent now. Forward the request.
    Redeemed {
        /// What is left of the lease of the execution, in milliseconds.
        lease_left_ms: u64,
    },
    /// The operation could not be answered.
    Fault(Fault),
}

impl Answer {
    /// The answer's name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Answer::Granted(_) => "granted",
            Answer::Stored(_) => "stored",
            Answer::InFlight { .. } => "in_flight",
            Answer::Mismatch => "mismatch",
            Answer::NotComparable => "not_comparable",
            Answer::UnknownOutcome { .. } => "unknown_outcome",
            Answer::Cancelled => "cancelled",
            Answer::Spent => "spent",
            Answer::Completed { .. } => "completed",
            Answer::Differs => "differs",
            Answer::Failed => "failed",
            Answer::Abandoned => "abandoned",
            Answer::Marked => "marked",
            Answer::Extended { .. } => "extended",
            Answer::Lost => "lost",
            Answer::Refused => "refused",
            Answer::Changed => "changed",
            Answer::TimedOut => "timed_out",
            Answer::Unreadable { .. } => "unreadable",
            Answer::AskAlone => "ask_alone",
            Answer::Redeemed { .. } => "redeemed",
            Answer::Fault(_) => "fault",
        }
    }
}
