//! What is the same request: redirects, corrected requests, webhooks, other payloads.

use super::story::*;

/// RFC 9110 §15.4.8: the client follows with the same key, and a retry begins at the beginning.
#[test]
fn a_redirect_may_be_followed_and_is_said_again() {
    for status in [307, 308] {
        let redirect = |replayed| End::Answer(answer("a", status, replayed));
        let story = |last: End| {
            story("/detached")
                .status(status)
                .op(1, 10, 100, redirect(false))
                .runs("a", 1, 20, 90, 7, 1)
                .op(2, 150, 160, redirect(true))
                .moved(true)
                .status(201)
                .op(3, 200, 300, first("b"))
                .runs("b", 3, 210, 290, 8, 2)
                .op(4, 400, 410, replay("b"))
                .moved(false)
                .op(5, 500, 510, last)
        };
        assert_eq!(story(redirect(true)).completed(8), GOOD, "{status}");
        let refused = story(problem(422, "key-reused"));
        assert_eq!(refused.completed(8), [Law::Mismatch]);
        assert_eq!(story(replay("b")).completed(8), [Law::OwnAnswer]);
        let again = story(first("c")).runs("c", 5, 505, 509, 9, 3);
        assert!(again.completed(9).contains(&Law::AtMostOnce));
    }
    // After an attempt in doubt the record stays unknown, and keeps no redirect.
    let doubtful = |status| {
        story("/inline-retry")
            .status(status)
            .op(1, 10, 100, End::Answer(answer("a", status, false)))
            .runs("a", 1, 20, 90, 7, 1)
            .status(308)
            .op(2, 200, 300, End::Answer(answer("b", 308, false)))
            .runs("b", 2, 210, 290, 8, 2)
            .status(201)
            .op(3, 400, 500, first("c"))
            .runs("c", 3, 410, 490, 9, 3)
    };
    assert_eq!(doubtful(502).completed(9), GOOD);
    assert!(doubtful(429).completed(9).contains(&Law::AtMostOnce));
    // The same, when the attempt in doubt never reached the upstream.
    let cut = || {
        story("/inline-retry")
            .op(1, 10, 100, problem(502, "outcome-unknown"))
            .status(308)
            .op(2, 9_200, 9_300, End::Answer(answer("b", 308, false)))
            .runs("b", 2, 9_210, 9_290, 8, 2)
            .status(201)
            .op(3, 9_400, 9_500, first("c"))
            .runs("c", 3, 9_410, 9_490, 9, 3)
    };
    assert!(cut().completed(9).contains(&Law::AtMostOnce));
    let broken = cut().fault(Target::Upstream, FaultKind::Kill, 5, 105);
    assert_eq!(broken.completed(9), GOOD);
    // Another status sends nobody anywhere.
    let other = story("/detached")
        .op(1, 10, 100, first("a"))
        .runs("a", 1, 20, 90, 7, 1)
        .moved(true)
        .op(2, 200, 210, replay("a"));
    assert_eq!(other.completed(7), [Law::OwnAnswer]);
}

/// A key out of the body, of which nothing else counts.
#[test]
fn what_a_sender_of_webhooks_changes_is_no_other_request() {
    let hooks = |path| {
        story(path)
            .op(1, 10, 100, first("a"))
            .runs("a", 1, 20, 90, 7, 1)
            .payload("q")
    };
    for path in ["/inline-hooks", "/detached-hooks"] {
        let good = hooks(path).op(2, 200, 210, replay("a"));
        assert_eq!(good.completed(7), GOOD, "{path}");
        let refused = hooks(path).op(2, 200, 210, problem(422, "key-reused"));
        assert_eq!(refused.completed(7), [Law::Mismatch], "{path}");
        let twice = hooks(path)
            .op(2, 200, 300, first("b"))
            .runs("b", 2, 210, 290, 8, 2);
        assert!(twice.completed(8).contains(&Law::AtMostOnce), "{path}");
    }
}

#[test]
fn what_the_upstream_refused_may_be_corrected_and_the_key_is_the_corrected_requests_then() {
    let corrected = |status| {
        story("/inline")
            .status(status)
            .op(1, 10, 100, End::Answer(answer("a", status, false)))
            .runs("a", 1, 20, 90, 7, 1)
            .payload("q")
            .status(201)
            .op(2, 200, 300, first("b"))
            .runs("b", 2, 210, 290, 8, 2)
    };
    assert_eq!(corrected(429).completed(8), GOOD);
    // The request of before is another one now.
    let refused = corrected(429)
        .payload("p")
        .op(3, 400, 410, problem(422, "key-reused"));
    assert_eq!(refused.payload("q").completed(8), GOOD);
    let own = corrected(429).op(3, 400, 410, problem(422, "key-reused"));
    assert_eq!(own.completed(8), [Law::Mismatch]);
    // What may be half done is not corrected.
    assert!(corrected(500).completed(8).contains(&Law::Mismatch));
}

#[test]
fn another_payload_is_told_so_and_no_other_is() {
    let told = charged("/inline")
        .payload("q")
        .op(2, 200, 210, problem(422, "key-reused"))
        .payload("p");
    assert_eq!(told.completed(7), GOOD);
    let same = charged("/inline").op(2, 200, 210, problem(422, "key-reused"));
    assert_eq!(same.completed(7), [Law::Mismatch]);
    let in_flight = charged("/inline")
        .payload("q")
        .op(2, 50, 60, problem(409, "in-flight"))
        .payload("p");
    assert_eq!(in_flight.completed(7), [Law::Mismatch]);
}
