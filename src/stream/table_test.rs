//! Walks the table of states × events: for each cell, what the host is told, what is to be done,
//! and the state after it.

use super::{Effect, Env, Event, Flow, State, Stream};
use crate::call::{Call, CallFailed, CallResult};
use crate::classify::Source;
use crate::config::{self, Plan};
use crate::fingerprint::Hasher;
use crate::headers::Headers;
use crate::problem::Problem;
use crate::reply::LocalReply;
use crate::request::{Request, Settings};
use bytes::Bytes;
use idempotency_protocol::*;
use std::rc::Rc;

const START: u64 = 1_000_000_000_000;
const MS: u64 = 1_000_000;

/// A stream under test, with a clock that the test moves.
struct Bench {
    stream: Stream,
    now_ns: u64,
    owners: u8,
    effects: Vec<Effect>,
    flow: Flow,
}

fn plan(policy: &str) -> Plan {
    let text = format!(
        r#"{{"service": {{"target": "idempotency"}}, "detached": {{"cluster": "execution"}},
            "rules": [{{"name": "charges", "scope": "global", "max_body_bytes": 8,
                       "match": {{"path_prefix": "/charges"}}, {policy}}}]}}"#
    );
    config::parse(&text).unwrap()
}

fn headers(pairs: &[(&'static str, &'static str)]) -> Headers {
    pairs
        .iter()
        .map(|(n, v)| (Bytes::from(*n), Bytes::from(*v)))
        .collect()
}

impl Bench {
    /// A request whose headers have come and whose body has not.
    fn new(policy: &str) -> Bench {
        let settings = Rc::new(Settings::new(plan(policy)));
        let rule = Rc::clone(&settings.rules[0]);
        let request_headers = headers(&[
            (":method", "POST"),
            (":path", "/charges"),
            ("idempotency-key", "k1"),
        ]);
        let hasher = Hasher::new(
            &rule.policy.fingerprint,
            crate::fingerprint::scheme(&rule.policy.fingerprint),
            b"POST",
            "/charges",
            b"",
            b"",
            &request_headers.0,
        );
        let request = Request {
            settings,
            rule,
            tenant: String::new(),
            client_key: Some("k1".into()),
            method: "POST".into(),
            path: "/charges".into(),
            headers: request_headers,
        };
        let mut bench = Bench {
            stream: Stream::passing(),
            now_ns: START,
            owners: 0,
            effects: Vec::new(),
            flow: Flow::Continue,
        };
        let (stream, flow) = bench.with_env(|env| Stream::protect(request, hasher, false, env));
        bench.stream = stream;
        bench.flow = flow;
        bench
    }

    fn with_env<T>(&mut self, f: impl FnOnce(&mut Env) -> T) -> T {
        self.effects.clear();
        let mut owners = self.owners;
        let mut new_owner = || {
            owners += 1;
            Some(Owner([owners; 16]))
        };
        let mut env = Env {
            now_ns: self.now_ns,
            new_owner: &mut new_owner,
            effects: &mut self.effects,
        };
        let result = f(&mut env);
        self.owners = owners;
        result
    }

    fn on(&mut self, event: Event) -> &mut Self {
        let mut stream = std::mem::replace(&mut self.stream, Stream::passing());
        self.flow = self.with_env(|env| stream.on(event, env));
        self.stream = stream;
        self
    }

    fn body_end(&mut self) -> &mut Self {
        self.on(Event::RequestBody {
            chunk: b"{}",
            end: true,
        })
    }

    fn granted(&mut self) -> &mut Self {
        self.on(Event::Answer(grant()))
    }

    fn in_state(policy: &str, state: &str) -> Bench {
        let mut bench = Bench::new(policy);
        match state {
            "Passing" => bench.stream = Stream::passing(),
            "Answered" => bench.stream = Stream::answered(),
            "Hashing" | "Observing" => {}
            "Acquiring" => drop(bench.body_end()),
            "Waiting" => drop(bench.body_end().on(Event::Answer(in_flight()))),
            "Detached" | "Forwarded" => drop(bench.body_end().granted()),
            "Capturing" => drop(bench.body_end().granted().on(response("201", false))),
            "Capturing failed" => drop(bench.body_end().granted().on(response("401", false))),
            "Settling" => drop(bench.body_end().granted().on(response("201", true))),
            "Settling streamed" => drop(bench.body_end().granted().on(response("201", false)).on(
                Event::ResponseBody {
                    chunk: b"x",
                    end: true,
                },
            )),
            other => panic!("no such state: {other}"),
        }
        let reached = name(&bench.stream.state);
        assert!(
            state.starts_with(reached),
            "wanted {state}, reached {reached}"
        );
        bench
    }

    /// What the event led to, in one line.
    fn outcome(&self) -> String {
        let effects: Vec<String> = self.effects.iter().map(describe).collect();
        let flow = match self.flow {
            Flow::Continue => "continue",
            Flow::Pause => "pause",
        };
        format!(
            "{flow} [{}] {}",
            effects.join(" "),
            name(&self.stream.state)
        )
    }
}

fn name(state: &State) -> &'static str {
    match state {
        State::Passing => "Passing",
        State::Answered => "Answered",
        State::Hashing(_) => "Hashing",
        State::Acquiring(_) => "Acquiring",
        State::Waiting(_) => "Waiting",
        State::Detached => "Detached",
        State::Forwarded(_) => "Forwarded",
        State::Capturing(_) => "Capturing",
        State::Settling(_) => "Settling",
        State::Observing(_) => "Observing",
    }
}

/// Counters and warnings are left out: they change nothing for the client.
fn describe(effect: &Effect) -> String {
    match effect {
        Effect::Call(Call::Operation(operation)) => format!("call:{}", operation.name()),
        Effect::Call(Call::Wait(_)) => "call:wait".into(),
        Effect::Background(operation) => format!("background:{}", operation.name()),
        Effect::Execute(_) => "execute".into(),
        Effect::Track(_) => "track".into(),
        Effect::Untrack(_) => "untrack".into(),
        Effect::ChangeRequest(_) => "change".into(),
        Effect::ResumeRequest => "resume-request".into(),
        Effect::AddResponseHeader(_, _) => "add-header".into(),
        Effect::RemoveResponseHeader(_) => "remove-header".into(),
        Effect::ResumeResponse => "resume-response".into(),
        Effect::Reply(reply) => format!("reply:{}", reply.status),
        Effect::Reset => "reset".into(),
        Effect::Count(_) => String::new(),
        Effect::Warn(_) => String::new(),
    }
}

fn grant() -> CallResult {
    Ok(Answer::Granted(Grant {
        fence: 7,
        attempt: 1,
        lease_ms: 60_000,
    }))
}

fn in_flight() -> CallResult {
    Ok(Answer::InFlight {
        fence: 7,
        lease_left_ms: 1000,
    })
}

fn stored(outcome: Outcome) -> CallResult {
    let expires_at_ms = 1_700_000_000_000;
    Ok(Answer::Stored(Stored {
        outcome,
        fence: 7,
        attempt: 1,
        age_ms: 2500,
        expires_at_ms,
    }))
}

fn stored_response() -> CallResult {
    stored(Outcome::Response(StoredResponse {
        status: 201,
        headers: vec![("content-type".into(), "text/plain".into())],
        body: "hello".into(),
    }))
}

fn stored_with(status: u16, value: &'static str) -> CallResult {
    let headers = vec![("content-type".into(), value.into())];
    stored(Outcome::Response(StoredResponse {
        status,
        headers,
        body: Bytes::new(),
    }))
}

fn tombstone() -> CallResult {
    stored(Outcome::Tombstone(Tombstone {
        status: 200,
        reason: TombstoneReason::TooLarge,
    }))
}

fn fault(code: FaultCode) -> CallResult {
    Ok(Answer::Fault(Fault {
        code,
        detail: "test".into(),
    }))
}

fn completed() -> CallResult {
    Ok(Answer::Completed { expires_at_ms: 1 })
}

fn response(status: &'static str, end: bool) -> Event<'static> {
    Event::ResponseHeaders {
        headers: headers(&[(":status", status)]),
        source: Source::Upstream,
        end,
    }
}

fn reply() -> Event<'static> {
    Event::Executed(LocalReply {
        status: 201,
        headers: Vec::new(),
        body: Bytes::new(),
    })
}

fn squeeze(line: &str) -> String {
    line.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace("[ ", "[")
        .replace(" ]", "]")
}

fn walk(policy: &str, cells: Vec<(&str, &str, Event, &str)>) {
    for (state, event_name, event, expected) in cells {
        let mut bench = Bench::in_state(policy, state);
        bench.on(event);
        let outcome = squeeze(&bench.outcome());
        assert_eq!(
            outcome,
            squeeze(expected),
            "{state} × {event_name} under {policy}"
        );
    }
}

const INLINE: &str = r#""execution": "inline""#;
const DETACHED: &str = r#""execution": "detached""#;
const WAITING: &str = r#""execution": "inline", "wait_ms": 1000"#;
const WITHHOLD: &str = r#""execution": "inline", "on_complete_failure": "withhold""#;
const OPEN: &str = r#""execution": "inline", "on_service_failure": "pass""#;
const OBSERVE: &str = r#""execution": "inline", "mode": "observe""#;

#[test]
fn before_the_decision() {
    let body = |chunk: &'static [u8], end| Event::RequestBody { chunk, end };
    walk(
        INLINE,
        vec![
            ("Passing", "body", body(b"x", true), "continue [] Passing"),
            (
                "Passing",
                "response",
                response("200", true),
                "continue [] Passing",
            ),
            ("Passing", "gone", Event::Gone, "continue [] Passing"),
            ("Answered", "body", body(b"x", true), "continue [] Answered"),
            (
                "Answered",
                "answer",
                Event::Answer(grant()),
                "continue [] Answered",
            ),
            ("Answered", "executed", reply(), "continue [] Answered"),
            (
                "Answered",
                "own reply",
                response("409", true),
                "continue [] Answered",
            ),
            ("Answered", "gone", Event::Gone, "continue [] Answered"),
            (
                "Hashing",
                "more body",
                body(b"x", false),
                "pause [] Hashing",
            ),
            (
                "Hashing",
                "end of body",
                body(b"x", true),
                "pause [call:acquire] Acquiring",
            ),
            (
                "Hashing",
                "body at the cap",
                body(b"12345678", true),
                "pause [call:acquire] Acquiring",
            ),
            (
                "Hashing",
                "body over the cap",
                body(b"123456789", false),
                "pause [reply:413] Answered",
            ),
            (
                "Hashing",
                "trailers",
                Event::RequestTrailers(Headers::default()),
                "pause [call:acquire] Acquiring",
            ),
            (
                "Hashing",
                "no knob",
                Event::BodiesNeverCome,
                "pause [reply:503] Answered",
            ),
            (
                "Hashing",
                "host answered",
                response("408", false),
                "continue [] Answered",
            ),
            ("Hashing", "gone", Event::Gone, "continue [] Answered"),
        ],
    );
}

#[test]
fn the_decision() {
    let a = Event::Answer;
    for policy in [INLINE, DETACHED] {
        walk(
            policy,
            vec![
                (
                    "Acquiring",
                    "stored",
                    a(stored_response()),
                    "pause [reply:201] Answered",
                ),
                (
                    "Acquiring",
                    "tombstone",
                    a(tombstone()),
                    "pause [reply:409] Answered",
                ),
                (
                    "Acquiring",
                    "bad status",
                    a(stored_with(99, "a")),
                    "pause [reply:409] Answered",
                ),
                (
                    "Acquiring",
                    "CR LF",
                    a(stored_with(200, "a\r\nb")),
                    "pause [reply:409] Answered",
                ),
                (
                    "Acquiring",
                    "in flight",
                    a(in_flight()),
                    "pause [reply:409] Answered",
                ),
                (
                    "Acquiring",
                    "mismatch",
                    a(Ok(Answer::Mismatch)),
                    "pause [reply:422] Answered",
                ),
                (
                    "Acquiring",
                    "other scheme",
                    a(Ok(Answer::NotComparable)),
                    "pause [reply:409] Answered",
                ),
                (
                    "Acquiring",
                    "unknown",
                    a(Ok(Answer::UnknownOutcome { expires_at_ms: 1 })),
                    "pause [reply:409] Answered",
                ),
                (
                    "Acquiring",
                    "no capacity: nothing to take back",
                    a(fault(FaultCode::Capacity)),
                    "pause [reply:503] Answered",
                ),
                (
                    "Acquiring",
                    "store down",
                    a(fault(FaultCode::Unavailable)),
                    "pause [background:fail reply:503] Answered",
                ),
                (
                    "Acquiring",
                    "no answer",
                    a(Err(CallFailed)),
                    "pause [background:fail reply:503] Answered",
                ),
                (
                    "Acquiring",
                    "an answer to another question",
                    a(completed()),
                    "pause [background:fail reply:503] Answered",
                ),
                (
                    "Acquiring",
                    "gone",
                    Event::Gone,
                    "continue [background:fail] Answered",
                ),
                (
                    "Acquiring",
                    "host answered",
                    response("408", true),
                    "continue [background:fail] Answered",
                ),
                (
                    "Acquiring",
                    "empty last body call",
                    Event::RequestBody {
                        chunk: b"",
                        end: true,
                    },
                    "pause [] Acquiring",
                ),
            ],
        );
    }
    walk(
        INLINE,
        vec![(
            "Acquiring",
            "granted",
            a(grant()),
            "pause [track change resume-request] Forwarded",
        )],
    );
    walk(
        DETACHED,
        vec![(
            "Acquiring",
            "granted",
            a(grant()),
            "pause [track execute] Detached",
        )],
    );
    walk(
        OPEN,
        vec![(
            "Acquiring",
            "no answer, fail-open: keeps its owner",
            a(Err(CallFailed)),
            "pause [track change resume-request] Forwarded",
        )],
    );
    walk(
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
                "stored",
                a(stored_response()),
                "pause [reply:201] Answered",
            ),
            (
                "Waiting",
                "changed",
                a(Ok(Answer::Changed)),
                "pause [call:acquire] Acquiring",
            ),
            (
                "Waiting",
                "timed out",
                a(Ok(Answer::TimedOut)),
                "pause [reply:409] Answered",
            ),
            (
                "Waiting",
                "no answer",
                a(Err(CallFailed)),
                "pause [reply:409] Answered",
            ),
            (
                "Waiting",
                "never a grant",
                a(grant()),
                "pause [reply:409] Answered",
            ),
            ("Waiting", "gone", Event::Gone, "continue [] Answered"),
            (
                "Waiting",
                "host answered",
                response("408", true),
                "continue [] Answered",
            ),
        ],
    );
}

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
        source: Source::from_details(Some(details.as_bytes())),
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
    let a = Event::Answer;
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
                a(Err(CallFailed)),
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
                a(Err(CallFailed)),
                "pause [background:complete reply:503] Answered",
            ),
            (
                "Settling streamed",
                "no answer",
                a(Err(CallFailed)),
                "pause [background:complete reset] Answered",
            ),
        ],
    );
}

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
        (Err(CallFailed), true, "[untrack background:complete]"),
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
    bench.now_ns += 600 * MS;
    bench.on(Event::Answer(Ok(Answer::Changed)));
    let [Effect::Call(Call::Operation(Operation::Acquire(acquire)))] = &bench.effects[..] else {
        panic!("{:?}", bench.effects)
    };
    assert_eq!(acquire.owner, Owner([2; 16]));
    bench.on(Event::Answer(in_flight()));
    let wait = bench.effects.iter().find_map(|e| match e {
        Effect::Call(Call::Wait(wait)) => Some(wait.wait_ms),
        _ => None,
    });
    assert_eq!(wait, Some(400), "what is left of the first second");
    bench.now_ns += 500 * MS;
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
        Effect::Call(Call::Operation(Operation::Complete(c))) => Some(c.outcome.clone()),
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
    let mut bench = Bench::new(INLINE);
    let mut stream = std::mem::replace(&mut bench.stream, Stream::passing());
    let mut effects = Vec::new();
    let mut none = || None;
    let mut env = Env {
        now_ns: START,
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
