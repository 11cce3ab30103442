//! Callouts to the service, as data.

use bytes::Bytes;
use idempotency_core::config::Service;
use idempotency_protocol::{
    Answer, Operation, Request, Response, Wait, CONTENT_TYPE, OPERATIONS_PATH, WAIT_PATH,
};

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

/// There is no usable answer: the callout could not be sent, timed out, was cut, or what came is
/// not an answer of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallFailed;

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
        service: &Service,
        timeout_ms: u64,
    ) -> Callout {
        let body = Request::encode_all(operations);
        Callout::new(OPERATIONS_PATH, body, timeout_ms, service)
    }

    /// A wait. The service ends it; the callout must outlast it.
    pub fn wait(wait: &Wait, service: &Service) -> Callout {
        let timeout_ms = service.timeout_ms.saturating_add(wait.wait_ms);
        Callout::new(WAIT_PATH, wait.encode(), timeout_ms, service)
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

/// Reads the answers of a callout that carried `count` calls. A host's own 503 looks like an answer
/// (measured), so only `200` with a decodable body counts.
///
/// # Errors
///
/// Anything else is no answer to any of them.
pub fn read_answers(status: &[u8], body: Bytes, count: usize) -> Result<Vec<Answer>, CallFailed> {
    if status != b"200" {
        return Err(CallFailed);
    }
    let answers = Response::decode(body).map_err(|_| CallFailed)?.answers;
    if answers.len() == count {
        Ok(answers)
    } else {
        Err(CallFailed)
    }
}
