//! What a stream does with what another gateway of ours has sent.

use super::bench::*;
use crate::call::{Call, CallFailed, CallResult};
use crate::forward::HeaderChange;
use crate::profile::Profile;
use crate::stream::{Effect, Event};
use idempotency_core::fingerprint::{self, Hasher};
use idempotency_core::hop::{self, Carried, MayBe};
use idempotency_core::reply::LocalReply;
use idempotency_core::request::{Identity, Request};
use idempotency_core::upstream::{record_query, ATTEMPT, FENCE, PROOF, RECORD};
use idempotency_protocol::*;

const GRANT: Grant = Grant {
    fence: 7,
    attempt: 2,
    lease_ms: 60_000,
};

/// The request whose body is `{}`, as the outer gateway sends it under [`GRANT`].
fn relayed(request: &Request) -> Vec<(&'static str, String)> {
    let policy = &request.policy().fingerprint;
    let scheme = fingerprint::scheme(policy);
    let (path, headers) = (request.path.as_str(), &request.headers.0);
    let mut hasher = Hasher::new(policy, scheme, b"POST", path, b"", b"", headers);
    hasher.update(b"{}");
    let Identity::Known(key, fingerprint) = request.identify(hasher) else {
        panic!("the request has a key");
    };
    let proof = request.prove(&key, &fingerprint, &GRANT).unwrap();
    vec![
        (FENCE, GRANT.fence.to_string()),
        (ATTEMPT, GRANT.attempt.to_string()),
        (RECORD, record_query(&key)),
        (PROOF, String::from_utf8(proof.to_vec()).unwrap()),
    ]
}

fn carried(fields: &[(&'static str, String)]) -> Option<Box<Carried>> {
    let fields = fields.iter();
    let fields = fields.map(|(n, v)| ((*n).into(), v.clone().into()));
    Some(Carried::of(&fields.collect()))
}

/// A request with such a proof, whose body has come.
fn shown(profile: Profile, policy: &str) -> Bench {
    let mut bench = Bench::carrying(profile, policy, |request| carried(&relayed(request)));
    bench.body_end();
    assert_eq!(squeeze(&bench.outcome()), "pause [call:redeem] Redeeming");
    bench
}

fn redeemed(lease_left_ms: u64) -> CallResult {
    Ok(Answer::Redeemed { lease_left_ms })
}

fn reply(bench: &Bench) -> &LocalReply {
    let replies = bench.effects.iter().filter_map(|effect| match effect {
        Effect::Reply(reply) => Some(reply),
        _ => None,
    });
    replies.last().expect("a reply")
}

/// What the outer gateway reads in a reply.
fn read_outside(reply: &LocalReply) -> Option<MayBe> {
    let headers = reply.headers.iter().cloned().collect();
    let key = LookupKey {
        tenant: String::new(),
        namespace: String::new(),
        origin: Origin::Client,
        key: "k1".into(),
    };
    hop::refusal(&headers, &key, GRANT.fence)
}

#[test]
fn what_is_redeemed_goes_on_under_the_other_gateway_s_names() {
    for policy in [INLINE, DETACHED] {
        for profile in [Profile::Envoy, Profile::Kong] {
            let mut bench = shown(profile, policy);
            let [Effect::Call(Call::Operation(operation))] = &bench.effects[..] else {
                panic!("{:?}", bench.effects)
            };
            let Operation::Redeem(redeem) = &**operation else {
                panic!("{operation:?}")
            };
            // The proof ends a margin before the lease, counted from the fence.
            assert_eq!((redeem.fence, redeem.expires_at_ms), (7, 59_000));
            bench.on(Event::Answer(redeemed(60_000)));
            assert_eq!(
                squeeze(&bench.outcome()),
                "pause [change resume-request] Answered",
                "{policy}"
            );
            let changes = bench.effects.iter().find_map(|effect| match effect {
                Effect::ChangeRequest(changes) => Some(changes.clone()),
                _ => None,
            });
            let changes = changes.unwrap();
            let set = |name: &'static str, value: &'static str| {
                changes.contains(&HeaderChange::Set(name.into(), value.into()))
            };
            assert!(set(FENCE, "7") && set(ATTEMPT, "2"), "{changes:?}");
            assert_eq!(set("x-envoy-max-retries", "0"), profile == Profile::Envoy);
            // Nothing of the proof is left, where anything could be.
            assert_eq!(set(PROOF, "spent"), profile == Profile::Kong);
            // The answer is the other gateway's affair.
            bench.on(response("201", false));
            assert_eq!(squeeze(&bench.outcome()), "continue [] Answered");
        }
    }
}

#[test]
fn a_redeemed_request_is_not_forwarded_after_its_lease() {
    let mut bench = shown(Profile::Envoy, INLINE);
    bench.now_ns = START + 100_000 * MS;
    bench.on(Event::Answer(redeemed(60_000)));
    assert_eq!(squeeze(&bench.outcome()), "pause [reply:503] Answered");
    assert_eq!(read_outside(reply(&bench)), Some(MayBe::NotExecuted));
}

#[test]
fn a_copy_may_have_been_executed_and_says_so() {
    for (answer, status) in [
        (Ok(Answer::Spent), 409),
        (fault(FaultCode::Unavailable), 503),
        (fault(FaultCode::Internal), 503),
        (Err(CallFailed::Unanswered), 503),
        (Err(CallFailed::Status(503)), 503),
    ] {
        // A rule that lets requests pass in an outage does not let a second copy pass.
        for policy in [INLINE, OPEN] {
            let mut bench = shown(Profile::Envoy, policy);
            bench.on(Event::Answer(answer.clone()));
            let expected = format!("pause [reply:{status}] Answered");
            assert_eq!(squeeze(&bench.outcome()), expected, "{answer:?}");
            assert_eq!(read_outside(reply(&bench)), Some(MayBe::Executed));
        }
    }
}

#[test]
fn what_the_store_does_not_know_is_a_client_s_request() {
    for answer in [Ok(Answer::Lost), fault(FaultCode::Invalid)] {
        let mut bench = shown(Profile::Envoy, INLINE);
        bench.on(Event::Answer(answer));
        assert_eq!(squeeze(&bench.outcome()), "pause [call:acquire] Acquiring");
        bench.granted();
        assert_eq!(
            squeeze(&bench.outcome()),
            "pause [track change resume-request] Forwarded"
        );
    }
}

/// It would wait for itself.
#[test]
fn a_request_that_meets_its_own_lock_is_refused_at_once() {
    let alter = |at: usize| {
        move |request: &Request| {
            let mut fields = relayed(request);
            fields[at].1.push('0');
            carried(&fields)
        }
    };
    // A proof that does not verify: altered itself, or the number of the attempt.
    for at in [1, 3] {
        let mut bench = Bench::carrying(Profile::Envoy, WAITING, alter(at));
        bench.body_end();
        assert_eq!(squeeze(&bench.outcome()), "pause [call:acquire] Acquiring");
        bench.on(Event::Answer(in_flight()));
        assert_eq!(squeeze(&bench.outcome()), "pause [reply:503] Answered");
        assert_eq!(read_outside(reply(&bench)), Some(MayBe::NotExecuted));

        // In Kong, it cannot be removed.
        let mut bench = Bench::carrying(Profile::Kong, WAITING, alter(at));
        bench.body_end();
        assert_eq!(squeeze(&bench.outcome()), "pause [reply:400] Answered");
    }
    // Another one's lock is worth the wait.
    let mut bench = Bench::carrying(Profile::Envoy, WAITING, alter(0));
    bench.body_end().on(Event::Answer(in_flight()));
    assert_eq!(squeeze(&bench.outcome()), "pause [call:wait] Waiting");
}

#[test]
fn what_ends_while_a_proof_is_shown_leaves_nothing_behind() {
    for event in [Event::Gone, response("408", true)] {
        let mut bench = shown(Profile::Envoy, INLINE);
        bench.on(event);
        assert_eq!(squeeze(&bench.outcome()), "continue [] Answered");
    }
    let mut bench = shown(Profile::Kong, INLINE);
    bench.on(Event::UnannouncedBody);
    assert_eq!(squeeze(&bench.outcome()), "pause [reply:411] Answered");
}

/// The marks of a gateway behind this one, on the answer to an execution.
#[test]
fn a_refusal_of_this_very_request_is_not_stored() {
    let mark = |executed| {
        let names = [
            (FENCE, "7".to_owned()),
            (RECORD, "tenant=&namespace=&key=k1".to_owned()),
        ];
        carried(&names).unwrap().mark(executed)
    };
    let answer = |(name, value)| {
        let mut headers = headers(&[(":status", "409")]);
        headers.0.push((name, value));
        Event::ResponseHeaders {
            headers,
            source: idempotency_core::classify::Source::Upstream,
            end: true,
        }
    };
    for (executed, expected) in [
        (MayBe::NotExecuted, "call:fail"),
        (MayBe::Executed, "call:abandon"),
    ] {
        let mut bench = Bench::in_state(INLINE, "Forwarded");
        bench.on(answer(mark(executed)));
        let expected = format!("pause [remove-header untrack {expected}] Settling");
        assert_eq!(squeeze(&bench.outcome()), expected);
    }
    // Of somebody else's.
    let mut bench = Bench::in_state(INLINE, "Forwarded");
    bench.on(answer((hop::REFUSAL.into(), "not-executed 00".into())));
    assert_eq!(
        squeeze(&bench.outcome()),
        "pause [remove-header untrack call:complete] Settling"
    );
}
