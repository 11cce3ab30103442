//! Callouts to the service, as data.

use crate::profile::Profile;
use bytes::Bytes;
use idempotency_core::config::Service;
use idempotency_core::reply::decimal;
use idempotency_protocol::{
    Answer, DecodeError, Operation, Request, Response, Wait, Wire, CONTENT_TYPE, OPERATIONS_PATH,
    WAIT_PATH,
};
use std::fmt;

/// Where a probe goes: a name that needs no name server, and a port (`tcpmux`) where nobody listens. A host that
/// can resolve names reports a refused connection; one that cannot reports that it cannot resolve the name.
pub const PROBE_TARGET: &str = "localhost:1";

/// What is asked of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// One operation.
    Operation(Box<Operation>),
    /// A wait; in a call of its own.
    Wait(Box<Wait>),
}

/// There is no usable answer, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailed {
    /// The callout did not leave: the host refused it, or it waited too long for its turn.
    NotSent,
    /// Nothing came in time, or the connection was cut.
    Unanswered,
    /// An HTTP answer with another status than 200. A host's own 503 looks like one, too (measured).
    Status(u16),
    /// What came with status 200 cannot be read as answers of the service.
    Undecodable,
}

/// A [`CallFailed`] without its status: what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureReason {
    /// [`CallFailed::NotSent`].
    NotSent,
    /// [`CallFailed::Unanswered`].
    Unanswered,
    /// [`CallFailed::Status`].
    Status,
    /// [`CallFailed::Undecodable`].
    Undecodable,
}

impl FailureReason {
    /// Every reason.
    pub const ALL: [FailureReason; 4] = [
        FailureReason::NotSent,
        FailureReason::Unanswered,
        FailureReason::Status,
        FailureReason::Undecodable,
    ];

    /// Its name, in the log.
    pub fn name(self) -> &'static str {
        match self {
            FailureReason::NotSent => "not-sent",
            FailureReason::Unanswered => "unanswered",
            FailureReason::Status => "status",
            FailureReason::Undecodable => "undecodable",
        }
    }
}

impl CallFailed {
    /// Whether the service, or the way to it, is down. Only then may a rule let requests pass without
    /// protection. Everything else was said by somebody who is there: a wrong token or a wrong address
    /// must not switch protection off.
    pub fn is_outage(self) -> bool {
        matches!(
            self,
            CallFailed::NotSent | CallFailed::Unanswered | CallFailed::Status(500..=599)
        )
    }

    /// What is counted.
    pub fn reason(self) -> FailureReason {
        match self {
            CallFailed::NotSent => FailureReason::NotSent,
            CallFailed::Unanswered => FailureReason::Unanswered,
            CallFailed::Status(_) => FailureReason::Status,
            CallFailed::Undecodable => FailureReason::Undecodable,
        }
    }
}

/// For the operator: what happened, and where to look.
impl fmt::Display for CallFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallFailed::NotSent => f.write_str(
                "the call could not be sent in time; look at service.target, and at whether the \
                 service keeps up",
            ),
            CallFailed::Unanswered => f.write_str(
                "no answer within service.timeout_ms; look at whether the service is up and reachable \
                 at service.target",
            ),
            CallFailed::Status(status @ (401 | 403)) => write!(
                f,
                "status {status}: the service does not accept service.token, or the certificate, as a gateway's"
            ),
            // So Envoy says it (measured).
            CallFailed::Status(504) => f.write_str(
                "status 504: no answer within service.timeout_ms; look at whether the service is up, \
                 reachable and fast enough",
            ),
            CallFailed::Status(status @ 500..=599) => write!(
                f,
                "status {status}: the service is not ready, or the gateway could not reach \
                 service.target, or one of the two does not trust the other's certificate"
            ),
            CallFailed::Status(status) => write!(
                f,
                "status {status}: look at whether service.target is an idempotencyd, and which version"
            ),
            CallFailed::Undecodable => f.write_str(
                "what came cannot be read; look at whether service.target is an idempotencyd, and \
                 which version",
            ),
        }
    }
}

/// What came of a call.
pub type CallResult = Result<Answer, CallFailed>;

/// A callout, ready for the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callout {
    /// Request headers with pseudo headers.
    pub headers: Vec<(Bytes, Bytes)>,
    /// Request body.
    pub body: Vec<u8>,
    /// Timeout in milliseconds.
    pub timeout_ms: u64,
}

impl Callout {
    /// A wait. The service ends it; the callout must outlast it. It belongs to one request, whose `traceparent` is
    /// the callout's.
    pub fn wait(wait: &Wait, trace: Bytes, wire: Wire, service: &Service) -> Callout {
        let body = wait.encode_for(wire);
        let mut headers = service_headers(WAIT_PATH, service);
        headers.push(content_length(body.len()));
        if !trace.is_empty() {
            headers.push(("traceparent".into(), trace));
        }
        Callout {
            headers,
            body,
            timeout_ms: service.timeout_ms.saturating_add(wait.wait_ms),
        }
    }

    /// A question to [`PROBE_TARGET`] that only shows how it fails.
    pub fn probe(timeout_ms: u64) -> Callout {
        let headers = [
            (":method", "GET"),
            (":path", "/"),
            (":authority", "localhost"),
        ];
        let headers = headers.map(|(name, value)| (name.into(), value.into()));
        Callout {
            headers: headers.into(),
            body: Vec::new(),
            timeout_ms,
        }
    }
}

/// The headers of every call to the service, but for the length of its body.
fn service_headers(path: &'static str, service: &Service) -> Vec<(Bytes, Bytes)> {
    let mut headers: Vec<(Bytes, Bytes)> = Vec::with_capacity(7);
    headers.extend([
        (":method".into(), "POST".into()),
        (":path".into(), path.into()),
        (":authority".into(), service.authority.clone()),
        ("content-type".into(), CONTENT_TYPE.into()),
    ]);
    if service.tls {
        headers.push((":scheme".into(), "https".into()));
    }
    if let Some(bearer) = &service.bearer {
        headers.push(("authorization".into(), bearer.clone()));
    }
    headers
}

fn content_length(length: usize) -> (Bytes, Bytes) {
    ("content-length".into(), decimal("", length as u64))
}

/// What calls with operations are written with: headers and body, whose room is used again and again.
#[derive(Debug, Default)]
pub struct Writer {
    headers: Vec<(Bytes, Bytes)>,
    /// The last header is the length of the body. Envoy sets it itself (docs/envoy-facts.md).
    tells_length: bool,
    body: Vec<u8>,
}

/// The longest body whose room is kept, in bytes.
const KEPT_ROOM: usize = 64 << 10;

impl Writer {
    /// For a service, in this host.
    pub fn new(service: &Service, profile: Profile) -> Writer {
        let mut headers = service_headers(OPERATIONS_PATH, service);
        let tells_length = profile == Profile::Kong;
        if tells_length {
            headers.push(content_length(0));
        }
        Writer {
            headers,
            tells_length,
            body: Vec::new(),
        }
    }

    /// One call that carries these operations, each with the `traceparent` of its request: its headers and its body.
    pub fn write<'a>(
        &mut self,
        operations: impl ExactSizeIterator<Item = (&'a Operation, &'a [u8])>,
        wire: Wire,
    ) -> (&[(Bytes, Bytes)], &[u8]) {
        if self.body.capacity() > KEPT_ROOM {
            self.body = Vec::new();
        }
        let before = self.body.len();
        Request::encode_into(wire, operations, &mut self.body);
        if self.tells_length && self.body.len() != before {
            self.headers.pop();
            self.headers.push(content_length(self.body.len()));
        }
        (&self.headers, &self.body)
    }
}

/// An answer, if it can be read.
pub type Read = Result<Answer, DecodeError>;

/// Reads the answers of a callout that carried `count` calls into room that is there; `None`: these are none.
///
/// The status is not looked at, since to ask for it would cost a hostcall of every callout. Who answers
/// otherwise than with status 200 has no such body: the service sends problem documents, which are JSON, and
/// nothing that is no service of ours writes this format.
pub fn read_answers(body: &Bytes, count: usize, answers: &mut Vec<Read>) -> Option<()> {
    Response::decode_into(body, answers).ok()?;
    (answers.len() == count).then_some(())
}

/// One of the answers. An answer of a later release fails alone.
pub fn read_answer(answer: Read) -> CallResult {
    answer.map_err(|_| CallFailed::Undecodable)
}

/// What an answer with this status is whose body holds no answers.
pub fn why_undecodable(status: &[u8]) -> CallFailed {
    let status = std::str::from_utf8(status).ok();
    match status.and_then(|status| status.parse().ok()) {
        None | Some(200) => CallFailed::Undecodable,
        Some(status) => CallFailed::Status(status),
    }
}
