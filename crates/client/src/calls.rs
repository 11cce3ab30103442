//! Operations in as few calls as the protocol allows: how they share calls, and what an answer that is no
//! answer means for each.

use crate::client::{Answer as HttpAnswer, CallError};
use idempotency_protocol::{
    Answer, Fault, FaultCode, Operation, Outcome, Response, MAX_OPERATIONS, MAX_SHARED_OUTCOME,
};

/// Cuts operations into calls, in their order. A long outcome travels alone, and so does a settle, which is
/// another role's.
pub(crate) fn calls(operations: Vec<Operation>) -> Vec<Vec<Operation>> {
    let mut calls: Vec<Vec<Operation>> = Vec::new();
    let mut open = false;
    for operation in operations {
        let alone = is_alone(&operation);
        match calls.last_mut() {
            Some(call) if open && !alone && call.len() < MAX_OPERATIONS => call.push(operation),
            _ => calls.push(vec![operation]),
        }
        open = !alone;
    }
    calls
}

/// Whether it must not share a call.
pub(crate) fn is_alone(operation: &Operation) -> bool {
    is_long(operation) || matches!(operation, Operation::Settle(_))
}

fn is_long(operation: &Operation) -> bool {
    match operation {
        Operation::Complete(complete) => match &*complete.outcome {
            Outcome::Response(response) => {
                let headers = response.headers.iter();
                let headers = headers.map(|(n, v)| n.len() + v.len() + 6).sum::<usize>();
                response.body.len() + headers + 16 > MAX_SHARED_OUTCOME
            }
            Outcome::Tombstone(_) => false,
        },
        _ => false,
    }
}

/// What came back for `count` operations: an answer each, or the one fault that hit them all.
pub(crate) fn read(
    result: Result<HttpAnswer, CallError>,
    count: usize,
) -> Result<Vec<Answer>, Fault> {
    let answer = result.map_err(|error| match error {
        CallError::Late | CallError::Broken(_) => fault(FaultCode::Unavailable, error.to_string()),
        CallError::Unsendable(_) => fault(FaultCode::Internal, error.to_string()),
    })?;
    match answer.status {
        200 => {}
        413 => {
            return Err(fault(
                FaultCode::Invalid,
                "the service takes no call of this size",
            ))
        }
        status @ 500..=599 => {
            let detail = format!("the service is not ready: status {status}");
            return Err(fault(FaultCode::Unavailable, detail));
        }
        status @ (401 | 403) => {
            let detail =
                format!("the service does not accept token or certificate: status {status}");
            return Err(fault(FaultCode::Internal, detail));
        }
        status => {
            let detail = format!("no idempotency service answers there: status {status}");
            return Err(fault(FaultCode::Internal, detail));
        }
    }
    match Response::decode(answer.body) {
        Ok(received) if received.items.len() == count => {
            // An answer of a later release fails alone.
            let answers = received.items.into_iter().map(|answer| {
                answer.unwrap_or_else(|error| {
                    Answer::Fault(fault(FaultCode::Internal, error.to_string()))
                })
            });
            Ok(answers.collect())
        }
        Ok(received) => {
            let detail = format!("{} answers to {count} operations", received.items.len());
            Err(fault(FaultCode::Internal, detail))
        }
        Err(error) => Err(fault(FaultCode::Internal, error.to_string())),
    }
}

pub(crate) fn fault(code: FaultCode, detail: impl Into<String>) -> Fault {
    let detail = detail.into();
    Fault { code, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_protocol::{Complete, LookupKey, Origin, Owner, StoredResponse};

    fn key() -> LookupKey {
        LookupKey {
            tenant: String::new(),
            namespace: String::new(),
            origin: Origin::Client,
            key: "k".into(),
        }
    }

    fn complete(length: usize) -> Operation {
        Operation::Complete(Complete {
            key: key(),
            owner: Owner([1; 16]),
            outcome: Outcome::Response(StoredResponse {
                status: 200,
                headers: Vec::new(),
                body: vec![0; length].into(),
            })
            .into(),
        })
    }

    fn abandon() -> Operation {
        let owner = Owner([1; 16]);
        Operation::Abandon { key: key(), owner }
    }

    fn sizes(operations: Vec<Operation>) -> Vec<usize> {
        calls(operations).iter().map(Vec::len).collect()
    }

    #[test]
    fn calls_are_shared_as_the_protocol_allows() {
        assert_eq!(sizes(vec![]), [0; 0]);
        assert_eq!(sizes(vec![abandon(); 130]), [64, 64, 2]);
        let long = complete(MAX_SHARED_OUTCOME);
        let short = complete(100);
        assert_eq!(
            sizes(vec![abandon(), long, abandon(), short, abandon()]),
            [1, 1, 3]
        );
        // What is short by our measure is short by the protocol's.
        let largest = (0..MAX_SHARED_OUTCOME)
            .rev()
            .map(complete)
            .find(|o| !is_long(o));
        let Some(Operation::Complete(largest)) = largest else {
            panic!("some are short");
        };
        assert!(largest.outcome.encode().len() <= MAX_SHARED_OUTCOME);
    }

    #[test]
    fn only_an_outage_is_an_outage() {
        let status = |status| {
            let body = bytes::Bytes::new();
            read(Ok(HttpAnswer { status, body }), 1).unwrap_err().code
        };
        for outage in [500, 502, 503] {
            assert_eq!(status(outage), FaultCode::Unavailable);
        }
        for there in [200, 204, 301, 400, 401, 403, 404] {
            assert_eq!(status(there), FaultCode::Internal, "{there}");
        }
        assert_eq!(status(413), FaultCode::Invalid);
        let late = read(Err(CallError::Late), 1).unwrap_err();
        assert_eq!(late.code, FaultCode::Unavailable);
        let body = Response {
            answers: vec![Answer::Lost],
        }
        .encode()
        .into();
        let two = read(Ok(HttpAnswer { status: 200, body }), 2).unwrap_err();
        assert_eq!(two.code, FaultCode::Internal);
    }
}
