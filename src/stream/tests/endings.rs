//! The service is told in one and the same way how an execution ended, however it was executed: inline,
//! detached or observed, in Envoy or in Kong.

use super::bench::*;
use crate::call::Call;
use crate::execution::{Executed, Execution};
use crate::profile::Profile;
use crate::stream::{Effect, Event};
use idempotency_core::classify::Source;
use idempotency_protocol::*;

/// How a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Trailers,
    /// A piece of it cannot be read.
    Unreadable,
    /// In the middle.
    Cut,
    /// Before there is a response.
    Nothing,
}

const INLINE: &str = r#""execution": "inline", "max_response_bytes": 5"#;
const DETACHED: &str = r#""execution": "detached", "max_response_bytes": 5"#;
const OBSERVE: &str = r#""execution": "inline", "mode": "observe", "max_response_bytes": 5"#;

fn told(effects: &[Effect]) -> Vec<String> {
    let operations = effects.iter().filter_map(|effect| match effect {
        Effect::Call(Call::Operation(operation)) => Some(&**operation),
        Effect::Background(operation) => Some(&**operation),
        _ => None,
    });
    operations.map(describe_operation).collect()
}

fn describe_operation(operation: &Operation) -> String {
    match operation {
        Operation::Complete(complete) => match &*complete.outcome {
            Outcome::Response(r) => format!("{} {:?}", r.status, r.body),
            Outcome::Tombstone(t) => format!("{} {:?}", t.status, t.reason),
        },
        other => other.name().to_owned(),
    }
}

/// Through the stream: inline, or observed.
fn through(
    profile: Profile,
    policy: &str,
    status: &'static str,
    source: &Source,
    body: &[u8],
    end: End,
) -> Vec<String> {
    let mut bench = Bench::in_state_on(profile, policy, start_of(policy));
    if policy == OBSERVE {
        bench.body_end().granted();
    }
    if end == End::Nothing {
        bench.on(Event::Gone);
        return told(&bench.effects);
    }
    bench.on(Event::ResponseHeaders {
        headers: headers(&[(":status", status)]),
        source: source.clone(),
        end: false,
    });
    assert_eq!(told(&bench.effects), [""; 0], "not before its end");
    let (first, second) = body.split_at(body.len() / 2);
    bench.on(Event::ResponseBody {
        chunk: first,
        end: false,
    });
    if end == End::Unreadable {
        bench.on(Event::Unreadable);
    }
    assert_eq!(told(&bench.effects), [""; 0], "not before its end");
    match end {
        End::Cut => bench.on(Event::Gone),
        End::Trailers => {
            bench.on(Event::ResponseBody {
                chunk: second,
                end: false,
            });
            bench.on(Event::ResponseTrailers)
        }
        _ => bench.on(Event::ResponseBody {
            chunk: second,
            end: true,
        }),
    };
    let first = told(&bench.effects);
    bench.on(Event::Gone);
    assert_eq!(told(&bench.effects), [""; 0], "not twice");
    first
}

fn start_of(policy: &str) -> &'static str {
    match policy {
        OBSERVE => "Observing",
        _ => "Forwarded",
    }
}

fn detached(status: &'static str, source: &Source, body: &'static [u8], end: End) -> Vec<String> {
    let mut bench = Bench::in_state(DETACHED, "Acquiring");
    bench.granted();
    let mut execute = bench.effects.iter().filter_map(|effect| match effect {
        Effect::Execute(execute) => Some(execute),
        _ => None,
    });
    let execute = execute.next().expect("an execution");
    let (request, lease) = (execute.request.clone(), execute.lease.clone());
    let mut execution = Execution::new(request, lease, 1);
    let mark = match source {
        Source::Upstream => ("x-idempotency-upstream", "1"),
        Source::Unsent => ("x-idempotency-gateway-reply", "no_healthy_upstream"),
        Source::Doubtful => ("x-idempotency-gateway-reply", "response_timeout"),
    };
    let executed = match end {
        End::Nothing => Executed::Cut,
        _ => Executed::Answered {
            headers: headers(&[(":status", status), mark]),
            body: body.into(),
            trailers: end == End::Trailers,
        },
    };
    let mut effects = Vec::new();
    let operation = execution.executed(executed, &mut effects);
    effects.retain(|effect| !matches!(effect, Effect::Note(_)));
    assert!(
        matches!(effects[..], [Effect::Untrack(_)]),
        "renewed no more: {effects:?}"
    );
    vec![describe_operation(&operation)]
}

#[test]
fn every_way_of_execution_tells_an_ending_in_the_same_way() {
    use End::*;
    use Source::*;
    for (status, source, body, end, expected) in [
        ("201", Upstream, "hello", Whole, "201 b\"hello\""),
        ("404", Upstream, "no", Whole, "404 b\"no\""),
        ("201", Upstream, "too long", Whole, "201 TooLarge"),
        ("201", Upstream, "hello", Trailers, "201 Trailers"),
        ("201", Upstream, "hello", Unreadable, "201 NotStorable"),
        ("201", Upstream, "hello", Cut, "abandon"),
        ("401", Upstream, "who?", Whole, "fail"),
        ("401", Upstream, "who?", Trailers, "fail"),
        ("401", Upstream, "who?", Unreadable, "fail"),
        // The status is proof, half an answer as it is.
        ("401", Upstream, "who?", Cut, "fail"),
        ("500", Upstream, "oh", Whole, "abandon"),
        ("500", Upstream, "oh", Cut, "abandon"),
        ("503", Unsent, "none", Whole, "fail"),
        ("503", Unsent, "none", Cut, "fail"),
        ("504", Doubtful, "late", Whole, "abandon"),
        ("201", Doubtful, "?", Whole, "abandon"),
        ("201", Upstream, "hello", Nothing, "abandon"),
    ] {
        let row = format!("{status} {source:?} {body:?} {end:?}");
        let bytes = body.as_bytes();
        for profile in [Profile::Envoy, Profile::Kong] {
            for policy in [INLINE, OBSERVE] {
                let told = through(profile, policy, status, &source, bytes, end);
                assert_eq!(told, [expected], "{row} {profile:?} {policy}");
            }
        }
        // What is cut off or unreadable there is no answer at all.
        if !matches!(end, Unreadable | Cut) {
            let told = detached(status, &source, bytes, end);
            assert_eq!(told, [expected], "{row} detached");
        }
    }
}

/// The client of an execution that was cut gets a document of ours in place of the host's bare error.
#[test]
fn an_execution_that_is_cut_is_told_to_its_own_client() {
    let gateway = |status: &'static str, source: Source| Event::ResponseHeaders {
        headers: headers(&[(":status", status), ("content-length", "95")]),
        source,
        end: false,
    };
    let body = || Event::ResponseBody {
        chunk: &[b'x'; 95],
        end: true,
    };
    let abandoned = || {
        let key = LookupKey {
            tenant: String::new(),
            namespace: String::new(),
            origin: Origin::Client,
            key: "k1".into(),
        };
        let owner = Owner([1; 16]);
        let operation = Operation::Abandon { key, owner };
        Event::Settled(Box::new(operation), Ok(Answer::Abandoned))
    };
    for (status, source, expected) in [
        ("503", Source::Doubtful, "reply:502"),
        ("502", Source::Doubtful, "reply:502"),
        ("504", Source::Doubtful, "reply:504"),
        // What an upstream answers is its own affair, and so is a local success.
        ("503", Source::Upstream, "resume-response"),
        ("200", Source::Doubtful, "resume-response"),
    ] {
        let mut bench = Bench::in_state(INLINE, "Forwarded");
        bench.on(gateway(status, source.clone()));
        assert_eq!(squeeze(&bench.outcome()), "pause [] Capturing");
        bench.on(body());
        assert_eq!(
            squeeze(&bench.outcome()),
            "pause [untrack call:abandon] Settling"
        );
        bench.on(abandoned());
        assert_eq!(
            squeeze(&bench.outcome()),
            format!("pause [{expected}] Answered"),
            "{status} {source:?}"
        );
    }
    // A rule that executes again says so.
    for (policy, retryable) in [(INLINE, "false"), (AGAIN, "true")] {
        let mut bench = Bench::in_state(policy, "Forwarded");
        bench
            .on(gateway("503", Source::Doubtful))
            .on(body())
            .on(abandoned());
        let [Effect::Count(_), Effect::Reply(reply)] = &bench.effects[..] else {
            panic!("{:?}", bench.effects)
        };
        let text = String::from_utf8_lossy(&reply.body);
        let told = format!(r#""retryable":{retryable},"reuse_key":true"#);
        assert!(
            text.contains("outcome-unknown") && text.contains(&told),
            "{text}"
        );
        let again = reply
            .headers
            .iter()
            .any(|(n, _)| n.as_ref() == b"retry-after");
        assert_eq!(again, policy == AGAIN);
    }
}
