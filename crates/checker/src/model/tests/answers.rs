//! What clients were told, and what the record says in the end.

use super::story::*;

#[test]
fn a_replay_with_other_bytes() {
    let mut other = answer("a", 201, true);
    other.body = "other".into();
    let story = charged("/inline").op(2, 200, 210, End::Answer(other));
    assert_eq!(story.completed(7), [Law::SameBytes]);
    let mut other = answer("a", 201, true);
    other.headers = "other".into();
    let story = charged("/inline").op(2, 200, 210, End::Answer(other));
    assert_eq!(story.completed(7), [Law::SameBytes]);
    let other = End::Answer(answer("a", 200, true));
    let story = charged("/inline").op(2, 200, 210, other);
    assert_eq!(story.completed(7), [Law::SameBytes]);
}

#[test]
fn somebody_elses_answer() {
    let payload = charged("/inline")
        .payload("q")
        .op(2, 200, 210, replay("a"))
        .payload("p");
    assert_eq!(payload.completed(7), [Law::OwnAnswer]);
    let first_twice = charged("/inline").op(2, 200, 210, first("a"));
    assert_eq!(first_twice.completed(7), [Law::OwnAnswer]);
    let never = charged("/inline").op(2, 200, 210, replay("z"));
    assert_eq!(never.completed(7), [Law::OwnAnswer]);
    let mut tenant = charged("/inline");
    tenant.events.push(Event::Record(Record {
        at: 60 * SECOND,
        tenant: "u".into(),
        key: "k".into(),
        state: "absent".into(),
        fence: 0,
        status: None,
        tombstone: false,
    }));
    let tenant = tenant.tenant("u").op(2, 200, 210, replay("a")).tenant("t");
    assert_eq!(tenant.completed(7), [Law::OwnAnswer]);
}

#[test]
fn what_is_stored_is_not_contradicted() {
    for end in [
        problem(409, "in-flight"),
        problem(409, "outcome-unknown"),
        of_envoy(503),
    ] {
        // Somebody who may hold the key, so that nothing else is wrong.
        let story = charged("/inline")
            .outage(1_000, 2_000)
            .op(2, 190, 1_400, End::Left)
            .op(3, 1_200, 1_210, end)
            .completed(7);
        assert!(story.contains(&Law::NoContradiction), "{story:?}");
    }
    // Told before it was stored, or by a service that could not be asked.
    let story = charged("/inline")
        .op(2, 95, 210, problem(409, "in-flight"))
        .outage(1_000, 2_000)
        .op(3, 1_100, 1_200, problem(503, "store-unavailable"));
    assert_eq!(story.completed(7), GOOD);
}

#[test]
fn delivered_and_not_stored_yet() {
    let story = |path| {
        charged(path)
            .outage(50, 2_000)
            .op(2, 200, 210, problem(409, "in-flight"))
    };
    assert_eq!(story("/inline").completed(7), GOOD);
    // What withholds has stored what it delivers.
    assert_eq!(
        story("/inline-withhold").completed(7),
        [Law::NoContradiction]
    );
    // In the end it must be stored, if the gateway lives.
    assert_eq!(story("/inline").unknown(7), [Law::FinalState]);
    let dead = story("/inline").fault(Target::Gateway(0), FaultKind::Kill, 500, 900);
    assert_eq!(dead.unknown(7), GOOD);
    let other = story("/inline").fault(Target::Gateway(1), FaultKind::Kill, 500, 900);
    assert_eq!(other.unknown(7), [Law::FinalState]);
}

#[test]
fn what_is_too_large_to_be_kept_is_done_all_the_same() {
    let large = || {
        story("/inline")
            .behaves(Behaviour {
                bytes: Some(2_000_000),
                ..Behaviour::created()
            })
            .op(1, 10, 100, first("a"))
            .runs("a", 1, 20, 90, 7, 1)
            .behaves(Behaviour::created())
    };
    let tombstone = |mut story: Story| {
        story.tombstone = true;
        story.completed(7)
    };
    let told = || large().op(2, 200, 210, problem(409, "not-replayable"));
    assert_eq!(tombstone(told()), GOOD);
    assert_eq!(told().completed(7), [Law::FinalState]);
    let replayed = large().op(2, 200, 210, replay("a"));
    assert_eq!(tombstone(replayed), [Law::NoContradiction]);
    let again = large()
        .op(2, 200, 300, first("b"))
        .runs("b", 2, 210, 290, 8, 2);
    assert!(again.completed(8).contains(&Law::AtMostOnce));
    assert_eq!(tombstone(charged("/inline")), [Law::FinalState]);
    let small = charged("/inline").op(2, 200, 210, problem(409, "not-replayable"));
    assert_eq!(small.completed(7), [Law::NoContradiction]);
}

#[test]
fn the_record_tells_the_same_story() {
    let unseen = || {
        story("/detached")
            .op(1, 10, 50, End::Left)
            .runs("a", 1, 20, 90, 7, 1)
    };
    assert_eq!(unseen().completed(7), GOOD);
    assert_eq!(unseen().ends("executing", 7, None), [Law::FinalState]);
    assert_eq!(unseen().ends("absent", 0, None), [Law::FinalState]);
    assert_eq!(unseen().failed(7), [Law::FinalState]);
    assert_eq!(unseen().unknown(7), [Law::FinalState]);
    assert_eq!(unseen().completed(6), [Law::FinalState]);
    assert_eq!(unseen().completed(8), [Law::FinalState]);
    assert_eq!(
        unseen().ends("completed", 7, Some(200)),
        [Law::FinalState],
        "another status"
    );
    // Granted again and not forwarded, after an answer that allows it.
    let failed = story("/detached")
        .status(429)
        .op(1, 10, 100, End::Answer(answer("a", 429, false)))
        .runs("a", 1, 20, 90, 7, 1)
        .op(2, 200, 210, End::Left);
    assert_eq!(failed.failed(8), GOOD);
}

#[test]
fn a_history_that_is_not_whole() {
    assert_eq!(check(&[]).violations[0].law, Law::History);
    let mut cut = charged("/inline");
    cut.events
        .retain(|event| !matches!(event, Event::Over { .. }));
    let laws: Vec<_> = check(&cut.events)
        .violations
        .into_iter()
        .map(|violation| violation.law)
        .collect();
    assert!(laws.iter().all(|law| *law == Law::History), "{laws:?}");
    assert_eq!(laws.len(), 2, "no end, and no record");
    let stray = story("/inline").begins("a", 5, 20, 7, 1);
    assert_eq!(check(&stray.events).violations[0].law, Law::History);
}
