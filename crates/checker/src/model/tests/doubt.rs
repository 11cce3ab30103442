//! Refusals, locks and unknown outcomes need a reason.

use super::story::*;

#[test]
fn a_request_that_meets_its_own_lock() {
    let ends = |path: &str, trouble: bool| {
        let mut story = story(path);
        if trouble {
            story = story.fault(Target::StoreLink(0), FaultKind::Reset, 20, 60);
        }
        story
            .op(1, 10, 100, problem(409, "in-flight"))
            .ends("unknown", 7, None)
    };
    // The second gateway's call that spends the proof was cut.
    assert_eq!(ends("/hop-inline", true), GOOD);
    for (path, trouble) in [("/hop-inline", false), ("/inline", true)] {
        let found = ends(path, trouble);
        assert!(found.contains(&Law::Locked), "{path} {trouble}: {found:?}");
    }
}

#[test]
fn a_second_gateway_has_the_first_service() {
    let refused = |path: &str, gateway: usize, link: usize| {
        let mut story = story(path).fault(Target::StoreLink(link), FaultKind::Refuse, 0, 500);
        story.gateway = gateway;
        let story = story.op(1, 10, 100, problem(503, "store-unavailable"));
        !story.ends("absent", 0, None).contains(&Law::Available)
    };
    // Path, gateway, whose link to the store is cut, whether that explains a refusal.
    for (path, gateway, link, explained) in [
        ("/inline", 0, 0, true),
        ("/inline", 1, 0, false),
        ("/inline", 1, 1, true),
        ("/hop-inline", 1, 0, true),
        ("/hop-inline", 1, 1, true),
        ("/hop-inline", 0, 1, false),
    ] {
        let told = refused(path, gateway, link);
        assert_eq!(told, explained, "{path} by {gateway}, link {link}");
    }
}

#[test]
fn an_upstream_that_died_leaves_its_executions_unknown() {
    // Long after the client has left.
    let died = |path| {
        story(path)
            .op(1, 10, 15, End::Left)
            .begins("a", 1, 20, 7, 1)
            .fault(Target::Upstream, FaultKind::Kill, 5_000, 5_100)
    };
    let told = died("/detached").op(2, 5_500, 5_510, problem(409, "outcome-unknown"));
    assert_eq!(told.unknown(7), GOOD);
    let locked = died("/detached").op(2, 4_000, 4_010, problem(409, "in-flight"));
    assert_eq!(locked.unknown(7), GOOD);
    let again = |path| {
        died(path)
            .op(2, 5_500, 5_600, first("b"))
            .runs("b", 2, 5_510, 5_590, 8, 2)
            .completed(8)
    };
    assert_eq!(again("/detached-retry"), GOOD);
    assert_eq!(again("/detached"), [Law::AtMostOnce]);
}

#[test]
fn a_lock_without_a_holder() {
    let alone = story("/inline").op(1, 10, 20, problem(409, "in-flight"));
    assert_eq!(alone.ends("absent", 0, None), [Law::Locked]);
    // Who was refused holds nothing.
    let refused = story("/inline")
        .payload("q")
        .op(1, 10, 20, problem(409, "in-flight"))
        .payload("p")
        .op(2, 12, 20, problem(409, "in-flight"));
    assert!(refused.ends("absent", 0, None).contains(&Law::Locked));
}

#[test]
fn a_lock_ends_with_its_execution_or_a_lease_after_the_fault() {
    let left = |at| {
        story("/detached")
            .op(1, 10, 50, End::Left)
            .runs("a", 1, 20, 300, 7, 1)
            .op(2, at, at + 10, problem(409, "in-flight"))
            .completed(7)
    };
    assert_eq!(left(400), GOOD);
    assert_eq!(left(2_000), [Law::Locked]);
    let killed = |at| {
        story("/detached")
            .fault(Target::Gateway(0), FaultKind::Kill, 100, 1_000)
            .op(1, 10, 100, End::Cut { why: "x".into() })
            .begins("a", 1, 20, 7, 1)
            .op(2, at, at + 10, problem(409, "in-flight"))
            .unknown(7)
    };
    assert_eq!(killed(4_000), GOOD);
    assert_eq!(killed(20_000), [Law::Locked]);
    let after_unknown = story("/inline")
        .outage(0, 1_000)
        .op(1, 10, 50, End::Left)
        .op(2, 200, 210, problem(409, "outcome-unknown"))
        .op(3, 300, 310, problem(409, "in-flight"))
        .unknown(7);
    assert_eq!(after_unknown, [Law::Locked]);
}

#[test]
fn longer_than_the_gateway_waits() {
    let slow = |returned, end| {
        story("/inline")
            .behaves(Behaviour {
                delay_ms: 9_500,
                ..Behaviour::created()
            })
            .op(1, 10, returned, end)
            .runs("a", 1, 20, 9_520, 7, 1)
    };
    assert_eq!(slow(8_100, of_envoy(504)).unknown(7), GOOD);
    let told = slow(8_100, of_envoy(504)).op(2, 8_200, 8_210, problem(409, "outcome-unknown"));
    assert_eq!(told.unknown(7), GOOD);
    // The gateway itself was late, and took the answer.
    let late = slow(9_530, first("a")).op(2, 9_600, 9_610, replay("a"));
    assert_eq!(late.completed(7), GOOD);
    let early = story("/inline")
        .op(1, 10, 1_100, of_envoy(504))
        .runs("a", 1, 20, 1_000, 7, 1);
    assert_eq!(early.unknown(7), [Law::Available, Law::FinalState]);
}

#[test]
fn an_unknown_outcome_has_a_reason() {
    let told = |story: Story| story.op(9, 500, 510, problem(409, "outcome-unknown"));
    let reasons: [Story; 4] = [
        // The client left inline, before or after it was forwarded.
        story("/inline").op(1, 10, 50, End::Left),
        // The upstream's answer.
        story("/detached")
            .status(500)
            .op(1, 10, 100, End::Answer(answer("a", 500, false)))
            .runs("a", 1, 20, 90, 7, 1),
        // A broken answer.
        story("/detached")
            .behaves(Behaviour {
                reset: Some(Reset::Mid),
                ..Behaviour::created()
            })
            .op(1, 10, 100, problem(502, "outcome-unknown"))
            .runs("a", 1, 20, 90, 7, 1),
        // A fault.
        story("/detached")
            .fault(Target::UpstreamLink(0), FaultKind::Reset, 50, 90)
            .op(1, 10, 100, problem(502, "outcome-unknown"))
            .runs("a", 1, 20, 90, 7, 1),
    ];
    for reason in reasons {
        assert_eq!(told(reason).unknown(7), GOOD);
    }
    let detached = told(story("/detached").op(1, 10, 50, End::Left));
    assert_eq!(detached.unknown(7), [Law::Unknown, Law::FinalState]);
    let elsewhere = told(
        story("/detached")
            .fault(Target::UpstreamLink(1), FaultKind::Reset, 50, 90)
            .op(1, 10, 100, problem(502, "outcome-unknown"))
            .runs("a", 1, 20, 90, 7, 1),
    );
    assert_eq!(elsewhere.unknown(7), [Law::Unknown, Law::FinalState]);
    let retried = story("/inline-retry").op(1, 10, 50, End::Left).op(
        9,
        500,
        510,
        problem(409, "outcome-unknown"),
    );
    assert_eq!(retried.unknown(7), [Law::Unknown]);
}

#[test]
fn refusals_have_a_reason() {
    let bad = [
        problem(503, "store-unavailable"),
        problem(503, "outcome-unrecorded"),
        problem(503, "misconfigured"),
        problem(400, "missing-key"),
        of_envoy(503),
        of_envoy(404),
        End::Cut { why: "x".into() },
        End::Refused { why: "x".into() },
        End::Hung,
    ];
    for end in bad {
        let laws = story("/detached").op(1, 10, 20, end.clone());
        let laws = laws.ends("absent", 0, None);
        assert_eq!(laws, [Law::Available], "{end:?}");
    }
    for end in [
        problem(503, "store-unavailable"),
        End::Cut { why: "x".into() },
    ] {
        let excused = story("/detached").outage(0, 15).op(1, 10, 20, end.clone());
        assert_eq!(excused.ends("absent", 0, None), GOOD, "{end:?}");
        for part in [None, Some(Target::Gateway(0)), Some(Target::Service(0))] {
            let excused = story("/detached").stall(part, 0, 15);
            let laws = excused.op(1, 10, 20, end.clone()).ends("absent", 0, None);
            assert_eq!(laws, GOOD, "{part:?}");
        }
        let elsewhere = story("/detached").stall(Some(Target::Gateway(1)), 0, 15);
        let laws = elsewhere.op(1, 10, 20, end).ends("absent", 0, None);
        assert_eq!(laws, [Law::Available]);
    }
    // An outage explains no other outcome than it can have.
    let story = story("/detached")
        .outage(0, 15)
        .op(1, 10, 20, problem(503, "misconfigured"));
    assert_eq!(story.ends("absent", 0, None), [Law::Available]);
}
