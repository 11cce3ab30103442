//! The protocol: what can be read is written again as it was understood.
#![no_main]

use bytes::Bytes;
use idempotency_protocol::{CarriedOutcome, Received, Request, Response, Wait};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(received) = Request::decode(bytes.clone()) {
        // What one operation cannot be read of spoils no other one.
        let operations: Vec<_> = received.items.into_iter().filter_map(Result::ok).collect();
        let request = Request { operations };
        let again = Request::decode(request.encode().into()).and_then(Received::all);
        assert_eq!(request.operations, again.expect("our own message"));
    }
    if let Ok(received) = Response::decode(bytes.clone()) {
        let revision = received.revision;
        let answers: Vec<_> = received.items.into_iter().filter_map(Result::ok).collect();
        let mut response = Response { answers };
        let again = Response::decode(response.encode().into()).and_then(Received::all);
        assert_eq!(response.answers, again.expect("our own answer"));
        // Every peer can read what is written for it.
        let for_peer = Response::decode(response.encode_for(revision).into());
        for_peer
            .and_then(Received::all)
            .expect("an answer for a peer");
        let answers = response.answers.len();
        response.share();
        assert_eq!(
            response.answers.len(),
            answers,
            "an answer for each operation"
        );
        Response::decode(response.encode().into()).expect("our own shared answer");
    }
    if let Ok((_, wait)) = Wait::decode(bytes.clone()) {
        let again = Wait::decode(wait.encode().into());
        assert_eq!(again.expect("our own wait").1, wait);
    }
    if let Ok(outcome) = CarriedOutcome::decode(bytes) {
        // An outcome has one form: what was read may travel on in place of what would be made anew.
        assert_eq!(outcome.bytes(), outcome.encode());
        assert_eq!(outcome.bytes().len(), outcome.encoded_len());
    }
});
