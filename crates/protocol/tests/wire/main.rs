//! Pins the bytes of the contract: a change here is a change of what other releases must read.
//!
//! `UPDATE_GOLDEN=1 cargo test -p idempotency-protocol` writes the file anew. A line that changes, rather than
//! grows at the end of its payload, needs a new version.

mod growth;
mod previous;
mod samples;

use bytes::Bytes;
use idempotency_protocol::*;
use samples::*;
use std::fmt::Write;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/golden-v2.txt");

/// All items, which must be readable.
fn whole<T: std::fmt::Debug>(received: Received<T>) -> Vec<T> {
    received.items.into_iter().map(Result::unwrap).collect()
}

#[test]
fn the_bytes_are_pinned() {
    let mut text = format!(
        "protocol version {}, revision {REVISION}\n",
        Wire::Two as u8
    );
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
    let shared = Request::encode_all(Wire::Two, shared.iter());
    writeln!(text, "shared request: {}", hex::encode(shared)).unwrap();
    let answers = answers().into_iter().take(3).collect();
    let shared = Response { answers }.encode();
    writeln!(text, "shared response: {}", hex::encode(shared)).unwrap();
    for (name, operation) in operations() {
        let bytes = Request::encode_traced(Wire::Two, [(&operation, TRACE)].into_iter());
        writeln!(text, "traced {name}: {}", hex::encode(bytes)).unwrap();
    }
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
    assert_eq!(decoded.revision, REVISION);
    assert_eq!(whole(decoded), all);
    let all = Response { answers: answers() };
    assert_eq!(
        whole(Response::decode(all.encode().into()).unwrap()),
        all.answers
    );
    assert_eq!(
        Wait::decode(wait().encode().into()).unwrap(),
        (REVISION, wait())
    );
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
        outcome: outcome(body.into()).into(),
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
    for answer in whole(decoded) {
        let Answer::Stored(Stored { outcome, .. }) = answer else {
            panic!("a replay is expected");
        };
        // What is passed on is what was read, not a copy that was made anew.
        assert!(message.as_ptr_range().contains(&outcome.bytes().as_ptr()));
        assert_eq!(outcome.bytes(), outcome.encode());
        let Outcome::Response(response) = outcome.into_outcome() else {
            panic!("a response is expected");
        };
        assert!(message.as_ptr_range().contains(&response.body.as_ptr()));
    }
}

#[test]
fn one_unreadable_operation_does_not_hide_the_others() {
    let fail = Operation::Fail {
        key: key(),
        owner: owner(),
        cause: FailCause::NotSent,
    };
    let mut bytes = Request {
        operations: vec![fail.clone(); 3],
    }
    .encode();
    let length = (bytes.len() - 5) / 3;
    bytes[5 + length] = 99;
    let decoded = Request::decode(bytes.into()).unwrap().items;
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
    other[0] = 3;
    assert_eq!(Response::decode(other.into()), Err(DecodeError::Version(3)));
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
            let versions = [vec![1], vec![2, 0, 2]].map(|opening| [opening, bytes.clone()].concat());
            for bytes in [bytes].into_iter().chain(versions) {
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
