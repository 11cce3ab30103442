//! What becomes of operations that share a call when that call is too large (413), and of one whose client
//! leaves before the call does.

use super::bench::Bench;
use super::fake::Phase;
use bytes::Bytes;
use idempotency_protocol::*;

/// The key and the outcome of each complete.
fn completes(operations: &[Operation]) -> Vec<(&str, &Outcome)> {
    let mut completes = Vec::new();
    for operation in operations {
        let Operation::Complete(complete) = operation else {
            panic!("{operation:?}");
        };
        completes.push((complete.key.key.as_str(), &*complete.outcome));
    }
    completes
}

fn is_hello(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Response(response) if response.body == "hello")
}

#[test]
fn alone_and_too_large_it_is_recorded_without_its_bytes_and_the_client_has_it() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.grant();
    bench.respond(10);
    assert!(is_hello(completes(&bench.out()[0])[0].1));

    bench.answer("413", Bytes::new());
    let tombstone = Outcome::Tombstone(Tombstone {
        status: 201,
        reason: TombstoneReason::TooLarge,
    });
    assert_eq!(completes(&bench.out()[0]), [("10", &tombstone)]);

    // Refused again: there is nothing left to leave out, and it goes the way of all failures.
    bench.answer("413", Bytes::new());
    assert_eq!(bench.phase(10), Phase::Delivered);
}

/// A service that takes fewer operations in a call than a gateway sends (`--max-batch`), or fewer bytes than
/// many small answers have together, loses none of them.
#[test]
fn together_too_large_each_is_sent_alone_with_its_bytes() {
    let mut bench = Bench::new();
    for stream in [10, 11] {
        bench.open(stream);
        bench.grant();
    }
    bench.open(12);
    bench.respond(10);
    bench.respond(11);
    bench.grant();
    let out = bench.out();
    assert_eq!(out.len(), 1, "the completes share a call: {out:?}");
    assert_eq!(out[0].len(), 2);

    bench.answer("413", Bytes::new());
    let out = bench.out();
    assert_eq!(out.len(), 2, "{out:?}");
    for (call, key) in out.iter().zip(["10", "11"]) {
        let completes = completes(call);
        assert_eq!(completes.len(), 1);
        assert!(completes[0].0 == key && is_hello(completes[0].1), "{out:?}");
    }
    for _ in 0..2 {
        let answers = vec![Answer::Completed { expires_at_ms: 5 }];
        bench.answer("200", Response { answers }.encode().into());
    }
    assert_eq!([10, 11].map(|s| bench.phase(s)), [Phase::Delivered; 2]);
}

/// Its acquire was never sent, so there is nothing to take back, either.
#[test]
fn a_client_that_leaves_while_its_acquire_waits_is_not_heard_of() {
    let mut bench = Bench::new();
    bench.open(10);
    bench.open(11);
    bench.close(11);
    bench.grant();
    assert!(bench.out().is_empty(), "{:?}", bench.out());
    assert_eq!(bench.phase(10), Phase::Forwarded);
}
