//! Histories written by hand, good and bad.

use super::{check, Law};
use crate::clock::{MS, SECOND};
use crate::history::{
    Answer, End, Event, FaultBegins, FaultKind, Invoke, Record, Return, Run, Stall, Started,
    Target, OP_HEADER, TENANT_HEADER,
};
use crate::workload::{Behaviour, Reset, Rules};

/// Index of the rule with this path.
fn rule(path: &str) -> usize {
    let rules = Rules::with_lease(5_000).rules;
    rules.iter().position(|rule| rule.path == path).unwrap()
}

/// A history under construction. Times are milliseconds; operations are numbered from 1, and each
/// is on the key `k` of the tenant `t` unless it says otherwise.
struct Story {
    events: Vec<Event>,
    rule: usize,
    payload: &'static str,
    moved: bool,
    tenant: &'static str,
    behaviour: Behaviour,
    gateway: usize,
    tombstone: bool,
}

fn story(path: &str) -> Story {
    let rules = Rules::with_lease(5_000);
    let run = Run {
        seed: 1,
        store: "redis".into(),
        gateways: 2,
        services: 2,
        lease_ms: rules.lease_ms,
        rules: rules.rules,
        at: 0,
    };
    Story {
        events: vec![Event::Run(run)],
        rule: rule(path),
        payload: "p",
        moved: false,
        tenant: "t",
        behaviour: Behaviour::created(),
        gateway: 0,
        tombstone: false,
    }
}

fn problem(status: u16, name: &str) -> End {
    End::Answer(Answer {
        status,
        id: None,
        replayed: false,
        problem: Some(name.into()),
        retry_after: matches!(
            name,
            "in-flight" | "store-unavailable" | "outcome-unrecorded"
        ),
        body: "b".into(),
        headers: "h".into(),
    })
}

fn answer(id: &str, status: u16, replayed: bool) -> Answer {
    Answer {
        status,
        id: Some(id.into()),
        replayed,
        problem: None,
        retry_after: false,
        body: format!("body of {id}"),
        headers: format!("headers of {id}"),
    }
}

fn first(id: &str) -> End {
    End::Answer(answer(id, 201, false))
}

fn replay(id: &str) -> End {
    End::Answer(answer(id, 201, true))
}

fn of_envoy(status: u16) -> End {
    End::Answer(Answer {
        id: None,
        ..answer("", status, false)
    })
}

impl Story {
    fn payload(mut self, payload: &'static str) -> Self {
        self.payload = payload;
        self
    }

    fn moved(mut self, moved: bool) -> Self {
        self.moved = moved;
        self
    }

    fn tenant(mut self, tenant: &'static str) -> Self {
        self.tenant = tenant;
        self
    }

    fn behaves(mut self, behaviour: Behaviour) -> Self {
        self.behaviour = behaviour;
        self
    }

    fn status(self, status: u16) -> Self {
        self.behaves(Behaviour::answering(status))
    }

    /// A client asks from then until then.
    fn op(mut self, op: u64, from: u64, to: u64, end: End) -> Self {
        self.events.push(Event::Invoke(Invoke {
            op,
            at: from * MS,
            gateway: self.gateway,
            rule: self.rule,
            tenant: self.tenant.into(),
            key: "k".into(),
            payload: self.payload.into(),
            moved: self.moved,
            behaviour: self.behaviour.clone(),
            leaves_after: None,
        }));
        self.events.push(Event::Return(Return {
            op,
            at: to * MS,
            end,
        }));
        self
    }

    /// The upstream executes that operation's request from then until then.
    fn runs(self, id: &str, op: u64, from: u64, to: u64, fence: u64, attempt: u64) -> Self {
        let mut story = self.begins(id, op, from, fence, attempt);
        story.events.push(Event::Finished {
            id: id.into(),
            at: to * MS,
        });
        story
    }

    /// The same without an end.
    fn begins(mut self, id: &str, op: u64, from: u64, fence: u64, attempt: u64) -> Self {
        self.events.push(Event::Started(Started {
            id: id.into(),
            at: from * MS,
            path: Rules::with_lease(5_000).rules[self.rule].target(self.moved),
            key: match Rules::with_lease(5_000).rules[self.rule].hooks {
                true => "\"k\"".into(),
                false => "k".into(),
            },
            fence: Some(fence.to_string()),
            attempt: Some(attempt.to_string()),
            body_sha256: self.payload.into(),
            headers: [
                (OP_HEADER.to_owned(), op.to_string()),
                (TENANT_HEADER.to_owned(), self.tenant.to_owned()),
            ]
            .into(),
        }));
        self
    }

    fn fault(mut self, target: Target, kind: FaultKind, from: u64, to: u64) -> Self {
        let fault = self.events.len() as u64;
        self.events.push(Event::FaultBegins(FaultBegins {
            fault,
            at: from * MS,
            target,
            kind,
        }));
        self.events.push(Event::FaultEnds { fault, at: to * MS });
        self
    }

    fn outage(self, from: u64, to: u64) -> Self {
        self.fault(Target::Store, FaultKind::Kill, from, to)
    }

    fn stall(mut self, part: Option<Target>, from: u64, to: u64) -> Self {
        self.events.push(Event::Stall(Stall {
            from: from * MS,
            to: to * MS,
            part,
        }));
        self
    }

    /// What broke, when the record was this after 60 s.
    fn ends(mut self, state: &str, fence: u64, status: Option<u16>) -> Vec<Law> {
        self.events.push(Event::Record(Record {
            at: 60 * SECOND,
            tenant: self.tenant.into(),
            key: "k".into(),
            state: state.into(),
            fence,
            status,
            tombstone: self.tombstone,
        }));
        self.events.push(Event::Over { at: 70 * SECOND });
        let verdict = check(&self.events);
        let mut laws: Vec<_> = verdict.violations.iter().map(|v| v.law).collect();
        laws.sort_unstable();
        laws.dedup();
        laws
    }

    fn completed(self, fence: u64) -> Vec<Law> {
        self.ends("completed", fence, Some(201))
    }

    fn unknown(self, fence: u64) -> Vec<Law> {
        self.ends("unknown", fence, None)
    }

    fn failed(self, fence: u64) -> Vec<Law> {
        self.ends("failed", fence, None)
    }
}

const GOOD: [Law; 0] = [];

/// One execution, answered at 100 ms.
fn charged(path: &str) -> Story {
    story(path)
        .op(1, 10, 100, first("a"))
        .runs("a", 1, 20, 90, 7, 1)
}

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
