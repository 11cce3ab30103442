//! From the grant to the last byte of the response.

use super::super::bench::*;
use crate::call::CallFailed;
use crate::stream::Event;
use idempotency_core::classify::Source;
use idempotency_protocol::*;

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
        source: crate::details::from_properties(Some(details.as_bytes()), || None),
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
    let a = settled;
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
