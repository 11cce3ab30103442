//! What is different in Kong.

use super::super::bench::*;
use crate::call::CallFailed;
use crate::profile::Profile;
use crate::stream::Event;
use idempotency_core::classify::Source;
use idempotency_protocol::*;

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
