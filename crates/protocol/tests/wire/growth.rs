//! Version 2 grows: what a receiver does not know yet is skipped, or fails alone.

use super::samples::*;
use super::{previous, whole};
use bytes::Bytes;
use idempotency_protocol::*;

/// Where the items of a message of version 2 begin.
const OPENING: usize = 5;

/// The message with `more` bytes at the end of each payload, as a later release would send it.
fn grown(message: &[u8], more: &[u8]) -> Bytes {
    let (opening, mut rest) = message.split_at(OPENING);
    let mut out = opening.to_vec();
    while let Some((kind, after)) = rest.split_first() {
        let (length, after) = after.split_first_chunk::<4>().unwrap();
        let length = u32::from_be_bytes(*length);
        let (payload, after) = after.split_at(usize::try_from(length).unwrap());
        out.push(*kind);
        out.extend((length + u32::try_from(more.len()).unwrap()).to_be_bytes());
        out.extend(payload);
        out.extend(more);
        rest = after;
    }
    out.into()
}

#[test]
fn fields_of_later_releases_are_skipped() {
    let all: Vec<Operation> = operations().into_iter().map(|(_, o)| o).collect();
    let message = Request {
        operations: all.clone(),
    }
    .encode();
    let read = Request::decode(grown(&message, b"later")).unwrap();
    assert_eq!(whole(read), all);

    let message = Response { answers: answers() }.encode();
    let read = Response::decode(grown(&message, b"later")).unwrap();
    assert_eq!(whole(read), answers());

    let longer = [wait().encode(), b"later".to_vec()].concat();
    assert_eq!(Wait::decode(longer.into()).unwrap().1, wait());
}

#[test]
fn each_operation_has_the_trace_of_its_own() {
    let all: Vec<Operation> = operations().into_iter().map(|(_, o)| o).collect();
    let traces: [&[u8]; 3] = [TRACE, b"", b"anything"];
    let pairs: Vec<_> = all.iter().zip(traces.into_iter().cycle()).collect();
    let message = Bytes::from(Request::encode_traced(Wire::Two, pairs.clone().into_iter()));
    let read = whole(Request::decode_traced(message.clone()).unwrap());
    let read: Vec<_> = read.iter().map(|(o, t)| (o, t.as_ref())).collect();
    assert_eq!(read, pairs);
    // Who does not know of traces reads the same operations.
    assert_eq!(whole(Request::decode(message).unwrap()), all);
    // Without a trace nothing changes, and version 1 has none.
    let none = |wire| Request::encode_traced(wire, all.iter().map(|o| (o, &[][..])));
    assert_eq!(none(Wire::Two), Request::encode_all(Wire::Two, all.iter()));
    let traced = Request::encode_traced(Wire::One, pairs.into_iter());
    assert_eq!(traced, none(Wire::One));
}

#[test]
fn a_trace_that_is_cut_off_is_none() {
    let (_, operation) = operations().remove(0);
    let message = Request {
        operations: vec![operation.clone()],
    }
    .encode();
    // A length without what it promises.
    let read = Request::decode_traced(grown(&message, &[0, 9, b'0'])).unwrap();
    assert_eq!(whole(read), [(operation, Bytes::new())]);
}

#[test]
fn version_1_does_not_grow() {
    for (name, operation) in previous::operations() {
        let message = Request::encode_all(Wire::One, [operation].iter());
        let (opening, item) = message.split_at(3);
        let length = u32::from_be_bytes(item[1..5].try_into().unwrap()) + 1;
        let longer = [opening, &item[..1], &length.to_be_bytes(), &item[5..], b"!"].concat();
        let read = Request::decode(longer.into()).unwrap();
        assert_eq!(read.items, [Err(DecodeError::TrailingBytes)], "{name}");
    }
}

#[test]
fn an_answer_of_an_unknown_kind_fails_alone() {
    let lost = vec![Answer::Lost; 3];
    let mut message = Response {
        answers: lost.clone(),
    }
    .encode();
    message[OPENING + 5] = 99;
    let read = Response::decode(message.into()).unwrap();
    assert_eq!(
        read.items,
        [
            Ok(Answer::Lost),
            Err(DecodeError::BadValue("answer kind")),
            Ok(Answer::Lost)
        ]
    );
}

#[test]
fn a_cause_of_a_later_release_promises_nothing() {
    let fail = Operation::Fail {
        key: key(),
        owner: owner(),
        cause: FailCause::NotSent,
    };
    let mut message = Request {
        operations: vec![fail],
    }
    .encode();
    *message.last_mut().unwrap() = 200;
    let read = whole(Request::decode(message.into()).unwrap());
    assert_eq!(
        read,
        [Operation::Fail {
            key: key(),
            owner: owner(),
            cause: FailCause::Other,
        }]
    );
}

#[test]
fn the_ends_tell_each_other_what_they_know() {
    let later = Response { answers: answers() }.encode_for(7);
    assert_eq!(Response::decode(later.into()).unwrap().revision, REVISION);
    let mut message = Request::default().encode();
    message[1..3].copy_from_slice(&7_u16.to_be_bytes());
    assert_eq!(Request::decode(message.into()).unwrap().revision, 7);
    let old = Request::encode_all(Wire::One, [].iter());
    assert_eq!(Request::decode(old.into()).unwrap().revision, 1);
}

#[test]
fn a_long_description_is_cut_between_characters() {
    let mut about = About {
        path: "é".repeat(limits::MAX_PATH_BYTES),
        rule: "é".repeat(33),
        client: "short".into(),
        ..About::default()
    };
    about.shorten();
    assert_eq!(about.path.len(), limits::MAX_PATH_BYTES);
    assert_eq!(about.rule.len(), 64);
    assert_eq!(about.client, "short");
    about.method = format!("x{}", "é".repeat(8));
    about.shorten();
    assert_eq!(about.method, format!("x{}", "é".repeat(7)));
}
