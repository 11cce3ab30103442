//! Operations of several requests in one message, and its answers.

use crate::call::{CallFailed, CallResult};
use crate::plugin::Plugin;
use bytes::Bytes;
use idempotency_protocol::{
    Operation, Request, Response, Wire, MAX_OPERATIONS, MAX_SHARED_OUTCOME,
};
use std::sync::Arc;
use std::time::Duration;

/// One message to the service.
#[derive(Debug)]
pub struct Batch {
    plugin: Arc<Plugin>,
    operations: Vec<(Operation, Bytes)>,
    /// What is in it shares its message with nothing.
    alone: bool,
    wire: Wire,
    message: Vec<u8>,
    answers: Vec<CallResult>,
}

/// What the status of an answer means for its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Each operation has its result.
    Done,
    /// The service is of an earlier release, and has applied nothing: send the message again, as it is encoded now.
    Again,
}

impl Batch {
    /// An empty one.
    pub fn new(plugin: Arc<Plugin>) -> Batch {
        Batch {
            plugin,
            operations: Vec::new(),
            alone: false,
            wire: Wire::Two,
            message: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// Adds an operation with the `traceparent` of its request; its place in the message, or `None` where it has no
    /// room. `alone`: it must share the message with nothing. An empty batch takes everything.
    pub fn add(&mut self, operation: Operation, trace: Bytes, alone: bool) -> Option<usize> {
        let large = matches!(&operation, Operation::Complete(complete)
            if complete.outcome.encoded_len() > MAX_SHARED_OUTCOME);
        let alone = alone || large;
        let place = self.operations.len();
        let full = self.alone || place >= MAX_OPERATIONS || (alone && place > 0);
        if full {
            return None;
        }
        self.alone = alone;
        self.answers.clear();
        self.operations.push((operation, trace));
        Some(place)
    }

    /// How many operations are in it.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The message, in the version that the service speaks.
    pub fn message(&mut self, now: Duration) -> &[u8] {
        self.wire = self.plugin.wire(now);
        let operations = self.operations.iter();
        Request::encode_into(
            self.wire,
            operations.map(|(operation, trace)| (operation, trace.as_ref())),
            &mut self.message,
        );
        &self.message
    }

    /// The message was answered with this status and body; status 0: it was not answered.
    pub fn answer(&mut self, status: u16, body: &[u8], now: Duration) -> Read {
        // So says a service that does not know the version, before it applies anything.
        if status == 400 && self.wire == Wire::Two {
            self.plugin.refused(now);
            return Read::Again;
        }
        self.answers = read(status, body, self.operations.len());
        Read::Done
    }

    /// What came of the operation in this place.
    pub fn result(&self, place: usize) -> CallResult {
        let result = self.answers.get(place).cloned();
        result.unwrap_or(Err(CallFailed::Unanswered))
    }
}

/// The answers of a message with `count` operations.
pub fn read(status: u16, body: &[u8], count: usize) -> Vec<CallResult> {
    let failed = |failed| vec![Err(failed); count];
    match status {
        0 => return failed(CallFailed::Unanswered),
        200 => {}
        status => return failed(CallFailed::Status(status)),
    }
    match Response::decode(Bytes::copy_from_slice(body)) {
        Ok(received) if received.items.len() == count => {
            // An answer of a later release fails alone.
            let items = received.items.into_iter();
            items
                .map(|item| item.map_err(|_| CallFailed::Undecodable))
                .collect()
        }
        _ => failed(CallFailed::Undecodable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_protocol::{
        Answer, Complete, FailCause, LookupKey, Origin, Outcome, Owner, StoredResponse,
    };

    fn key() -> LookupKey {
        LookupKey {
            tenant: String::new(),
            namespace: String::new(),
            origin: Origin::Client,
            key: "k".into(),
        }
    }

    fn fail() -> Operation {
        Operation::Fail {
            key: key(),
            owner: Owner([1; 16]),
            cause: FailCause::NotSent,
        }
    }

    fn complete(length: usize) -> Operation {
        let response = StoredResponse {
            status: 200,
            headers: Vec::new(),
            body: vec![b'x'; length].into(),
        };
        Operation::Complete(Complete {
            key: key(),
            owner: Owner([1; 16]),
            outcome: Outcome::Response(response).into(),
        })
    }

    fn batch() -> Batch {
        Batch::new(Arc::new(Plugin::new(b"", |_| None)))
    }

    const NOW: Duration = Duration::from_secs(5);

    #[test]
    fn what_must_travel_alone_does() {
        let mut full = batch();
        for place in 0..MAX_OPERATIONS {
            assert_eq!(full.add(fail(), Bytes::new(), false), Some(place));
        }
        assert_eq!(full.add(fail(), Bytes::new(), false), None);
        assert_eq!(full.len(), MAX_OPERATIONS);

        for (operation, alone) in [(complete(MAX_SHARED_OUTCOME), false), (fail(), true)] {
            let mut shared = batch();
            assert_eq!(shared.add(fail(), Bytes::new(), false), Some(0));
            assert_eq!(shared.add(operation.clone(), Bytes::new(), alone), None);
            let mut own = batch();
            assert_eq!(own.add(operation, Bytes::new(), alone), Some(0));
            assert_eq!(own.add(fail(), Bytes::new(), false), None);
        }
        let mut small = batch();
        small.add(fail(), Bytes::new(), false);
        assert_eq!(small.add(complete(100), Bytes::new(), false), Some(1));
    }

    #[test]
    fn each_operation_has_its_own_answer() {
        let mut batch = batch();
        batch.add(fail(), "trace".into(), false);
        batch.add(fail(), Bytes::new(), false);
        let sent = Request::decode_traced(Bytes::copy_from_slice(batch.message(NOW))).unwrap();
        let sent = sent.all().unwrap();
        assert_eq!(sent, [(fail(), "trace".into()), (fail(), Bytes::new())]);
        let answers = vec![Answer::Failed, Answer::Lost];
        let body = Response { answers }.encode();
        assert_eq!(batch.answer(200, &body, NOW), Read::Done);
        assert_eq!(batch.result(0), Ok(Answer::Failed));
        assert_eq!(batch.result(1), Ok(Answer::Lost));
        assert_eq!(batch.result(2), Err(CallFailed::Unanswered));
    }

    #[test]
    fn what_is_no_answer_is_none_for_all() {
        let one = Response {
            answers: vec![Answer::Failed],
        };
        let mut batch = batch();
        batch.add(fail(), Bytes::new(), false);
        batch.add(fail(), Bytes::new(), false);
        batch.message(NOW);
        for (status, body, expected) in [
            (0, &b""[..], CallFailed::Unanswered),
            (503, b"{}", CallFailed::Status(503)),
            (200, b"{}", CallFailed::Undecodable),
            (200, &one.encode(), CallFailed::Undecodable),
        ] {
            assert_eq!(batch.answer(status, body, NOW), Read::Done);
            assert_eq!(batch.result(0), Err(expected));
            assert_eq!(batch.result(1), Err(expected));
        }
    }

    #[test]
    fn an_older_service_is_asked_again_in_its_version_once() {
        let mut batch = batch();
        batch.add(fail(), Bytes::new(), false);
        assert_eq!(batch.message(NOW).first(), Some(&2));
        assert_eq!(batch.answer(400, b"{}", NOW), Read::Again);
        assert_eq!(batch.message(NOW).first(), Some(&1));
        assert_eq!(batch.answer(400, b"{}", NOW), Read::Done);
        assert_eq!(batch.result(0), Err(CallFailed::Status(400)));
    }
}
