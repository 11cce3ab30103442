//! Old and new ends of the wire: a frozen copy of version 1 reads what today's code writes for it, and writes
//! what today's code reads.

use super::samples::*;
use super::whole;
use bytes::Bytes;
use idempotency_protocol::*;
use idempotency_protocol_v1 as v1;

/// The lines of the file that pinned version 1 when it was the newest.
const GOLDEN: &str = include_str!("golden-v1.txt");

fn pinned(name: &str) -> Bytes {
    let line = GOLDEN
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}: ")));
    hex::decode(line.unwrap_or_else(|| panic!("no line for {name}")))
        .unwrap()
        .into()
}

/// Those that version 1 knows.
pub fn operations() -> impl Iterator<Item = (&'static str, Operation)> {
    let all = super::samples::operations().into_iter();
    all.filter(|(_, operation)| !matches!(operation, Operation::Redeem(_)))
}

#[test]
fn an_older_service_refuses_what_it_does_not_know_alone() {
    let (_, lost) = operations().last().unwrap();
    let redeem = Operation::Redeem(Redeem {
        key: key(),
        fence: 1,
        fingerprint: fingerprint(),
        expires_at_ms: 1,
    });
    let message = Request::encode_all(Wire::One, [redeem, lost].iter());
    let read = v1::Request::decode(message.into()).unwrap();
    let known: Vec<bool> = read.iter().map(Result::is_ok).collect();
    assert_eq!(known, [false, true]);
    // A gateway that knows only the revision before has not asked for it.
    let answers = vec![Answer::Redeemed { lease_left_ms: 1 }];
    let message = Response { answers }.encode_for(2);
    let read = whole(Response::decode(message.into()).unwrap());
    assert_eq!(read, [Answer::Lost]);
}

#[test]
fn an_older_service_reads_every_operation() {
    for (name, operation) in operations() {
        let message = Bytes::from(Request::encode_all(Wire::One, [operation].iter()));
        let read = v1::Request::decode(message.clone()).unwrap();
        let read: Vec<v1::Operation> = read.into_iter().map(Result::unwrap).collect();
        let again = v1::Request { operations: read }.encode();
        assert_eq!(Bytes::from(again), message, "{name}");
    }
    let message = Bytes::from(wait().encode_for(Wire::One));
    let read = v1::Wait::decode(message.clone()).unwrap();
    assert_eq!(Bytes::from(read.encode()), message);
}

#[test]
fn an_older_service_refuses_a_newer_message_before_it_applies_any_of_it() {
    let message = Request {
        operations: operations().map(|(_, o)| o).collect(),
    };
    assert_eq!(
        v1::Request::decode(message.encode().into()),
        Err(v1::DecodeError::Version(2))
    );
    assert_eq!(
        v1::Wait::decode(wait().encode().into()),
        Err(v1::DecodeError::Version(2))
    );
}

#[test]
fn an_older_gateway_reads_every_answer() {
    let message = Bytes::from(Response { answers: answers() }.encode_for(1));
    let read = v1::Response::decode(message.clone()).unwrap();
    assert_eq!(Bytes::from(read.encode()), message);

    let to_old = |answer| {
        let message = Response {
            answers: vec![answer],
        }
        .encode_for(1);
        v1::Response::decode(message.into())
            .unwrap()
            .answers
            .remove(0)
    };
    let fault = |code| {
        Answer::Fault(Fault {
            code,
            detail: "why".into(),
        })
    };
    let old_fault = |code| {
        v1::Answer::Fault(v1::Fault {
            code,
            detail: "why".into(),
        })
    };
    // New answers become old refusals, never an outage that a rule lets pass.
    assert_eq!(
        to_old(fault(FaultCode::Quota)),
        old_fault(v1::FaultCode::Quota)
    );
    assert_eq!(
        to_old(fault(FaultCode::Untrusted)),
        old_fault(v1::FaultCode::Capacity)
    );
    let unreadable = to_old(Answer::Unreadable {
        status: 201,
        fence: 9,
        attempt: 1,
        expires_at_ms: 80,
    });
    let v1::Answer::Stored(stored) = unreadable else {
        panic!("{unreadable:?}");
    };
    assert!(matches!(
        stored.outcome,
        v1::Outcome::Tombstone(v1::Tombstone { status: 201, .. })
    ));
}

#[test]
fn what_an_older_gateway_sends_is_read_with_safe_defaults() {
    for (name, operation) in operations() {
        let operation = match operation {
            Operation::Acquire(acquire) if acquire.about.is_some() => continue,
            Operation::Fail { cause, .. } if cause != FailCause::Other => continue,
            operation => operation,
        };
        let received = Request::decode(pinned(name)).unwrap();
        assert_eq!(received.revision, 1);
        assert_eq!(whole(received), [operation], "{name}");
    }
    assert_eq!(Wait::decode(pinned("wait")).unwrap(), (1, wait()));
}

#[test]
fn what_an_older_service_answers_is_read() {
    for answer in answers() {
        if matches!(&answer, Answer::Unreadable { .. } | Answer::Redeemed { .. })
            || matches!(&answer, Answer::Fault(f) if f.code == FaultCode::Untrusted)
        {
            continue;
        }
        let message = Response {
            answers: vec![answer.clone()],
        }
        .encode_for(1);
        let read = v1::Response::decode(message.into()).unwrap().encode();
        let received = Response::decode(read.into()).unwrap();
        assert_eq!(received.revision, 1);
        assert_eq!(whole(received), [answer]);
    }
}
