//! The protocol: what can be read is written again as it was understood.
#![no_main]

use bytes::Bytes;
use idempotency_protocol::{Outcome, Request, Response, Wait};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(operations) = Request::decode(bytes.clone()) {
        // What one operation cannot be read of spoils no other one.
        let operations: Vec<_> = operations.into_iter().filter_map(Result::ok).collect();
        let request = Request { operations };
        let again = Request::decode(request.encode().into()).expect("our own message");
        let again: Vec<_> = again
            .into_iter()
            .map(|o| o.expect("our own operation"))
            .collect();
        assert_eq!(request.operations, again);
    }
    if let Ok(mut response) = Response::decode(bytes.clone()) {
        let again = Response::decode(response.encode().into()).expect("our own answer");
        assert_eq!(response, again);
        let answers = response.answers.len();
        response.share();
        assert_eq!(
            response.answers.len(),
            answers,
            "an answer for each operation"
        );
        Response::decode(response.encode().into()).expect("our own shared answer");
    }
    if let Ok(wait) = Wait::decode(bytes.clone()) {
        assert_eq!(
            Wait::decode(wait.encode().into()).expect("our own wait"),
            wait
        );
    }
    if let Ok(outcome) = Outcome::decode(bytes) {
        let encoded = outcome.encode();
        assert_eq!(encoded.len(), outcome.encoded_len());
        assert_eq!(
            Outcome::decode(encoded.into()).expect("our own outcome"),
            outcome
        );
    }
});
