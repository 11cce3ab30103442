//! What the filter (or an upstream) asks of the service. The semantics are the state × event
//! table of the semantics document (`docs/semantics.md`).

use crate::about::About;
use crate::key::{Fingerprint, LookupKey, Owner};
use crate::response::{CarriedOutcome, Outcome, StoredResponse};
use std::sync::Arc;

/// What an acquire does when the outcome of the previous execution is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OnUnknown {
    /// Answer [`crate::Answer::UnknownOutcome`]; never execute again by itself.
    Refuse = 0,
    /// Grant a new attempt: the rule says that executing again is acceptable.
    Retry = 1,
    /// Grant a new attempt if every attempt so far was a [`AttemptKind::Transaction`]: one without a
    /// recorded end was rolled back with its record, hence did nothing. Otherwise as
    /// [`OnUnknown::Refuse`].
    RetryTransactions = 2,
}

/// Who runs an attempt, and so what is known of one that has no recorded end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AttemptKind {
    /// A gateway forwards a request: without a recorded end, it may have been done.
    #[default]
    Gateway = 0,
    /// Code in a program of the caller: without a recorded end, it may have been done.
    Guard = 1,
    /// A transaction of the database that holds the record, too: effect and record are one commit.
    Transaction = 2,
    /// A gateway forwards a request, and a gateway behind it has redeemed its proof ([`Redeem`]): the proof is
    /// worth nothing any more. No acquire asks for it; a record's attempt becomes it.
    Relayed = 3,
}

impl AttemptKind {
    /// The kind with that number, as it is written; `None` if there is none.
    pub fn from_code(code: u8) -> Option<AttemptKind> {
        match code {
            0 => Some(AttemptKind::Gateway),
            1 => Some(AttemptKind::Guard),
            2 => Some(AttemptKind::Transaction),
            3 => Some(AttemptKind::Relayed),
            _ => None,
        }
    }
}

/// Why an execution failed. It decides what a next request with the same key may be: where nothing can
/// have been done, a corrected one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FailCause {
    /// A rule says that this answer may be retried. Work may be half done, so the next request must be
    /// the same.
    #[default]
    Other,
    /// Nothing was sent to the upstream.
    NotSent,
    /// The upstream answered with a 4xx status, or with a redirect that is too large to be remembered.
    Refused,
    /// The upstream answered 307 or 308: the client goes elsewhere with the same key. The answer is
    /// remembered for this request, at most [`crate::limits::MAX_REDIRECT_BYTES`] long.
    Redirected(Box<StoredResponse>),
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
    /// Who runs this execution.
    pub kind: AttemptKind,
    /// What the record says of the request, for people.
    pub about: Option<Arc<About>>,
}

/// Store the outcome and unlock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complete {
    /// The record.
    pub key: LookupKey,
    /// Must be the owner of the execution.
    pub owner: Owner,
    /// What to replay from now on.
    pub outcome: CarriedOutcome,
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

/// Spend the proof with which a gateway forwarded its execution to another gateway: once per execution. The
/// gateway that asks has verified the proof; the store tells whether that execution still holds the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redeem {
    /// The record.
    pub key: LookupKey,
    /// The fence of the execution that the proof names.
    pub fence: u64,
    /// What the gateway that asks has computed itself; must be the record's.
    pub fingerprint: Fingerprint,
    /// When the proof ends, in milliseconds since the Unix epoch by the store's clock. The gateway that made it counts
    /// from the fence, which is the store's time of the grant, so that no gateway's clock matters.
    pub expires_at_ms: u64,
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
        /// Why.
        cause: FailCause,
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
    /// A gateway behind the one that was granted takes over the forwarding.
    Redeem(Redeem),
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
            Operation::Redeem(r) => &r.key,
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
            Operation::Redeem(_) => "redeem",
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
