//! What takes more than one cell of the table to see.

use super::bench::*;
use crate::call::{Call, CallFailed};
use crate::clock::Moment;
use crate::profile::Profile;
use crate::stream::{Effect, Env, Event, Flow, Stream};
use idempotency_core::classify::Source;
use idempotency_core::problem::Problem;
use idempotency_protocol::*;

#[test]
fn observing_changes_nothing() {
    let mut bench = Bench::in_state(OBSERVE, "Observing");
    assert_eq!(bench.flow, Flow::Continue);
    bench.body_end();
    assert_eq!(
        squeeze(&bench.outcome()),
        "continue [call:acquire] Observing"
    );
    bench.granted();
    assert_eq!(squeeze(&bench.outcome()), "continue [track] Observing");
    bench.on(response("201", true));
    assert_eq!(
        squeeze(&bench.outcome()),
        "continue [untrack background:complete] Observing"
    );

    // The upstream may answer before the service does.
    let mut bench = Bench::in_state(OBSERVE, "Observing");
    bench.body_end().on(response("201", true));
    assert_eq!(squeeze(&bench.outcome()), "continue [] Observing");
    bench.granted();
    assert_eq!(
        squeeze(&bench.outcome()),
        "continue [track untrack background:complete] Observing"
    );

    // A duplicate is counted, and passes.
    for answer in [in_flight(), Ok(Answer::Mismatch), stored_response()] {
        let mut bench = Bench::in_state(OBSERVE, "Observing");
        bench.body_end().on(Event::Answer(answer));
        assert_eq!(squeeze(&bench.outcome()), "continue [] Observing");
        bench.on(response("201", true)).on(Event::Gone);
        assert_eq!(squeeze(&bench.outcome()), "continue [] Observing");
    }

    let mut bench = Bench::in_state(OBSERVE, "Observing");
    bench.body_end().granted().on(Event::Gone);
    assert_eq!(
        squeeze(&bench.outcome()),
        "continue [untrack background:abandon] Observing"
    );

    // The stream may be over before the service has answered.
    for (answer, whole, expected) in [
        (grant(), true, "[track untrack background:complete]"),
        (grant(), false, "[track untrack background:abandon]"),
        (
            Err(CallFailed::Unanswered),
            true,
            "[untrack background:complete]",
        ),
        (stored_response(), true, "[]"),
    ] {
        let mut bench = Bench::in_state(OBSERVE, "Observing");
        bench.body_end();
        if whole {
            bench.on(response("201", true));
        }
        bench.on(Event::Gone);
        assert_eq!(squeeze(&bench.outcome()), "continue [] Observing");
        assert!(bench.stream.lingers());
        bench.on(Event::Answer(answer));
        assert_eq!(
            squeeze(&bench.outcome()),
            format!("continue {expected} Observing")
        );
        assert!(!bench.stream.lingers());
    }
}

#[test]
fn a_grant_is_forwarded_only_inside_its_lease() {
    for policy in [INLINE, DETACHED] {
        let mut bench = Bench::in_state(policy, "Acquiring");
        bench.now_ns = START + 58_999 * MS;
        bench.granted();
        assert!(bench.outcome().contains("track"), "{}", bench.outcome());

        for late in [START + 59_000 * MS, START + 100_000 * MS, START - 1] {
            let mut bench = Bench::in_state(policy, "Acquiring");
            bench.now_ns = late;
            bench.granted();
            assert_eq!(
                squeeze(&bench.outcome()),
                "pause [background:fail reply:503] Answered",
                "{policy}, {late}"
            );
        }
    }
}

#[test]
fn a_waiter_gives_up_at_its_deadline_and_asks_with_a_new_owner() {
    let mut bench = Bench::in_state(WAITING, "Waiting");
    bench.pass(600);
    bench.on(Event::Answer(Ok(Answer::Changed)));
    let [Effect::Call(Call::Operation(operation))] = &bench.effects[..] else {
        panic!("{:?}", bench.effects)
    };
    let Operation::Acquire(acquire) = &**operation else {
        panic!("{operation:?}")
    };
    assert_eq!(acquire.owner, Owner([2; 16]));
    bench.on(Event::Answer(in_flight()));
    let wait = bench.effects.iter().find_map(|e| match e {
        Effect::Call(Call::Wait(wait)) => Some(wait.wait_ms),
        _ => None,
    });
    assert_eq!(wait, Some(400), "what is left of the first second");
    bench.pass(500);
    bench
        .on(Event::Answer(Ok(Answer::Changed)))
        .on(Event::Answer(in_flight()));
    assert_eq!(squeeze(&bench.outcome()), "pause [reply:409] Answered");
}

#[test]
fn the_piece_that_reaches_content_length_is_held_back() {
    let mut bench = Bench::in_state(INLINE, "Forwarded");
    bench.on(Event::ResponseHeaders {
        headers: headers(&[(":status", "200"), ("content-length", "70000")]),
        source: Source::Upstream,
        end: false,
    });
    let (first, last) = (vec![b'a'; 69_999], b"z");
    bench.on(Event::ResponseBody {
        chunk: &first,
        end: false,
    });
    assert_eq!(squeeze(&bench.outcome()), "continue [] Capturing");
    bench.on(Event::ResponseBody {
        chunk: last,
        end: false,
    });
    assert_eq!(squeeze(&bench.outcome()), "pause [] Capturing");
    bench.on(Event::ResponseBody {
        chunk: b"",
        end: true,
    });
    let complete = bench.effects.iter().find_map(|e| match e {
        Effect::Call(Call::Operation(operation)) => match &**operation {
            Operation::Complete(c) => Some((*c.outcome).clone()),
            _ => None,
        },
        _ => None,
    });
    let Some(Outcome::Response(response)) = complete else {
        panic!("{:?}", bench.effects)
    };
    assert_eq!(response.body.len(), 70_000);
}

#[test]
fn a_replay_carries_the_stored_bytes_the_marker_and_the_expiry() {
    let mut bench = Bench::in_state(INLINE, "Acquiring");
    bench.on(Event::Answer(stored_response()));
    let reply = bench.effects.iter().find_map(|e| match e {
        Effect::Reply(reply) => Some(reply),
        _ => None,
    });
    let reply = reply.unwrap();
    assert_eq!(reply.body, "hello");
    let text: Vec<String> = reply
        .headers
        .iter()
        .map(|(n, v)| {
            format!(
                "{}: {}",
                String::from_utf8_lossy(n),
                String::from_utf8_lossy(v)
            )
        })
        .collect();
    assert_eq!(
        text,
        [
            "content-type: text/plain",
            "Idempotency-Replayed: true",
            "age: 2",
            "idempotency-expires: @1700000000",
        ]
    );
}

#[test]
fn without_randomness_nothing_is_asked() {
    let mut bench = Bench::new(Profile::Envoy, INLINE);
    let mut stream = std::mem::replace(&mut bench.stream, Stream::passing());
    let mut effects = Vec::new();
    let mut none = || None;
    let mut env = Env {
        profile: Profile::Envoy,
        clock: &|_| Moment::default(),
        new_owner: &mut none,
        effects: &mut effects,
    };
    stream.on(
        Event::RequestBody {
            chunk: b"",
            end: true,
        },
        &mut env,
    );
    let misconfigured = Problem::Misconfigured.status();
    assert!(effects
        .iter()
        .any(|e| matches!(e, Effect::Reply(r) if r.status == misconfigured)));
    assert!(!effects.iter().any(|e| matches!(e, Effect::Call(_))));
}
