//! Operations, prepared for the machine.

use crate::history::{Failure, Kinds};
use crate::record::StoredOutcome;
use idempotency_protocol::{
    About, Acquire, AttemptKind, Fingerprint, LookupKey, OnUnknown, Operation, Owner, Retention,
    Settlement,
};
use std::sync::Arc;

/// An operation without its key, its outcome encoded and digested. Preparing one costs time in
/// proportion to the body, so it is done before the operation queues for a writer.
#[derive(Clone, Debug)]
pub enum Event {
    /// Lock and look up.
    Acquire(AcquireEvent),
    /// Store the outcome and unlock.
    Complete {
        /// Owner of the execution.
        owner: Owner,
        /// What to replay from now on.
        outcome: StoredOutcome,
    },
    /// Provably not executed.
    Fail {
        /// Owner of the execution.
        owner: Owner,
        /// What the end says of what was done.
        failure: Failure,
    },
    /// May have been executed.
    Abandon {
        /// Owner of the execution.
        owner: Owner,
    },
    /// Renew the lease.
    Extend {
        /// Owner of the execution.
        owner: Owner,
        /// New lease, counted from now.
        lease_ms: u64,
    },
    /// The upstream tells how its execution ended.
    Settle {
        /// Names the execution.
        fence: u64,
        /// What was done; `None` if it was provably not done.
        outcome: Option<StoredOutcome>,
    },
    /// A gateway behind the one that was granted has been shown its proof.
    Redeem {
        /// Names the execution.
        fence: u64,
        /// Must be the record's.
        fingerprint: Fingerprint,
        /// When the proof ends, in milliseconds since the Unix epoch.
        expires_at_ms: u64,
    },
}

/// [`Acquire`] without the key.
#[derive(Clone, Debug)]
pub struct AcquireEvent {
    /// Token of this execution.
    pub owner: Owner,
    /// Compared before the state.
    pub fingerprint: Fingerprint,
    /// How long the execution may hold the key.
    pub lease_ms: u64,
    /// Retention that the record gets.
    pub retention: Retention,
    /// Policy for `unknown`.
    pub on_unknown: OnUnknown,
    /// Who runs the execution.
    pub kind: AttemptKind,
    /// What the record says of the request.
    pub about: Option<Arc<About>>,
}

impl AcquireEvent {
    /// Whether an unknown outcome of attempts of these kinds is executed again.
    pub(crate) fn retries_unknown(&self, attempts: Kinds) -> bool {
        match self.on_unknown {
            OnUnknown::Refuse => false,
            OnUnknown::Retry => true,
            OnUnknown::RetryTransactions => attempts.are_all(AttemptKind::Transaction),
        }
    }
}

impl Event {
    /// Takes an operation apart.
    pub fn prepare(operation: Operation) -> (LookupKey, Event) {
        match operation {
            Operation::Acquire(Acquire {
                key,
                owner,
                fingerprint,
                lease_ms,
                retention,
                on_unknown,
                kind,
                about,
            }) => {
                let event = AcquireEvent {
                    owner,
                    fingerprint,
                    lease_ms,
                    retention,
                    on_unknown,
                    kind,
                    about,
                };
                (key, Event::Acquire(event))
            }
            Operation::Complete(complete) => {
                let outcome = StoredOutcome::carried(&complete.outcome);
                (
                    complete.key,
                    Event::Complete {
                        owner: complete.owner,
                        outcome,
                    },
                )
            }
            Operation::Fail { key, owner, cause } => {
                let failure = Failure::new(&cause);
                (key, Event::Fail { owner, failure })
            }
            Operation::Abandon { key, owner } => (key, Event::Abandon { owner }),
            Operation::Extend {
                key,
                owner,
                lease_ms,
            } => (key, Event::Extend { owner, lease_ms }),
            Operation::Settle(settle) => {
                let outcome = match &settle.settlement {
                    Settlement::Completed(outcome) => Some(StoredOutcome::new(outcome)),
                    Settlement::Failed => None,
                };
                (
                    settle.key,
                    Event::Settle {
                        fence: settle.fence,
                        outcome,
                    },
                )
            }
            Operation::Redeem(redeem) => (
                redeem.key,
                Event::Redeem {
                    fence: redeem.fence,
                    fingerprint: redeem.fingerprint,
                    expires_at_ms: redeem.expires_at_ms,
                },
            ),
        }
    }
}
