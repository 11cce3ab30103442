//! How often a request executed, and when it may execute again.

use super::story::*;

#[test]
fn one_execution_and_its_replays() {
    for path in [
        "/inline",
        "/detached",
        "/inline-retry",
        "/detached-withhold",
    ] {
        let story = charged(path)
            .op(2, 50, 60, problem(409, "in-flight"))
            .op(3, 200, 210, replay("a"))
            .op(4, 30, 300, replay("a"));
        assert_eq!(story.completed(7), GOOD, "{path}");
    }
}

#[test]
fn a_key_that_nothing_came_of() {
    let story = story("/inline").op(1, 10, 100, End::Left);
    assert_eq!(story.ends("absent", 0, None), GOOD);
}

#[test]
fn a_second_execution() {
    let twice = charged("/inline")
        .op(2, 200, 300, first("b"))
        .runs("b", 2, 210, 290, 8, 2);
    assert!(twice.completed(8).contains(&Law::AtMostOnce));
}

#[test]
fn a_second_execution_is_no_better_because_of_a_fault() {
    for path in ["/inline", "/detached"] {
        let twice = story(path)
            .outage(0, 1_000)
            .op(1, 10, 100, problem(503, "store-unavailable"))
            .runs("a", 1, 20, 90, 7, 1)
            .op(2, 1_200, 1_300, first("b"))
            .runs("b", 2, 1_210, 1_290, 8, 2);
        assert_eq!(twice.completed(8), [Law::AtMostOnce]);
    }
}

#[test]
fn the_gateway_executes_one_request_twice() {
    for path in ["/inline", "/inline-retry"] {
        let twice = story(path)
            .outage(0, 1_000)
            .op(1, 10, 100, first("a"))
            .runs("a", 1, 20, 40, 7, 1)
            .runs("b", 1, 50, 90, 7, 1);
        assert!(twice.completed(7).contains(&Law::AtMostOnce), "{path}");
    }
}

/// A retry that failed says nothing about the attempt before it.
#[test]
fn a_failed_retry_after_an_unknown_attempt_leaves_it_unknown() {
    let story = |first: u16| {
        story("/inline-retry")
            .status(first)
            .op(1, 10, 100, End::Answer(answer("a", first, false)))
            .runs("a", 1, 20, 90, 7, 1)
            .status(429)
            .op(2, 200, 300, End::Answer(answer("b", 429, false)))
            .runs("b", 2, 210, 290, 8, 2)
    };
    assert_eq!(story(502).unknown(8), GOOD);
    assert_eq!(story(429).unknown(8), [Law::FinalState]);
}

#[test]
fn what_failed_may_execute_again() {
    let failed = |end| {
        story("/inline")
            .status(429)
            .op(1, 10, 100, end)
            .runs("a", 1, 20, 90, 7, 1)
            .status(201)
            .op(2, 200, 300, first("b"))
            .runs("b", 2, 210, 290, 8, 2)
    };
    let end = || End::Answer(answer("a", 429, false));
    assert_eq!(failed(end()).completed(8), GOOD);
    let replayed = failed(end()).op(3, 400, 410, End::Answer(answer("a", 429, true)));
    assert!(replayed.completed(8).contains(&Law::NoContradiction));
    // 503 counts as failed with Retry-After only.
    let plain = story("/inline")
        .status(503)
        .op(1, 10, 100, End::Answer(answer("a", 503, false)))
        .runs("a", 1, 20, 90, 7, 1)
        .status(201)
        .op(2, 200, 300, first("b"))
        .runs("b", 2, 210, 290, 8, 2);
    assert_eq!(plain.completed(8), [Law::AtMostOnce]);
}

#[test]
fn what_failed_may_not_execute_again_before_it_has() {
    let early = story("/inline")
        .status(429)
        .op(1, 10, 100, End::Answer(answer("a", 429, false)))
        .runs("a", 1, 20, 90, 7, 1)
        .status(201)
        .op(2, 40, 300, first("b"))
        .runs("b", 2, 50, 290, 8, 2);
    assert_eq!(early.completed(8), [Law::AtMostOnce]);
    let never_ended = story("/inline")
        .fault(Target::Upstream, FaultKind::Kill, 50, 500)
        .status(429)
        .op(1, 10, 100, of_envoy(503))
        .begins("a", 1, 20, 7, 1)
        .status(201)
        .op(2, 600, 700, first("b"))
        .runs("b", 2, 610, 690, 8, 2);
    assert_eq!(never_ended.completed(8), [Law::AtMostOnce]);
}

#[test]
fn an_unknown_outcome_executes_again_only_where_the_rule_says_so() {
    let twice = |path| {
        story(path)
            .status(500)
            .op(1, 10, 100, End::Answer(answer("a", 500, false)))
            .runs("a", 1, 20, 90, 7, 1)
            .status(201)
            .op(2, 200, 300, first("b"))
            .runs("b", 2, 210, 290, 8, 2)
    };
    assert_eq!(twice("/inline-retry").completed(8), GOOD);
    assert_eq!(twice("/inline").completed(8), [Law::AtMostOnce]);
    // The rule allows what is unknown, not what is done.
    let done = charged("/inline-retry")
        .op(2, 200, 300, first("b"))
        .runs("b", 2, 210, 290, 8, 2);
    assert!(done.completed(8).contains(&Law::AtMostOnce));
}

#[test]
fn executed_after_an_unknown_outcome_was_told() {
    let story = story("/inline")
        .op(1, 10, 50, End::Left)
        .op(2, 200, 210, problem(409, "outcome-unknown"))
        .op(3, 300, 400, first("a"))
        .runs("a", 3, 310, 390, 8, 2);
    assert_eq!(story.completed(8), [Law::AtMostOnce]);
}

#[test]
fn fences_grow() {
    let twice = |second: (u64, u64)| {
        story("/inline")
            .status(429)
            .op(1, 10, 100, End::Answer(answer("a", 429, false)))
            .runs("a", 1, 20, 90, 7, 1)
            .status(201)
            .op(2, 200, 300, first("b"))
            .runs("b", 2, 210, 290, second.0, second.1)
            .ends("completed", second.0, Some(201))
    };
    assert_eq!(twice((8, 2)), GOOD);
    assert!(twice((7, 2)).contains(&Law::Fences));
    assert!(twice((6, 2)).contains(&Law::Fences));
    assert!(twice((8, 1)).contains(&Law::Fences));
}
