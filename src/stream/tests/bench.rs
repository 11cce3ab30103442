//! Brings a stream into each state, and says in one line what an event led to.

use crate::call::{Call, CallResult};
use crate::clock::SteadyClock;
use crate::profile::Profile;
use crate::settings::Settings;
use crate::stream::{Effect, Env, Event, Flow, State, Stream};
use bytes::Bytes;
use idempotency_core::classify::Source;
use idempotency_core::config::{self, Plan};
use idempotency_core::fingerprint::Hasher;
use idempotency_core::headers::Headers;
use idempotency_core::hop::Carried;
use idempotency_core::reply::LocalReply;
use idempotency_core::request::Request;
use idempotency_protocol::*;
use std::sync::Arc;

pub(super) const START: u64 = 1_000_000_000_000;
pub(super) const MS: u64 = 1_000_000;

/// A stream under test, with a time of day that the test moves.
pub(super) struct Bench {
    pub(super) profile: Profile,
    pub(super) stream: Stream,
    pub(super) now_ns: u64,
    clock: SteadyClock,
    pub(super) owners: u8,
    pub(super) effects: Vec<Effect>,
    pub(super) flow: Flow,
}

/// With the key of gateways in one path; nothing comes of it where a request carries nothing.
pub(super) fn plan(policy: &str) -> Plan {
    let text = format!(
        r#"{{"service": {{"target": "idempotency"}}, "detached": {{"cluster": "execution"}},
            "hop": {{"key": "the-key-of-the-bench"}},
            "rules": [{{"name": "charges", "scope": "global", "max_body_bytes": 8,
                       "match": {{"path_prefix": "/charges"}}, {policy}}}]}}"#
    );
    config::parse(&text).unwrap()
}

pub(super) fn headers(pairs: &[(&'static str, &'static str)]) -> Headers {
    pairs
        .iter()
        .map(|(n, v)| (Bytes::from(*n), Bytes::from(*v)))
        .collect()
}

impl Bench {
    /// A request whose headers have come and whose body has not.
    pub(super) fn new(profile: Profile, policy: &str) -> Bench {
        Bench::carrying(profile, policy, |_| None)
    }

    /// The same, with what it carries of another gateway.
    pub(super) fn carrying(
        profile: Profile,
        policy: &str,
        carried: impl FnOnce(&Request) -> Option<Box<Carried>>,
    ) -> Bench {
        let settings = Settings::new(plan(policy), profile).core;
        let rule = Arc::clone(&settings.rules()[0]);
        let request_headers = headers(&[
            (":method", "POST"),
            (":path", "/charges"),
            ("idempotency-key", "k1"),
        ]);
        let hasher = Hasher::new(
            &rule.policy.fingerprint,
            idempotency_core::fingerprint::scheme(&rule.policy.fingerprint),
            b"POST",
            "/charges",
            b"",
            b"",
            &request_headers.0,
        );
        let mut request = Request {
            settings,
            rule,
            tenant: String::new(),
            client_key: Some("k1".into()),
            method: "POST".into(),
            path: "/charges".into(),
            headers: request_headers,
            carried: None,
            client: Bytes::new(),
            request_id: Bytes::new(),
        };
        request.carried = carried(&request);
        let mut bench = Bench {
            profile,
            stream: Stream::passing(),
            now_ns: START,
            clock: SteadyClock::default(),
            owners: 0,
            effects: Vec::new(),
            flow: Flow::Continue,
        };
        let (stream, flow) =
            bench.with_env(|env| Stream::protect(Arc::new(request), Box::new(hasher), None, env));
        bench.stream = stream;
        bench.flow = flow;
        bench
    }

    pub(super) fn with_env<T>(&mut self, f: impl FnOnce(&mut Env) -> T) -> T {
        self.effects.clear();
        let now = self.clock.look(self.now_ns);
        let mut owners = self.owners;
        let mut new_owner = || {
            owners += 1;
            Some(Owner([owners; 16]))
        };
        let mut env = Env {
            profile: self.profile,
            clock: &|_| now,
            new_owner: &mut new_owner,
            effects: &mut self.effects,
        };
        let result = f(&mut env);
        self.owners = owners;
        result
    }

    /// Time passes, and the root's tick looks at the clock meanwhile.
    pub(super) fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.now_ns += 50 * MS;
            self.clock.look(self.now_ns);
        }
    }

    pub(super) fn on(&mut self, event: Event) -> &mut Self {
        let mut stream = std::mem::replace(&mut self.stream, Stream::passing());
        self.flow = self.with_env(|env| stream.on(event, env));
        self.stream = stream;
        self
    }

    pub(super) fn body_end(&mut self) -> &mut Self {
        self.on(Event::RequestBody {
            chunk: b"{}",
            end: true,
        })
    }

    pub(super) fn granted(&mut self) -> &mut Self {
        self.on(Event::Answer(grant()))
    }

    pub(super) fn in_state(policy: &str, state: &str) -> Bench {
        Bench::in_state_on(Profile::Envoy, policy, state)
    }

    pub(super) fn in_state_on(profile: Profile, policy: &str, state: &str) -> Bench {
        let mut bench = Bench::new(profile, policy);
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
    pub(super) fn outcome(&self) -> String {
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

pub(super) fn name(state: &State) -> &'static str {
    match state {
        State::Passing => "Passing",
        State::Answered => "Answered",
        State::Hashing(_) => "Hashing",
        State::Acquiring(_) => "Acquiring",
        State::Redeeming(_) => "Redeeming",
        State::Waiting(_) => "Waiting",
        State::Detached => "Detached",
        State::Forwarded(_) => "Forwarded",
        State::Capturing(_) => "Capturing",
        State::Settling(_) => "Settling",
        State::Observing(_) => "Observing",
    }
}

/// Counters and warnings are left out: they change nothing for the client.
pub(super) fn describe(effect: &Effect) -> String {
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
        Effect::Count(_) | Effect::CountRule(..) | Effect::Note(_) => String::new(),
    }
}

pub(super) fn grant() -> CallResult {
    Ok(Answer::Granted(Grant {
        fence: 7,
        attempt: 1,
        lease_ms: 60_000,
    }))
}

pub(super) fn in_flight() -> CallResult {
    Ok(Answer::InFlight {
        fence: 7,
        lease_left_ms: 1000,
    })
}

pub(super) fn stored(outcome: Outcome) -> CallResult {
    let expires_at_ms = 1_700_000_000_000;
    Ok(Answer::Stored(Stored {
        outcome: outcome.into(),
        fence: 7,
        attempt: 1,
        age_ms: 2500,
        expires_at_ms,
    }))
}

pub(super) fn stored_response() -> CallResult {
    stored(Outcome::Response(StoredResponse {
        status: 201,
        headers: vec![("content-type".into(), "text/plain".into())],
        body: "hello".into(),
    }))
}

pub(super) fn stored_with(status: u16, value: &'static str) -> CallResult {
    let headers = vec![("content-type".into(), value.into())];
    stored(Outcome::Response(StoredResponse {
        status,
        headers,
        body: Bytes::new(),
    }))
}

pub(super) fn tombstone() -> CallResult {
    stored(Outcome::Tombstone(Tombstone {
        status: 200,
        reason: TombstoneReason::TooLarge,
    }))
}

pub(super) fn fault(code: FaultCode) -> CallResult {
    Ok(Answer::Fault(Fault {
        code,
        detail: "test".into(),
    }))
}

pub(super) fn completed() -> CallResult {
    Ok(Answer::Completed { expires_at_ms: 1 })
}

/// The answer to a complete.
pub(super) fn settled(result: CallResult) -> Event<'static> {
    let key = LookupKey {
        tenant: String::new(),
        namespace: String::new(),
        origin: Origin::Client,
        key: "k1".into(),
    };
    let outcome = Outcome::Tombstone(Tombstone {
        status: 201,
        reason: TombstoneReason::TooLarge,
    });
    let complete = Complete {
        key,
        owner: Owner([1; 16]),
        outcome: outcome.into(),
    };
    Event::Settled(Box::new(Operation::Complete(complete)), result)
}

pub(super) fn response(status: &'static str, end: bool) -> Event<'static> {
    Event::ResponseHeaders {
        headers: headers(&[(":status", status)]),
        source: Source::Upstream,
        end,
    }
}

pub(super) fn reply() -> Event<'static> {
    Event::Executed(LocalReply {
        status: 201,
        headers: Vec::new(),
        body: Bytes::new(),
    })
}

pub(super) fn squeeze(line: &str) -> String {
    line.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace("[ ", "[")
        .replace(" ]", "]")
}

pub(super) fn walk(policy: &str, cells: Vec<(&str, &str, Event, &str)>) {
    walk_on(Profile::Envoy, policy, cells);
}

pub(super) fn walk_on(profile: Profile, policy: &str, cells: Vec<(&str, &str, Event, &str)>) {
    for (state, event_name, event, expected) in cells {
        let mut bench = Bench::in_state_on(profile, policy, state);
        bench.on(event);
        let outcome = squeeze(&bench.outcome());
        assert_eq!(
            outcome,
            squeeze(expected),
            "{state} × {event_name} under {policy}"
        );
    }
}

pub(super) const INLINE: &str = r#""execution": "inline""#;
pub(super) const DETACHED: &str = r#""execution": "detached""#;
pub(super) const WAITING: &str = r#""execution": "inline", "wait_ms": 1000"#;
pub(super) const WITHHOLD: &str = r#""execution": "inline", "on_complete_failure": "withhold""#;
pub(super) const OPEN: &str = r#""execution": "inline", "on_service_failure": "pass""#;
pub(super) const OBSERVE: &str = r#""execution": "inline", "mode": "observe""#;
pub(super) const AGAIN: &str = r#""execution": "inline", "on_unknown": "retry""#;
