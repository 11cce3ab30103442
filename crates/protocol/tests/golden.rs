//! Pins the bytes of the contract: a change here is a change of the protocol's version.
//!
//! `UPDATE_GOLDEN=1 cargo test -p idempotency-protocol` writes the file anew, for a new version.

use bytes::Bytes;
use idempotency_protocol::*;
use std::fmt::Write;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden.txt");

fn key() -> LookupKey {
    LookupKey {
        tenant: "acme".into(),
        namespace: "pay".into(),
        origin: Origin::Client,
        key: "k-1".into(),
    }
}

fn owner() -> Owner {
    Owner(*b"0123456789abcdef")
}

fn fingerprint() -> Fingerprint {
    Fingerprint {
        scheme: Scheme(0x0102_0304_0506_0708),
        digest: [0xAB; 32],
    }
}

fn response() -> Outcome {
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

fn tombstone(reason: TombstoneReason) -> Outcome {
    Outcome::Tombstone(Tombstone {
        status: 200,
        reason,
    })
}

fn operations() -> Vec<(&'static str, Operation)> {
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
        })
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
        ("complete", complete(response())),
        (
            "complete, too large",
            complete(tombstone(TombstoneReason::TooLarge)),
        ),
        (
            "complete, trailers",
            complete(tombstone(TombstoneReason::Trailers)),
        ),
        (
            "complete, capacity",
            complete(tombstone(TombstoneReason::Capacity)),
        ),
        (
            "complete, not storable",
            complete(tombstone(TombstoneReason::NotStorable)),
        ),
        (
            "fail",
            Operation::Fail {
                key: key(),
                owner: owner(),
            },
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
    ]
}

fn answers() -> Vec<Answer> {
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
            outcome: response(),
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
    ]
}

fn wait() -> Wait {
    Wait {
        key: key(),
        fingerprint: fingerprint(),
        fence: 9,
        wait_ms: 5000,
    }
}

#[test]
fn the_bytes_are_pinned() {
    let mut text = format!("protocol version {VERSION}\n");
    for (name, operation) in operations() {
        let bytes = Request {
            operations: vec![operation],
        }
        .encode();
        writeln!(text, "{name}: {}", hex::encode(bytes)).unwrap();
    }
    for answer in answers() {
        let name = answer.name();
        let bytes = Response {
            answers: vec![answer],
        }
        .encode();
        writeln!(text, "{name}: {}", hex::encode(bytes)).unwrap();
    }
    writeln!(text, "wait: {}", hex::encode(wait().encode())).unwrap();
    let shared: Vec<_> = operations().into_iter().map(|(_, o)| o).take(3).collect();
    let shared = Request::encode_all(shared.iter());
    writeln!(text, "shared request: {}", hex::encode(shared)).unwrap();
    let answers = answers().into_iter().take(3).collect();
    let shared = Response { answers }.encode();
    writeln!(text, "shared response: {}", hex::encode(shared)).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(GOLDEN, &text).unwrap();
    }
    let golden = std::fs::read_to_string(GOLDEN).unwrap();
    for (now, then) in text.lines().zip(golden.lines()) {
        assert_eq!(now, then);
    }
    assert_eq!(text.lines().count(), golden.lines().count());
}

#[test]
fn what_is_encoded_is_decoded() {
    let all: Vec<Operation> = operations().into_iter().map(|(_, o)| o).collect();
    let decoded = Request::decode(
        Request {
            operations: all.clone(),
        }
        .encode()
        .into(),
    )
    .unwrap();
    assert_eq!(
        decoded.into_iter().map(Result::unwrap).collect::<Vec<_>>(),
        all
    );
    let all = Response { answers: answers() };
    assert_eq!(Response::decode(all.encode().into()).unwrap(), all);
    assert_eq!(Wait::decode(wait().encode().into()).unwrap(), wait());
    assert_eq!(
        Outcome::decode(response().encode().into()).unwrap(),
        response()
    );
}

#[test]
fn the_length_of_an_outcome_is_known_beforehand() {
    for outcome in [response(), tombstone(TombstoneReason::TooLarge)] {
        assert_eq!(outcome.encoded_len(), outcome.encode().len());
    }
}

/// A replay that takes so many bytes.
fn replay(bytes: usize) -> Answer {
    let outcome = |body| {
        Outcome::Response(StoredResponse {
            status: 200,
            headers: Vec::new(),
            body,
        })
    };
    let body = vec![b'x'; bytes - outcome(Bytes::new()).encoded_len()];
    Answer::Stored(Stored {
        outcome: outcome(body.into()),
        fence: 1,
        attempt: 1,
        age_ms: 0,
        expires_at_ms: 1,
    })
}

#[test]
fn a_shared_answer_has_a_budget_and_a_lone_one_has_none() {
    let share = |answers: Vec<Answer>| {
        let mut response = Response { answers };
        response.share();
        response.answers
    };
    let huge = replay(MAX_SHARED_ANSWER + 1);
    assert_eq!(share(vec![huge.clone()]), vec![huge.clone()]);
    assert_eq!(share(vec![]), []);
    // What fits is kept to the last byte, whatever else is asked.
    let half = replay(MAX_SHARED_ANSWER / 2);
    let asked = vec![
        half.clone(),
        huge,
        Answer::Lost,
        half.clone(),
        replay(9),
        Answer::Mismatch,
    ];
    let told = [
        half.clone(),
        Answer::AskAlone,
        Answer::Lost,
        half,
        Answer::AskAlone,
        Answer::Mismatch,
    ];
    assert_eq!(share(asked), told);
}

#[test]
fn decoded_bodies_share_the_memory_of_the_message() {
    let message = Bytes::from(
        Response {
            answers: vec![replay(1000), replay(1000)],
        }
        .encode(),
    );
    let decoded = Response::decode(message.clone()).unwrap();
    for answer in decoded.answers {
        let Answer::Stored(Stored {
            outcome: Outcome::Response(response),
            ..
        }) = answer
        else {
            panic!("a replay is expected");
        };
        assert!(message.as_ptr_range().contains(&response.body.as_ptr()));
    }
}

#[test]
fn one_unreadable_operation_does_not_hide_the_others() {
    let fail = Operation::Fail {
        key: key(),
        owner: owner(),
    };
    let mut bytes = Request {
        operations: vec![fail.clone(); 3],
    }
    .encode();
    let length = (bytes.len() - 3) / 3;
    bytes[3 + length] = 99;
    let decoded = Request::decode(bytes.into()).unwrap();
    assert_eq!(decoded[0], Ok(fail.clone()));
    assert_eq!(decoded[1], Err(DecodeError::BadValue("operation kind")));
    assert_eq!(decoded[2], Ok(fail));
}

#[test]
fn every_truncation_and_every_other_version_is_an_error() {
    let request = Request {
        operations: operations().into_iter().map(|(_, o)| o).collect(),
    };
    let bytes = Bytes::from(request.encode());
    for end in 0..bytes.len() {
        assert!(Request::decode(bytes.slice(..end)).is_err(), "cut at {end}");
    }
    let bytes = Bytes::from(Response { answers: answers() }.encode());
    for end in 0..bytes.len() {
        assert!(
            Response::decode(bytes.slice(..end)).is_err(),
            "cut at {end}"
        );
    }
    let mut other = bytes.to_vec();
    other[0] = 2;
    assert_eq!(Response::decode(other.into()), Err(DecodeError::Version(2)));
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert_eq!(
        Response::decode(longer.into()),
        Err(DecodeError::TrailingBytes)
    );
}

#[test]
fn keys_and_owners_are_not_shown() {
    let text = format!("{:?} {:?}", operations(), wait());
    assert!(!text.contains("k-1") && !text.contains("acme"), "{text}");
    assert!(!text.contains("0123456789"), "{text}");
}

#[test]
fn lookup_keys_are_unambiguous() {
    let make = |tenant: &str, namespace: &str, origin, key: &str| {
        let [tenant, namespace, key] = [tenant, namespace, key].map(str::to_owned);
        LookupKey {
            tenant,
            namespace,
            origin,
            key,
        }
        .to_bytes()
    };
    let all = [
        make("a", "b", Origin::Client, "c"),
        make("ab", "", Origin::Client, "c"),
        make("", "ab", Origin::Client, "c"),
        make("a", "", Origin::Client, "bc"),
        make("a", "b", Origin::Derived, "c"),
        make("", "", Origin::Client, "abc"),
    ];
    for (i, a) in all.iter().enumerate() {
        for b in &all[i + 1..] {
            assert_ne!(a, b);
        }
    }
}

mod garbage {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let mut versioned = vec![VERSION];
            versioned.extend_from_slice(&bytes);
            for bytes in [bytes, versioned] {
                let bytes = Bytes::from(bytes);
                let _ = Request::decode(bytes.clone());
                let _ = Response::decode(bytes.clone());
                let _ = Wait::decode(bytes.clone());
                let _ = Outcome::decode(bytes);
            }
        }

        #[test]
        fn flipped_bytes_never_panic(at: usize, with: u8) {
            let mut bytes = Response { answers: answers() }.encode();
            let at = at % bytes.len();
            bytes[at] = with;
            let _ = Response::decode(bytes.into());
        }
    }
}

/// A gateway that knows no quotas takes one for a capacity refusal, which it refuses with: never for
/// an outage, nor for bytes that it cannot read.
#[test]
fn a_quota_is_a_capacity_refusal_to_older_gateways() {
    let quota = Fault {
        code: FaultCode::Quota,
        detail: "why".into(),
    };
    let capacity = Fault {
        code: FaultCode::Capacity,
        detail: "tenant-quota: why".into(),
    };
    let bytes = |fault: &Fault| {
        Response {
            answers: vec![Answer::Fault(fault.clone())],
        }
        .encode()
    };
    assert_eq!(bytes(&quota), bytes(&capacity));
    let read = Response::decode(bytes(&quota).into()).unwrap().answers;
    assert_eq!(read, [Answer::Fault(quota)]);
}
