//! What the filter (or an upstream) asks of the service. The semantics are the state × event
//! table of the semantics document (`docs/semantics.md`).

use crate::key::{Fingerprint, LookupKey, Owner};
use crate::response::Outcome;

/// What an acquire does when the outcome of the previous execution is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OnUnknown {
    /// Answer [`crate::Answer::UnknownOutcome`]; never execute again by itself.
    Refuse = 0,
    /// Grant a new attempt: the rule says that executing again is acceptable.
    Retry = 1,
}

/// How long results are kept, in milliseconds, counted by the store's clock from the moment the
/// record enters the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Kept after `completed` and after `failed`.
    pub ttl_ms: u64,
    /// Kept after `unknown`; at least `ttl_ms`.
    pub unknown_ttl_ms: u64,
}

/// Lock the key and look the record up, in one atomic step. Never waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquire {
    /// The record.
    pub key: LookupKey,
    /// Token of this execution, made before the call.
    pub owner: Owner,
    /// Compared before the state: a mismatch wins over everything else.
    pub fingerprint: Fingerprint,
    /// How long this execution may hold the key without renewal.
    pub lease_ms: u64,
    /// Retention that the record gets, kept with it: an execution whose lease runs out enters
    /// `unknown` without anyone telling the store again.
    pub retention: Retention,
    /// Policy for `unknown`.
    pub on_unknown: OnUnknown,
}

/// Store the outcome and unlock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complete {
    /// The record.
    pub key: LookupKey,
    /// Must be the owner of the execution.
    pub owner: Owner,
    /// What to replay from now on.
    pub outcome: Outcome,
}

/// How an upstream settles its own execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is done; replay this.
    Completed(Outcome),
    /// It was provably not done; a retry may execute.
    Failed,
}

/// The way out of `unknown` that needs no human: the upstream itself says how its execution
/// ended. Authenticated by a token of its own role, and by the fence that it received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The record.
    pub key: LookupKey,
    /// The fence that came with the execution; it names the attempt.
    pub fence: u64,
    /// How it ended.
    pub settlement: Settlement,
}

/// One operation of a [`crate::Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Lock and look up.
    Acquire(Acquire),
    /// Store the outcome and unlock.
    Complete(Complete),
    /// Provably not executed: unlock, a retry may execute.
    Fail {
        /// The record.
        key: LookupKey,
        /// Owner of the execution, or of an acquire whose answer never came.
        owner: Owner,
    },
    /// May have been executed, nobody knows: `unknown`.
    Abandon {
        /// The record.
        key: LookupKey,
        /// Owner of the execution.
        owner: Owner,
    },
    /// Renew the lease.
    Extend {
        /// The record.
        key: LookupKey,
        /// Owner of the execution.
        owner: Owner,
        /// New lease, counted from now, in milliseconds.
        lease_ms: u64,
    },
    /// The upstream settles its own execution.
    Settle(Settle),
}

impl Operation {
    /// The record that the operation is about.
    pub fn key(&self) -> &LookupKey {
        match self {
            Operation::Acquire(a) => &a.key,
            Operation::Complete(c) => &c.key,
            Operation::Fail { key, .. }
            | Operation::Abandon { key, .. }
            | Operation::Extend { key, .. } => key,
            Operation::Settle(s) => &s.key,
        }
    }

    /// The operation's name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Operation::Acquire(_) => "acquire",
            Operation::Complete(_) => "complete",
            Operation::Fail { .. } => "fail",
            Operation::Abandon { .. } => "abandon",
            Operation::Extend { .. } => "extend",
            Operation::Settle(_) => "settle",
        }
    }
}

/// Wait until the execution that an acquire met in flight has ended. Ends in
/// [`crate::Answer::Stored`], [`crate::Answer::Changed`] or [`crate::Answer::TimedOut`], never in
/// a grant: a waiter that left must not hold a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The record.
    pub key: LookupKey,
    /// Only a record with this fingerprint is answered with its response.
    pub fingerprint: Fingerprint,
    /// The fence that was in flight; a record with another fence has changed.
    pub fence: u64,
    /// Longest wait in milliseconds.
    pub wait_ms: u64,
}
