//! One of everything that travels.

use bytes::Bytes;
use idempotency_protocol::*;
use std::sync::Arc;

pub fn key() -> LookupKey {
    LookupKey {
        tenant: "acme".into(),
        namespace: "pay".into(),
        origin: Origin::Client,
        key: "k-1".into(),
    }
}

pub const TRACE: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

pub fn owner() -> Owner {
    Owner(*b"0123456789abcdef")
}

pub fn fingerprint() -> Fingerprint {
    Fingerprint {
        scheme: Scheme(0x0102_0304_0506_0708),
        digest: [0xAB; 32],
    }
}

pub fn response() -> Outcome {
    Outcome::Response(StoredResponse {
        status: 201,
        headers: vec![
            ("content-type".into(), "application/json".into()),
            ("link".into(), Bytes::from_static(b"\xff\x00")),
            ("link".into(), "".into()),
        ],
        body: Bytes::from_static(b"\x00binary\xff"),
    })
}

pub fn redirect() -> StoredResponse {
    StoredResponse {
        status: 307,
        headers: vec![("location".into(), "/orders/".into())],
        body: Bytes::new(),
    }
}

pub fn tombstone(reason: TombstoneReason) -> Outcome {
    Outcome::Tombstone(Tombstone {
        status: 200,
        reason,
    })
}

pub fn operations() -> Vec<(&'static str, Operation)> {
    let acquire = |on_unknown, origin| {
        Operation::Acquire(Acquire {
            key: LookupKey { origin, ..key() },
            owner: owner(),
            fingerprint: fingerprint(),
            lease_ms: 60_000,
            retention: Retention {
                ttl_ms: 86_400_000,
                unknown_ttl_ms: 604_800_000,
            },
            on_unknown,
            kind: AttemptKind::Gateway,
            about: None,
        })
    };
    let described = Operation::Acquire(Acquire {
        key: key(),
        owner: owner(),
        fingerprint: fingerprint(),
        lease_ms: 60_000,
        retention: Retention {
            ttl_ms: 86_400_000,
            unknown_ttl_ms: 604_800_000,
        },
        on_unknown: OnUnknown::RetryTransactions,
        kind: AttemptKind::Transaction,
        about: Some(Arc::new(About {
            method: "POST".into(),
            path: "/charges".into(),
            rule: "charges".into(),
            gateway: "edge-1".into(),
            request_id: "r-1".into(),
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
            client: "shop".into(),
        })),
    });
    let fail = |cause| Operation::Fail {
        key: key(),
        owner: owner(),
        cause,
    };
    let complete = |outcome| {
        Operation::Complete(Complete {
            key: key(),
            owner: owner(),
            outcome,
        })
    };
    let settle = |settlement| {
        Operation::Settle(Settle {
            key: key(),
            fence: 1 << 50,
            settlement,
        })
    };
    vec![
        ("acquire", acquire(OnUnknown::Refuse, Origin::Client)),
        (
            "acquire, derived key, retry",
            acquire(OnUnknown::Retry, Origin::Derived),
        ),
        ("complete", complete(response().into())),
        (
            "complete, too large",
            complete(tombstone(TombstoneReason::TooLarge).into()),
        ),
        (
            "complete, trailers",
            complete(tombstone(TombstoneReason::Trailers).into()),
        ),
        (
            "complete, capacity",
            complete(tombstone(TombstoneReason::Capacity).into()),
        ),
        (
            "complete, not storable",
            complete(tombstone(TombstoneReason::NotStorable).into()),
        ),
        ("acquire, transaction, described", described),
        ("fail", fail(FailCause::Other)),
        ("fail, not sent", fail(FailCause::NotSent)),
        ("fail, refused", fail(FailCause::Refused)),
        (
            "fail, redirected",
            fail(FailCause::Redirected(Box::new(redirect()))),
        ),
        (
            "abandon",
            Operation::Abandon {
                key: key(),
                owner: owner(),
            },
        ),
        (
            "extend",
            Operation::Extend {
                key: key(),
                owner: owner(),
                lease_ms: 30_000,
            },
        ),
        (
            "settle completed",
            settle(Settlement::Completed(response())),
        ),
        ("settle failed", settle(Settlement::Failed)),
        (
            "redeem",
            Operation::Redeem(Redeem {
                key: key(),
                fence: 1 << 50,
                fingerprint: fingerprint(),
                expires_at_ms: 1_700_000_000_000,
            }),
        ),
    ]
}

pub fn answers() -> Vec<Answer> {
    let fault = |code| {
        Answer::Fault(Fault {
            code,
            detail: "why".into(),
        })
    };
    vec![
        Answer::Granted(Grant {
            fence: 1 << 52,
            attempt: 2,
            lease_ms: 60_000,
        }),
        Answer::Stored(Stored {
            outcome: response().into(),
            fence: 9,
            attempt: 1,
            age_ms: 1234,
            expires_at_ms: 1_700_000_000_000,
        }),
        Answer::InFlight {
            fence: 9,
            lease_left_ms: 555,
        },
        Answer::Mismatch,
        Answer::NotComparable,
        Answer::UnknownOutcome { expires_at_ms: 77 },
        Answer::Cancelled,
        Answer::Spent,
        Answer::Completed { expires_at_ms: 78 },
        Answer::Differs,
        Answer::Failed,
        Answer::Abandoned,
        Answer::Marked,
        Answer::Extended { lease_ms: 79 },
        Answer::Lost,
        Answer::Refused,
        Answer::Changed,
        Answer::TimedOut,
        Answer::AskAlone,
        fault(FaultCode::Unavailable),
        fault(FaultCode::Capacity),
        fault(FaultCode::Invalid),
        fault(FaultCode::Internal),
        fault(FaultCode::Quota),
        fault(FaultCode::Untrusted),
        Answer::Unreadable {
            status: 201,
            fence: 9,
            attempt: 1,
            expires_at_ms: 80,
        },
        Answer::Redeemed { lease_left_ms: 81 },
    ]
}

pub fn wait() -> Wait {
    Wait {
        key: key(),
        fingerprint: fingerprint(),
        fence: 9,
        wait_ms: 5000,
    }
}
