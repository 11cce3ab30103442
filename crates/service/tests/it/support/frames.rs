//! Operations with defaults.

use bytes::Bytes;
use idempotency_protocol::{
    Acquire, Answer, Complete, Fingerprint, Grant, LookupKey, OnUnknown, Operation, Origin,
    Outcome, Owner, Retention, Scheme, StoredResponse, Wait,
};
use std::sync::atomic::{AtomicU64, Ordering};

pub fn key(key: &str) -> LookupKey {
    LookupKey {
        tenant: "acme".into(),
        namespace: "pay".into(),
        origin: Origin::Client,
        key: key.into(),
    }
}

/// A new owner at each call.
pub fn owner() -> Owner {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    bytes[8..12].copy_from_slice(&std::process::id().to_be_bytes());
    Owner(bytes)
}

pub fn fingerprint(of: u8) -> Fingerprint {
    Fingerprint {
        scheme: Scheme(1),
        digest: [of; 32],
    }
}

pub fn acquire(name: &str, owner: Owner) -> Operation {
    Operation::Acquire(Acquire {
        key: key(name),
        owner,
        fingerprint: fingerprint(1),
        lease_ms: 60_000,
        retention: Retention {
            ttl_ms: 3_600_000,
            unknown_ttl_ms: 3_600_000,
        },
        on_unknown: OnUnknown::Refuse,
        kind: idempotency_protocol::AttemptKind::Gateway,
        about: None,
    })
}

pub fn response(body: &str) -> Outcome {
    Outcome::Response(StoredResponse {
        status: 201,
        headers: vec![(Bytes::from("content-type"), Bytes::from("text/plain"))],
        body: Bytes::from(body.to_owned()),
    })
}

pub fn complete(name: &str, owner: Owner, body: &str) -> Operation {
    Operation::Complete(Complete {
        key: key(name),
        owner,
        outcome: response(body).into(),
    })
}

pub fn wait(name: &str, fence: u64, wait_ms: u64) -> Wait {
    Wait {
        key: key(name),
        fingerprint: fingerprint(1),
        fence,
        wait_ms,
    }
}

pub fn granted(answer: Answer) -> Grant {
    match answer {
        Answer::Granted(grant) => grant,
        other => panic!("not a grant: {other:?}"),
    }
}

/// The stored body.
pub fn replayed(answer: &Answer) -> &[u8] {
    match answer {
        Answer::Stored(stored) => match &*stored.outcome {
            Outcome::Response(response) => &response.body,
            other => panic!("not a response: {other:?}"),
        },
        other => panic!("not stored: {other:?}"),
    }
}

/// An execution of this owner that nobody knows the end of.
pub fn abandon(name: &str, owner: Owner) -> Operation {
    Operation::Abandon {
        key: key(name),
        owner,
    }
}
