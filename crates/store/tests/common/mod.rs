//! Short words for what the tests do with a store.
#![allow(dead_code)]

use idempotency_protocol::{
    Acquire, Answer, AttemptKind, Complete, FailCause, Fingerprint, Grant, LookupKey, OnUnknown,
    Operation, Origin, Outcome, Owner, Retention, Scheme, StoredResponse,
};
use idempotency_store::Store;

/// November 2023, in microseconds.
pub const START: u64 = 1_700_000_000_000_000;

pub const TTL_MS: u64 = 600_000;

pub fn key(name: &str) -> LookupKey {
    LookupKey {
        tenant: "tenant".into(),
        namespace: "charges".into(),
        origin: Origin::Client,
        key: name.into(),
    }
}

pub fn fingerprint() -> Fingerprint {
    Fingerprint {
        scheme: Scheme(1),
        digest: [1; 32],
    }
}

pub fn response(body: &[u8]) -> Outcome {
    Outcome::Response(StoredResponse {
        status: 201,
        headers: Vec::new(),
        body: bytes::Bytes::copy_from_slice(body),
    })
}

pub fn acquire_for(name: &str, owner: u8, lease_ms: u64) -> Operation {
    Operation::Acquire(Acquire {
        key: key(name),
        owner: Owner([owner; 16]),
        fingerprint: fingerprint(),
        lease_ms,
        retention: Retention {
            ttl_ms: TTL_MS,
            unknown_ttl_ms: TTL_MS,
        },
        on_unknown: OnUnknown::Refuse,
        kind: AttemptKind::Gateway,
        about: None,
    })
}

pub fn acquire(name: &str, owner: u8) -> Operation {
    acquire_for(name, owner, 60_000)
}

pub fn complete(name: &str, owner: u8, body: &[u8]) -> Operation {
    Operation::Complete(Complete {
        key: key(name),
        owner: Owner([owner; 16]),
        outcome: response(body).into(),
    })
}

pub fn fail(name: &str, owner: u8) -> Operation {
    Operation::Fail {
        key: key(name),
        owner: Owner([owner; 16]),
        cause: FailCause::Other,
    }
}

pub fn abandon(name: &str, owner: u8) -> Operation {
    Operation::Abandon {
        key: key(name),
        owner: Owner([owner; 16]),
    }
}

pub async fn one(store: &dyn Store, operation: Operation) -> Answer {
    store.apply(vec![operation]).await.remove(0)
}

pub async fn granted_for(store: &dyn Store, name: &str, owner: u8, lease_ms: u64) -> Grant {
    match one(store, acquire_for(name, owner, lease_ms)).await {
        Answer::Granted(grant) => grant,
        other => panic!("{name}: {other:?}"),
    }
}

pub async fn granted(store: &dyn Store, name: &str, owner: u8) -> Grant {
    granted_for(store, name, owner, 60_000).await
}

pub async fn completed(store: &dyn Store, name: &str, owner: u8, body: &[u8]) {
    match one(store, complete(name, owner, body)).await {
        Answer::Completed { .. } => {}
        other => panic!("{name}: {other:?}"),
    }
}

pub fn in_flight(answer: Answer) -> (u64, u64) {
    match answer {
        Answer::InFlight {
            fence,
            lease_left_ms,
        } => (fence, lease_left_ms),
        other => panic!("{other:?}"),
    }
}
