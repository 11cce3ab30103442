//! Walks the table of states × events: for each cell, what the host is told, what is to be done,
//! and the state after it.

use super::bench::*;
use super::Event;
use crate::call::CallFailed;
use crate::profile::Profile;
use idempotency_core::classify::Source;
use idempotency_core::headers::Headers;
use idempotency_protocol::*;

#[test]
fn before_the_decision() {
    let body = |chunk: &'static [u8], end| Event::RequestBody { chunk, end };
    walk(
        INLINE,
        vec![
            ("Passing", "body", body(b"x", true), "continue [] Passing"),
            (
                "Passing",
                "response",
                response("200", true),
                "continue [] Passing",
            ),
            ("Passing", "gone", Event::Gone, "continue [] Passing"),
            ("Answered", "body", body(b"x", true), "continue [] Answered"),
            (
                "Answered",
                "answer",
                Event::Answer(grant()),
                "continue [] Answered",
            ),
            ("Answered", "executed", reply(), "continue [] Answered"),
            (
                "Answered",
                "own reply",
                response("409", true),
                "continue [] Answered",
            ),
            ("Answered", "gone", Event::Gone, "continue [] Answered"),
            (
                "Hashing",
                "more body",
                body(b"x", false),
                "pause [] Hashing",
            ),
            (
                "Hashing",
                "end of body",
                body(b"x", true),
                "pause [call:acquire] Acquiring",
            ),
            (
                "Hashing",
                "body at the cap",
                body(b"12345678", true),
                "pause [call:acquire] Acquiring",
            ),
            (
                "Hashing",
                "body over the cap",
                body(b"123456789", false),
                "pause [reply:413] Answered",
            ),
            (
                "Hashing",
                "trailers",
                Event::RequestTrailers(Headers::default()),
                "pause [call:acquire] Acquiring",
            ),
            (
                "Hashing",
                "no knob",
                Event::BodiesNeverCome,
                "pause [reply:503] Answered",
            ),
            (
                "Hashing",
                "host answered",
                response("408", false),
                "continue [] Answered",
            ),
            (
                "Hashing",
                "unreadable is not empty",
                Event::Unreadable,
                "pause [reply:503] Answered",
            ),
            ("Hashing", "gone", Event::Gone, "continue [] Answered"),
        ],
    );
}

#[test]
fn the_decision() {
    let a = Event::Answer;
    for policy in [INLINE, DETACHED] {
        walk(
            policy,
            vec![
                (
                    "Acquiring",
                    "stored",
                    a(stored_response()),
                    "pause [reply:201] Answered",
                ),
                (
                    "Acquiring",
                    "tombstone",
                    a(tombstone()),
                    "pause [reply:409] Answered",
                ),
                (
                    "Acquiring",
                    "bad status",
                    a(stored_with(99, "a")),
                    "pause [reply:409] Answered",
                ),
                (
                    "Acquiring",
                    "CR LF",
                    a(stored_with(200, "a\r\nb")),
                    "pause [reply:409] Answered",
                ),
                (
                    "Acquiring",
                    "in flight",
                    a(in_flight()),
                    "pause [reply:409] Answered",
                ),
                (
                    "Acquiring",
                    "mismatch",
                    a(Ok(Answer::Mismatch)),
                    "pause [reply:422] Answered",
                ),
                (
                    "Acquiring",
                    "other scheme",
                    a(Ok(Answer::NotComparable)),
                    "pause [reply:409] Answered",
                ),
                (
                    "Acquiring",
                    "unknown",
                    a(Ok(Answer::UnknownOutcome { expires_at_ms: 1 })),
                    "pause [reply:409] Answered",
                ),
                (
                    "Acquiring",
                    "no capacity: nothing to take back",
                    a(fault(FaultCode::Capacity)),
                    "pause [reply:503] Answered",
                ),
                (
                    "Acquiring",
                    "no quota: nothing to take back, whatever the rule says of outages",
                    a(fault(FaultCode::Quota)),
                    "pause [reply:429] Answered",
                ),
                (
                    "Acquiring",
                    "store down",
                    a(fault(FaultCode::Unavailable)),
                    "pause [background:fail reply:503] Answered",
                ),
                (
                    "Acquiring",
                    "no answer",
                    a(Err(CallFailed::Unanswered)),
                    "pause [background:fail reply:503] Answered",
                ),
                (
                    "Acquiring",
                    "an answer to another question",
                    a(completed()),
                    "pause [background:fail reply:503] Answered",
                ),
                (
                    "Acquiring",
                    "gone",
                    Event::Gone,
                    "continue [background:fail] Answered",
                ),
                (
                    "Acquiring",
                    "host answered",
                    response("408", true),
                    "continue [background:fail] Answered",
                ),
                (
                    "Acquiring",
                    "empty last body call",
                    Event::RequestBody {
                        chunk: b"",
                        end: true,
                    },
                    "pause [] Acquiring",
                ),
            ],
        );
    }
    walk(
        INLINE,
        vec![(
            "Acquiring",
            "granted",
            a(grant()),
            "pause [track change resume-request] Forwarded",
        )],
    );
    walk(
        DETACHED,
        vec![(
            "Acquiring",
            "granted",
            a(grant()),
            "pause [track execute] Detached",
        )],
    );
    walk(
        OPEN,
        vec![(
            "Acquiring",
            "no answer, fail-open: keeps its owner",
            a(Err(CallFailed::Unanswered)),
            "pause [track change resume-request] Forwarded",
        )],
    );
    // Whatever is no outage never passes, though the rule lets outages pass.
    let refused = "pause [background:fail reply:503] Answered";
    for (answer, expected) in [
        (Err(CallFailed::Status(401)), refused),
        (Err(CallFailed::Status(403)), refused),
        (Err(CallFailed::Status(400)), refused),
        (Err(CallFailed::Status(404)), refused),
        (Err(CallFailed::Status(302)), refused),
        (Err(CallFailed::Undecodable), refused),
        (completed(), refused),
        (Ok(Answer::Lost), refused),
        (fault(FaultCode::Capacity), "pause [reply:503] Answered"),
        (fault(FaultCode::Quota), "pause [reply:429] Answered"),
        (fault(FaultCode::Invalid), refused),
        (fault(FaultCode::Internal), refused),
        (
            Err(CallFailed::NotSent),
            "pause [track change resume-request] Forwarded",
        ),
        (
            Err(CallFailed::Status(503)),
            "pause [track change resume-request] Forwarded",
        ),
        (
            fault(FaultCode::Unavailable),
            "pause [track change resume-request] Forwarded",
        ),
    ] {
        let row = format!("fail-open: {answer:?}");
        walk(OPEN, vec![("Acquiring", &row, a(answer), expected)]);
    }
    walk(
        WAITING,
        vec![
            (
                "Acquiring",
                "in flight",
                a(in_flight()),
                "pause [call:wait] Waiting",
            ),
            (
                "Waiting",
                "stored",
                a(stored_response()),
                "pause [reply:201] Answered",
            ),
            (
                "Waiting",
                "changed",
                a(Ok(Answer::Changed)),
                "pause [call:acquire] Acquiring",
            ),
            (
                "Waiting",
                "timed out",
                a(Ok(Answer::TimedOut)),
                "pause [reply:409] Answered",
            ),
            (
                "Waiting",
                "no answer",
                a(Err(CallFailed::Unanswered)),
                "pause [reply:409] Answered",
            ),
            (
                "Waiting",
                "never a grant",
                a(grant()),
                "pause [reply:409] Answered",
            ),
            ("Waiting", "gone", Event::Gone, "continue [] Answered"),
            (
                "Waiting",
                "host answered",
                response("408", true),
                "continue [] Answered",
            ),
        ],
    );
}

#[test]
fn execution_detached() {
    walk(
        DETACHED,
        vec![
            (
                "Detached",
                "executed",
                reply(),
                "pause [reply:201] Answered",
            ),
            (
                "Detached",
                "gone: the root goes on",
                Event::Gone,
                "continue [] Answered",
            ),
            (
                "Detached",
                "host answered",
                response("408", true),
                "continue [] Answered",
            ),
        ],
    );
}

#[test]
fn execution_inline() {
    let chunk = |chunk: &'static [u8], end| Event::ResponseBody { chunk, end };
    let gateway = |details: &str| Event::ResponseHeaders {
        headers: headers(&[(":status", "503")]),
        source: crate::details::from_details(Some(details.as_bytes())),
        end: true,
    };
    let with_length = |length: &'static str| Event::ResponseHeaders {
        headers: headers(&[(":status", "200"), ("content-length", length)]),
        source: Source::Upstream,
        end: false,
    };
    walk(
        INLINE,
        vec![
            (
                "Forwarded",
                "streams",
                response("201", false),
                "continue [] Capturing",
            ),
            (
                "Forwarded",
                "short and known: held",
                with_length("5"),
                "pause [] Capturing",
            ),
            (
                "Forwarded",
                "long: streams",
                with_length("999999"),
                "continue [] Capturing",
            ),
            (
                "Forwarded",
                "no body",
                response("204", true),
                "pause [untrack call:complete] Settling",
            ),
            (
                "Forwarded",
                "401",
                response("401", true),
                "pause [untrack call:fail] Settling",
            ),
            (
                "Forwarded",
                "500",
                response("500", true),
                "pause [untrack call:abandon] Settling",
            ),
            (
                "Forwarded",
                "nothing was sent",
                gateway("no_healthy_upstream"),
                "pause [untrack call:fail] Settling",
            ),
            (
                "Forwarded",
                "reset after the request",
                gateway("upstream_reset_before_response_started{connection_termination}"),
                "pause [untrack call:abandon] Settling",
            ),
            (
                "Forwarded",
                "gone",
                Event::Gone,
                "continue [untrack background:abandon] Answered",
            ),
            (
                "Capturing",
                "more",
                chunk(b"x", false),
                "continue [] Capturing",
            ),
            (
                "Capturing",
                "end",
                chunk(b"x", true),
                "pause [untrack call:complete] Settling",
            ),
            (
                "Capturing",
                "trailers: tombstone",
                Event::ResponseTrailers,
                "pause [untrack call:complete] Settling",
            ),
            (
                "Capturing",
                "gone",
                Event::Gone,
                "continue [untrack background:abandon] Answered",
            ),
            (
                "Capturing failed",
                "gone: the status stays proof",
                Event::Gone,
                "continue [untrack background:fail] Answered",
            ),
            (
                "Settling",
                "body after the end",
                chunk(b"", true),
                "pause [] Settling",
            ),
            (
                "Capturing",
                "unreadable: goes on, as a tombstone",
                Event::Unreadable,
                "continue [] Capturing",
            ),
            (
                "Settling",
                "gone: the root goes on",
                Event::Gone,
                "continue [] Answered",
            ),
        ],
    );
}

#[test]
fn settlement_answers() {
    let a = Event::Answer;
    walk(
        INLINE,
        vec![
            (
                "Settling",
                "completed",
                a(completed()),
                "pause [add-header resume-response] Answered",
            ),
            (
                "Settling streamed",
                "completed",
                a(completed()),
                "pause [resume-response] Answered",
            ),
            (
                "Settling",
                "lost: delivered, counted",
                a(Ok(Answer::Lost)),
                "pause [resume-response] Answered",
            ),
            (
                "Settling",
                "no answer: delivered, goes on",
                a(Err(CallFailed::Unanswered)),
                "pause [background:complete resume-response] Answered",
            ),
        ],
    );
    walk(
        WITHHOLD,
        vec![
            (
                "Settling",
                "completed",
                a(completed()),
                "pause [add-header resume-response] Answered",
            ),
            (
                "Settling",
                "lost",
                a(Ok(Answer::Lost)),
                "pause [reply:503] Answered",
            ),
            (
                "Settling",
                "no answer",
                a(Err(CallFailed::Unanswered)),
                "pause [background:complete reply:503] Answered",
            ),
            (
                "Settling streamed",
                "no answer",
                a(Err(CallFailed::Unanswered)),
                "pause [background:complete reset] Answered",
            ),
        ],
    );
}

#[test]
fn in_kong() {
    let a = Event::Answer;
    let body = |chunk: &'static [u8], end| Event::RequestBody { chunk, end };
    let chunk = |chunk: &'static [u8], end| Event::ResponseBody { chunk, end };
    let with_length = |length: &'static str| Event::ResponseHeaders {
        headers: headers(&[(":status", "200"), ("content-length", length)]),
        source: Source::Upstream,
        end: false,
    };
    for policy in [INLINE, DETACHED, WITHHOLD] {
        walk_on(
            Profile::Kong,
            policy,
            vec![
                (
                    "Hashing",
                    "the body",
                    body(b"x", true),
                    "pause [call:acquire] Acquiring",
                ),
                (
                    "Hashing",
                    "body over the cap",
                    body(b"123456789", true),
                    "pause [reply:413] Answered",
                ),
                (
                    "Hashing",
                    "spilled to disk",
                    Event::Unreadable,
                    "pause [reply:413] Answered",
                ),
                ("Hashing", "gone", Event::Gone, "continue [] Answered"),
                (
                    "Acquiring",
                    "granted",
                    a(grant()),
                    "pause [track change resume-request] Forwarded",
                ),
                (
                    "Acquiring",
                    "stored",
                    a(stored_response()),
                    "pause [reply:201] Answered",
                ),
                (
                    "Acquiring",
                    "no answer",
                    a(Err(CallFailed::Unanswered)),
                    "pause [background:fail reply:503] Answered",
                ),
                (
                    "Acquiring",
                    "unannounced body",
                    Event::UnannouncedBody,
                    "pause [background:fail reply:411] Answered",
                ),
                (
                    "Acquiring",
                    "gone",
                    Event::Gone,
                    "continue [background:fail] Answered",
                ),
                (
                    "Forwarded",
                    "unannounced body",
                    Event::UnannouncedBody,
                    "pause [untrack background:fail reply:411] Answered",
                ),
                (
                    "Forwarded",
                    "a response that Envoy would hold",
                    with_length("5"),
                    "continue [] Capturing",
                ),
                (
                    "Forwarded",
                    "no body",
                    response("204", true),
                    "continue [untrack background:complete] Answered",
                ),
                (
                    "Forwarded",
                    "500",
                    response("500", true),
                    "continue [untrack background:abandon] Answered",
                ),
                (
                    "Forwarded",
                    "gone",
                    Event::Gone,
                    "continue [untrack background:abandon] Answered",
                ),
                (
                    "Capturing",
                    "more",
                    chunk(b"x", false),
                    "continue [] Capturing",
                ),
                (
                    "Capturing",
                    "end",
                    chunk(b"x", true),
                    "continue [untrack background:complete] Answered",
                ),
                (
                    "Capturing",
                    "gone",
                    Event::Gone,
                    "continue [untrack background:abandon] Answered",
                ),
                (
                    "Capturing failed",
                    "gone: the status stays proof",
                    Event::Gone,
                    "continue [untrack background:fail] Answered",
                ),
                (
                    "Answered",
                    "own reply",
                    response("409", false),
                    "continue [] Answered",
                ),
            ],
        );
    }
    walk_on(
        Profile::Kong,
        WAITING,
        vec![
            (
                "Acquiring",
                "in flight",
                a(in_flight()),
                "pause [call:wait] Waiting",
            ),
            (
                "Waiting",
                "changed",
                a(Ok(Answer::Changed)),
                "pause [call:acquire] Acquiring",
            ),
            (
                "Waiting",
                "unannounced body",
                Event::UnannouncedBody,
                "pause [reply:411] Answered",
            ),
        ],
    );
    let mut bench = Bench::in_state_on(Profile::Kong, INLINE, "Forwarded");
    bench
        .on(with_length("5"))
        .on(chunk(b"ab", false))
        .on(chunk(b"cde", false));
    assert_eq!(
        squeeze(&bench.outcome()),
        "continue [untrack background:complete] Answered",
        "the host does not say that it was the last piece"
    );
}
