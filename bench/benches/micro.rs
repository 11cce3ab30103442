//! Single pieces of the hot path: fingerprint, key parser, frames, the state machine per event, and
//! the filter per request on a host in memory.
//!
//! ```text
//! cargo bench --package idempotency-bench
//! ```

use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{black_box, Bencher};
use idempotency_bench::driver::{Driver, Kind};
use idempotency_core::config::{BodyMode, FingerprintPolicy, KeyPolicy};
use idempotency_core::fingerprint::{scheme, Hasher};
use idempotency_protocol::{
    Acquire, Answer, Complete, Fingerprint, Grant, LookupKey, OnUnknown, Operation, Origin,
    Outcome, Owner, Request, Response, Retention, Scheme, StoredResponse,
};
use idempotency_store::machine::{apply, Context, Event};
use idempotency_store::record::Slot;

fn main() {
    divan::main();
}

mod fingerprint {
    use super::*;

    fn hash(mode: BodyMode, body: &[u8]) -> Fingerprint {
        let policy = FingerprintPolicy {
            body: Some(mode),
            headers: Some(Vec::new()),
            ..FingerprintPolicy::default()
        };
        let headers = [(
            Bytes::from_static(b"content-type"),
            Bytes::from_static(b"application/json"),
        )];
        let mut hasher = Hasher::new(
            &policy,
            scheme(&policy),
            b"POST",
            "/charges",
            b"b=2&a=1",
            b"example.org",
            &headers,
        );
        hasher.update(body);
        hasher.finish().unwrap().fingerprint
    }

    #[divan::bench(args = [200, 65_536])]
    fn raw(bencher: Bencher, octets: usize) {
        let body = vec![b'b'; octets];
        let bencher = bencher.counter(BytesCount::new(octets));
        bencher.bench(|| hash(BodyMode::Raw, black_box(&body)));
    }

    #[divan::bench(args = [4, 1_000])]
    fn json(bencher: Bencher, members: usize) {
        let members: Vec<String> = (0..members)
            .rev()
            .map(|n| format!(r#""member{n}": {{"amount": {n}.50, "text": "one\u0020two"}}"#))
            .collect();
        let body = format!("{{{}}}", members.join(", ")).into_bytes();
        let bencher = bencher.counter(BytesCount::new(body.len()));
        bencher.bench(|| hash(BodyMode::Json, black_box(&body)));
    }
}

mod key {
    use super::*;

    #[divan::bench(args = ["order-4711-7f3a0c52", r#""order-4711-7f3a0c52""#, r#""a \"b\" c""#])]
    fn parse(text: &str) -> String {
        idempotency_core::key::parse(&[black_box(text.as_bytes())], &KeyPolicy::default()).unwrap()
    }
}

fn lookup_key() -> LookupKey {
    LookupKey {
        tenant: "tenant-0042".to_owned(),
        namespace: String::new(),
        origin: Origin::Client,
        key: "order-4711-7f3a0c52".to_owned(),
    }
}

fn acquire(owner: u8, digest: u8) -> Operation {
    Operation::Acquire(Acquire {
        key: lookup_key(),
        owner: Owner([owner; 16]),
        fingerprint: Fingerprint {
            scheme: Scheme(1),
            digest: [digest; 32],
        },
        lease_ms: 60_000,
        retention: Retention {
            ttl_ms: 86_400_000,
            unknown_ttl_ms: 86_400_000,
        },
        on_unknown: OnUnknown::Refuse,
        kind: idempotency_protocol::AttemptKind::Gateway,
        about: None,
    })
}

fn complete(owner: u8, octets: usize) -> Operation {
    Operation::Complete(Complete {
        key: lookup_key(),
        owner: Owner([owner; 16]),
        outcome: Outcome::Response(StoredResponse {
            status: 201,
            headers: vec![
                (
                    Bytes::from_static(b"content-type"),
                    Bytes::from_static(b"application/json"),
                ),
                (
                    Bytes::from_static(b"location"),
                    Bytes::from_static(b"/charges/4711"),
                ),
            ],
            body: Bytes::from(vec![b'b'; octets]),
        })
        .into(),
    })
}

mod frame {
    use super::*;

    /// An acquire, completes of two sizes, and sixteen acquires in one message.
    const MESSAGES: [&str; 4] = [
        "acquire",
        "complete 200 B",
        "complete 64 KiB",
        "16 acquires",
    ];

    fn message(name: &str) -> Request {
        let operations = match name {
            "acquire" => vec![acquire(1, 1)],
            "complete 200 B" => vec![complete(1, 200)],
            "complete 64 KiB" => vec![complete(1, 64 << 10)],
            _ => (0..16).map(|owner| acquire(owner, 1)).collect(),
        };
        Request { operations }
    }

    #[divan::bench(args = MESSAGES)]
    fn encode(bencher: Bencher, name: &str) {
        let message = message(name);
        bencher.bench(|| black_box(&message).encode());
    }

    #[divan::bench(args = MESSAGES)]
    fn decode(bencher: Bencher, name: &str) {
        let message = Bytes::from(message(name).encode());
        bencher.bench(|| Request::decode(black_box(&message).clone()).unwrap());
    }

    #[divan::bench]
    fn answer(bencher: Bencher) {
        let answers = vec![Answer::Granted(Grant {
            fence: 1_700_000_000_000_000,
            attempt: 1,
            lease_ms: 60_000,
        })];
        let response = Response { answers };
        bencher.bench(|| {
            let message = Bytes::from(black_box(&response).encode());
            Response::decode(message).unwrap()
        });
    }
}

mod machine {
    use super::*;

    const NOW: u64 = 1_700_000_000_000_000;

    fn context() -> Context {
        Context::at(NOW)
    }

    fn event(operation: Operation) -> Event {
        Event::prepare(operation).1
    }

    /// A slot after these events.
    fn after(operations: impl IntoIterator<Item = Operation>) -> Option<Slot> {
        operations.into_iter().fold(None, |slot, operation| {
            let applied = apply(slot.as_ref(), &context(), &event(operation));
            applied.change.or(slot)
        })
    }

    fn fail() -> Operation {
        Operation::Fail {
            key: lookup_key(),
            owner: Owner([1; 16]),
            cause: Default::default(),
        }
    }

    fn abandon() -> Operation {
        Operation::Abandon {
            key: lookup_key(),
            owner: Owner([1; 16]),
        }
    }

    fn extend() -> Operation {
        Operation::Extend {
            key: lookup_key(),
            owner: Owner([1; 16]),
            lease_ms: 60_000,
        }
    }

    const EVENTS: [&str; 9] = [
        "acquire, absent",
        "acquire, in flight",
        "acquire, completed",
        "acquire, mismatch",
        "acquire, failed",
        "complete",
        "fail",
        "abandon",
        "extend",
    ];

    #[divan::bench(args = EVENTS)]
    fn step(bencher: Bencher, name: &str) {
        let (slot, operation) = match name {
            "acquire, absent" => (None, acquire(1, 1)),
            "acquire, in flight" => (after([acquire(1, 1)]), acquire(2, 1)),
            "acquire, completed" => (after([acquire(1, 1), complete(1, 200)]), acquire(2, 1)),
            "acquire, mismatch" => (after([acquire(1, 1)]), acquire(2, 2)),
            "acquire, failed" => (after([acquire(1, 1), fail()]), acquire(2, 1)),
            "complete" => (after([acquire(1, 1)]), complete(1, 200)),
            "fail" => (after([acquire(1, 1)]), fail()),
            "abandon" => (after([acquire(1, 1)]), abandon()),
            _ => (after([acquire(1, 1)]), extend()),
        };
        let event = event(operation);
        let context = context();
        bencher.bench(|| apply(black_box(slot.as_ref()), &context, black_box(&event)));
    }

    /// What is done to an operation before it queues for a writer: the outcome's digest, mostly.
    #[divan::bench(args = [200, 65_536])]
    fn prepare_complete(bencher: Bencher, octets: usize) {
        bencher
            .counter(BytesCount::new(octets))
            .with_inputs(|| complete(1, octets))
            .bench_values(Event::prepare);
    }
}

mod filter {
    use super::*;

    #[divan::bench(args = Kind::ALL.map(Kind::name))]
    fn request(bencher: Bencher, name: &str) {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        let mut driver = Driver::new(kind.unwrap());
        bencher.bench_local(|| driver.request().unwrap());
    }
}
