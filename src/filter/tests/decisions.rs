//! The core's table of decisions, walked through the filter: each request comes from a host, and what
//! becomes of it shows in what the host is asked to do.

use super::fake::{FakeHost, FakeStream, Phase, ROOT};
use crate::filter::Filter;
use crate::stream::Flow;
use bytes::Bytes;
use idempotency_core::testing::{Case, CONFIG, DECISIONS};
use idempotency_protocol::{Operation, Origin, Request};

const STREAM: u32 = 10;

fn stream(case: &Case) -> FakeStream {
    let field =
        |(name, value): (&'static str, &'static str)| (Bytes::from(name), Bytes::from(value));
    let mut headers = vec![
        field((":method", case.method)),
        field((":path", case.target)),
    ];
    if !case.headers.iter().any(|(name, _)| *name == ":authority") {
        headers.push(field((":authority", "api.example.com")));
    }
    headers.extend(case.headers.iter().copied().map(field));
    FakeStream::request(headers)
}

/// What the host saw, in the words of the table, and the names of the fields that are left.
fn becomes(case: &Case) -> (String, Vec<Bytes>) {
    let host = FakeHost::default();
    *host.configuration.borrow_mut() = CONFIG.into();
    let mut filter = Filter::new(host);
    filter.on_context_create(ROOT, 0);
    assert!(filter.on_configure(ROOT, CONFIG.len()));
    let streams = &filter.host().streams;
    streams.borrow_mut().insert(STREAM, stream(case));
    filter.on_context_create(STREAM, ROOT);
    filter.host().current.set(STREAM);
    let flow = filter.on_request_headers(STREAM, true);

    let streams = filter.host().streams.borrow();
    let left = streams[&STREAM].headers.iter().map(|(n, _)| n.clone());
    let left = left.collect();
    if let Phase::Replied(status) = streams[&STREAM].phase {
        return (format!("refuse {status}"), left);
    }
    let calls = filter.host().calls.borrow();
    let Some(call) = calls.first() else {
        assert_eq!(flow, Flow::Continue, "{case:?}");
        return ("pass".to_owned(), left);
    };
    let operation = Request::decode(call.body.clone()).unwrap().items.remove(0);
    let Ok(Operation::Acquire(acquire)) = operation else {
        panic!("{case:?}: {operation:?}");
    };
    let key = match acquire.key.origin {
        Origin::Client => acquire.key.key.as_str(),
        Origin::Derived => "-",
    };
    let words = match acquire.key.tenant.as_str() {
        "" => format!("protect {key}"),
        tenant => format!("protect {key} of {tenant}"),
    };
    (words, left)
}

#[test]
fn every_request_becomes_what_the_cores_table_says() {
    for case in DECISIONS {
        let (words, left) = becomes(case);
        let wanted = match case.becomes.split_once(' ') {
            // Which problem it is stands in the body, which this host does not keep.
            Some(("refuse", rest)) => format!("refuse {}", &rest[..3]),
            // Nothing shows but a counter.
            Some(("observe", _)) => "pass".to_owned(),
            _ => case.becomes.to_owned(),
        };
        assert_eq!(words, wanted, "{case:?}");
        for name in case.strip {
            assert!(!left.iter().any(|n| n == name), "{case:?}");
        }
    }
}
