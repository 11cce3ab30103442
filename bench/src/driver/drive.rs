//! One request after the other through the filter, as Envoy's callbacks bring them.

use std::rc::Rc;

use bytes::Bytes;
use idempotency_filter::filter::Filter;
use idempotency_filter::stream::Flow;
use idempotency_protocol::{
    Answer, Grant, Operation, Outcome, Request, Response, Stored, StoredResponse,
};

use super::host::{Fields, Memory};

const ROOT: u32 = 1;
/// Octets of a request's and an answer's body.
const BODY: usize = 200;
/// The same where they are large.
const LARGE: usize = 64 << 10;
/// The root's tick comes once in so many requests: every 50 ms where there are 5,000 in a second.
pub const TICK_EVERY: u32 = 250;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A `GET`: no rule can name it.
    Safe,
    /// A `POST` to a path that no rule names.
    Unprotected,
    /// Granted, executed inline, completed.
    Inline,
    /// Granted, executed through a callout, completed.
    Detached,
    /// Answered from the record.
    Replay,
    /// As [`Self::Inline`], with bodies of 64 KiB.
    LargeInline,
    /// As [`Self::Replay`], with bodies of 64 KiB.
    LargeReplay,
}

/// A filter, its host, and the next stream.
pub struct Driver {
    kind: Kind,
    filter: Filter<Memory>,
    next: u32,
    /// Headers of the service's answers.
    service: Rc<Fields>,
    /// The service's answers, as bytes. They are made once, so that what is counted is the filter's work alone.
    granted_or_stored: Bytes,
    completed: Bytes,
}

/// What the service is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Acquire,
    Complete,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Safe,
        Self::Unprotected,
        Self::Inline,
        Self::Detached,
        Self::Replay,
        Self::LargeInline,
        Self::LargeReplay,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safe => "get",
            Self::Unprotected => "unprotected",
            Self::Inline => "inline",
            Self::Detached => "detached",
            Self::Replay => "replay",
            Self::LargeInline => "inline-64k",
            Self::LargeReplay => "replay-64k",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Safe | Self::Unprotected => "/plain?bytes=200",
            Self::Inline | Self::LargeInline => "/inline?bytes=200",
            Self::Detached | Self::Replay | Self::LargeReplay => "/detached?bytes=200",
        }
    }
}

impl Kind {
    fn octets(self) -> usize {
        match self {
            Self::LargeInline | Self::LargeReplay => LARGE,
            _ => BODY,
        }
    }

    fn is_inline(self) -> bool {
        matches!(self, Self::Inline | Self::LargeInline)
    }

    fn is_replay(self) -> bool {
        matches!(self, Self::Replay | Self::LargeReplay)
    }
}

fn fields(all: &[(&str, &str)]) -> Fields {
    // One allocation, shared, as a header map comes from a real host.
    let text: String = all.iter().flat_map(|(n, v)| [*n, *v]).collect();
    let text = Bytes::from(text.into_bytes());
    let mut at = 0;
    let mut next = |length: usize| {
        at += length;
        text.slice(at - length..at)
    };
    all.iter()
        .map(|(n, v)| (next(n.len()), next(v.len())))
        .collect()
}

fn configuration() -> Bytes {
    let rule = |name: &str| {
        format!(
            r#"{{"name":"{name}","match":{{"methods":["POST"],"path_prefix":"/{name}"}},
                "scope":"global","wait_ms":0,"execution":"{name}"}}"#
        )
    };
    let (inline, detached) = (rule("inline"), rule("detached"));
    format!(
        r#"{{"service":{{"target":"idempotency","timeout_ms":1000,"token":"token"}},
            "detached":{{"cluster":"idempotency_execution"}},"rules":[{inline},{detached}]}}"#
    )
    .into()
}

impl Driver {
    /// A configured filter.
    pub fn new(kind: Kind) -> Self {
        let octets = kind.octets();
        let length = octets.to_string();
        let method = if kind == Kind::Safe { "GET" } else { "POST" };
        let host = Memory {
            request: fields(&[
                (":authority", "bench.invalid"),
                (":path", kind.path()),
                (":method", method),
                (":scheme", "http"),
                ("content-type", "application/json"),
                ("content-length", &length),
                ("idempotency-key", "bench-7f3a0c52-1234567"),
                ("x-forwarded-proto", "http"),
                ("x-request-id", "0f8fad5b-d9cb-469f-a165-70867728950e"),
            ]),
            response: fields(&[
                (":status", "201"),
                ("content-type", "application/octet-stream"),
                ("location", "/charges/ch_0123456789abcdef01234567"),
                ("content-length", &length),
                ("date", "Sun, 22 Nov 2026 02:00:00 GMT"),
                ("x-envoy-upstream-service-time", "0"),
                ("x-idempotency-upstream", "1"),
            ]),
            body: Bytes::from(vec![b'b'; octets]),
            configuration: configuration(),
            ..Memory::default()
        };
        let answer = |answer: Answer| {
            let answers = vec![answer];
            Bytes::from(Response { answers }.encode())
        };
        let granted_or_stored = answer(acquired(kind, &host));
        let completed = answer(Answer::Completed {
            expires_at_ms: 1_800_000_000_000,
        });
        let size = host.configuration.len();
        let mut filter = Filter::new(host);
        filter.on_context_create(ROOT, 0);
        filter.on_configure(ROOT, size);
        Self {
            kind,
            filter,
            next: ROOT,
            service: Rc::new(fields(&[
                (":status", "200"),
                ("content-type", "application/vnd.idempotency.v1"),
                ("content-length", "100"),
                ("x-envoy-upstream-service-time", "0"),
            ])),
            granted_or_stored,
            completed,
        }
    }

    /// The host.
    pub fn host(&self) -> &Memory {
        self.filter.host()
    }

    /// One request from its first to its last callback, and sometimes a [tick](TICK_EVERY) behind it. `Err`: it did
    /// not go the expected way.
    pub fn request(&mut self) -> Result<(), String> {
        self.next += 1;
        if self.next.is_multiple_of(TICK_EVERY) {
            self.filter.on_tick(ROOT);
        }
        let stream = self.next;
        let kind = self.kind;
        let filter = &mut self.filter;
        filter.on_context_create(stream, ROOT);
        let held = filter.on_request_headers(stream, kind == Kind::Safe) == Flow::Pause;
        if kind != Kind::Safe {
            filter.on_request_body(stream, kind.octets(), true);
        }
        if held != !matches!(kind, Kind::Safe | Kind::Unprotected) {
            return Err(format!("{}: held: {held}", kind.name()));
        }
        if held {
            self.answer_service(Asked::Acquire)?;
        }
        if kind == Kind::Detached {
            self.answer_execution()?;
            self.answer_service(Asked::Complete)?;
        }
        let filter = &mut self.filter;
        filter.on_response_headers(stream, false);
        filter.on_response_body(stream, kind.octets(), false);
        filter.on_response_body(stream, kind.octets(), true);
        if kind.is_inline() {
            self.answer_service(Asked::Complete)?;
        }
        let filter = &mut self.filter;
        filter.on_done(stream);
        filter.on_delete(stream);
        if self.host().callouts.borrow().is_empty() {
            Ok(())
        } else {
            Err(format!("{}: a callout is left", kind.name()))
        }
    }

    /// Answers the callout to the service that is out. That it is what it should be is looked at in the first request.
    fn answer_service(&mut self, asked: Asked) -> Result<(), String> {
        let (token, _) = self.callout()?;
        if self.next == ROOT + 1 {
            look_at(Bytes::copy_from_slice(&self.host().sent.borrow()), asked)?;
        }
        let answer = match asked {
            Asked::Acquire => &self.granted_or_stored,
            Asked::Complete => &self.completed,
        };
        let (headers, answer) = (Rc::clone(&self.service), answer.clone());
        self.answered(token, headers, answer);
        Ok(())
    }

    /// Answers the callout that carries a detached execution.
    fn answer_execution(&mut self) -> Result<(), String> {
        let (token, length) = self.callout()?;
        if length != self.kind.octets() {
            return Err("this is no execution".to_owned());
        }
        let headers = Rc::new(self.host().response.clone());
        let body = self.host().body.clone();
        self.answered(token, headers, body);
        Ok(())
    }

    fn callout(&self) -> Result<(u32, usize), String> {
        let next = self.host().callouts.borrow_mut().pop_front();
        next.ok_or_else(|| format!("{}: no callout", self.kind.name()))
    }

    fn answered(&mut self, token: u32, headers: Rc<Fields>, body: Bytes) {
        let (count, size) = (headers.len(), body.len());
        *self.host().answer.borrow_mut() = body;
        *self.host().callout.borrow_mut() = headers;
        self.filter.on_callout(ROOT, token, count, size, 0);
    }
}

/// A call to the service must hold one operation, the expected one.
fn look_at(body: Bytes, asked: Asked) -> Result<(), String> {
    let received = Request::decode(body).map_err(|error| error.to_string())?;
    match (asked, received.items.as_slice()) {
        (Asked::Acquire, [Ok(Operation::Acquire(_))])
        | (Asked::Complete, [Ok(Operation::Complete(_))]) => Ok(()),
        (_, other) => Err(format!("{asked:?} is expected: {other:?}")),
    }
}

/// What an acquire is answered.
fn acquired(kind: Kind, host: &Memory) -> Answer {
    if !kind.is_replay() {
        return Answer::Granted(Grant {
            fence: 1_700_000_000_000_000,
            attempt: 1,
            lease_ms: 60_000,
        });
    }
    let stored = |(name, _): &&(Bytes, Bytes)| {
        name == "content-type".as_bytes() || name == "location".as_bytes()
    };
    Answer::Stored(Stored {
        outcome: Outcome::Response(StoredResponse {
            status: 201,
            headers: host.response.iter().filter(stored).cloned().collect(),
            body: host.body.clone(),
        })
        .into(),
        fence: 1_700_000_000_000_000,
        attempt: 1,
        age_ms: 5000,
        expires_at_ms: 1_800_000_000_000,
    })
}
