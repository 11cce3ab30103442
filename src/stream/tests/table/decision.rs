//! From the first callback to the decision.

use super::super::bench::*;
use crate::call::CallFailed;
use crate::stream::Event;
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
