//! The operations that this package sends to a store, but for what an execution's end says
//! ([`idempotency_core::ending`]).

use idempotency_protocol::{
    About, Acquire, AttemptKind, Complete, Fingerprint, LookupKey, OnUnknown, Operation, Outcome,
    Owner, Retention, Wait,
};
use std::sync::Arc;
use std::time::Duration;

/// On what terms a key is locked, in milliseconds of the store's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockTerms {
    pub lease_ms: u64,
    pub ttl_ms: u64,
    pub unknown_ttl_ms: u64,
    pub on_unknown: OnUnknown,
    pub kind: AttemptKind,
    /// How much of the lease must be left when the execution begins.
    pub margin_ms: u64,
}

/// Locks the key and looks it up.
pub(crate) fn acquire(
    key: LookupKey,
    owner: Owner,
    fingerprint: Fingerprint,
    terms: LockTerms,
    about: Arc<About>,
) -> Operation {
    Operation::Acquire(Acquire {
        key,
        owner,
        fingerprint,
        lease_ms: terms.lease_ms,
        retention: Retention {
            ttl_ms: terms.ttl_ms,
            unknown_ttl_ms: terms.unknown_ttl_ms,
        },
        on_unknown: terms.on_unknown,
        kind: terms.kind,
        about: Some(about),
    })
}

/// Stores the outcome and unlocks.
pub(crate) fn complete(key: LookupKey, owner: Owner, outcome: Outcome) -> Operation {
    Operation::Complete(Complete {
        key,
        owner,
        outcome: outcome.into(),
    })
}

/// May have been done.
pub(crate) fn abandon(key: LookupKey, owner: Owner) -> Operation {
    Operation::Abandon { key, owner }
}

/// Renews the lease.
pub(crate) fn extend(key: LookupKey, owner: Owner, lease: Duration) -> Operation {
    Operation::Extend {
        key,
        owner,
        lease_ms: millis(lease),
    }
}

/// Waits for the end of the execution with that fence.
pub(crate) fn wait(
    key: &LookupKey,
    fingerprint: Fingerprint,
    fence: u64,
    longest: Duration,
) -> Wait {
    Wait {
        key: key.clone(),
        fingerprint,
        fence,
        wait_ms: millis(longest),
    }
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
