//! Callouts to the service, as data.

use bytes::Bytes;
use idempotency_core::config::Service;
use idempotency_protocol::{
    Answer, Operation, Request, Response, Wait, Wire, CONTENT_TYPE, OPERATIONS_PATH, WAIT_PATH,
};
use std::fmt;

/// Where a probe goes: a name that needs no name server, and a port (`tcpmux`) where nobody listens. Whoever
/// can resolve names finds nobody there; whoever cannot says so.
pub const PROBE_TARGET: &str = "localhost:1";

/// What is asked of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// One operation.
    Operation(Operation),
    /// A wait; in a call of its own.
    Wait(Wait),
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
                "status {status}: the service does not accept service.token as a gateway's"
            ),
            CallFailed::Status(status @ 500..=599) => write!(
                f,
                "status {status}: the service is not ready, or the gateway found nobody at \
                 service.target"
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
    /// One call to the service that carries these operations.
    pub fn operations<'a>(
        operations: impl ExactSizeIterator<Item = &'a Operation>,
        wire: Wire,
        service: &Service,
        timeout_ms: u64,
    ) -> Callout {
        let body = Request::encode_all(wire, operations);
        Callout::new(OPERATIONS_PATH, body, timeout_ms, service)
    }

    /// A wait. The service ends it; the callout must outlast it.
    pub fn wait(wait: &Wait, wire: Wire, service: &Service) -> Callout {
        let timeout_ms = service.timeout_ms.saturating_add(wait.wait_ms);
        Callout::new(WAIT_PATH, wait.encode_for(wire), timeout_ms, service)
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

    fn new(path: &'static str, body: Vec<u8>, timeout_ms: u64, service: &Service) -> Callout {
        let mut headers: Vec<(Bytes, Bytes)> = Vec::with_capacity(7);
        headers.extend([
            (":method".into(), "POST".into()),
            (":path".into(), path.into()),
            (":authority".into(), service.authority.clone()),
            ("content-type".into(), CONTENT_TYPE.into()),
            ("content-length".into(), body.len().to_string().into()),
        ]);
        if service.tls {
            headers.push((":scheme".into(), "https".into()));
        }
        if let Some(bearer) = &service.bearer {
            headers.push(("authorization".into(), bearer.clone()));
        }
        Callout {
            headers,
            body,
            timeout_ms,
        }
    }
}

/// Reads the answers of a callout that carried `count` calls.
///
/// # Errors
///
/// Anything else is no answer to any of them.
pub fn read_answers(
    status: &[u8],
    body: Bytes,
    count: usize,
) -> Result<Vec<CallResult>, CallFailed> {
    if status != b"200" {
        let status = std::str::from_utf8(status)
            .ok()
            .and_then(|s| s.parse().ok());
        return Err(status.map_or(CallFailed::Undecodable, CallFailed::Status));
    }
    let received = Response::decode(body).map_err(|_| CallFailed::Undecodable)?;
    if received.items.len() != count {
        return Err(CallFailed::Undecodable);
    }
    let answers = received.items.into_iter();
    // An answer of a later release fails alone.
    Ok(answers
        .map(|answer| answer.map_err(|_| CallFailed::Undecodable))
        .collect())
}
