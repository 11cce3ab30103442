//! Callouts to the service, as data.

use crate::config::Service;
use bytes::Bytes;
use idempotency_protocol::{
    Answer, Operation, Request, Response, Wait, CONTENT_TYPE, OPERATIONS_PATH, WAIT_PATH,
};

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

impl Call {
    /// Encodes the call.
    pub fn callout(&self, service: &Service) -> Callout {
        let (path, body, timeout_ms) = match self {
            Call::Operation(operation) => {
                let request = Request {
                    operations: vec![operation.clone()],
                };
                (OPERATIONS_PATH, request.encode(), service.timeout_ms)
            }
            // The service ends the wait; the callout must outlast it.
            Call::Wait(wait) => (
                WAIT_PATH,
                wait.encode(),
                service.timeout_ms.saturating_add(wait.wait_ms),
            ),
        };
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

/// Reads the answer of a callout that carried one call. A host's own 503 looks like an answer
/// (measured), so only `200` with a decodable body counts.
pub fn read_answer(status: &[u8], body: Bytes) -> CallResult {
    if status != b"200" {
        return Err(CallFailed);
    }
    let mut answers = Response::decode(body)
        .map_err(|_| CallFailed)?
        .answers
        .into_iter();
    match (answers.next(), answers.next()) {
        (Some(answer), None) => Ok(answer),
        _ => Err(CallFailed),
    }
}
