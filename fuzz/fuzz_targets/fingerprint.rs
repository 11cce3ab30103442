//! Fingerprints: two requests have one exactly if they say the same, however their bodies arrive.
#![no_main]

use bytes::Bytes;
use idempotency_core::canonical_json::canonicalise;
use idempotency_core::config::{BodyMode, FingerprintPolicy, QueryPolicy};
use idempotency_core::fingerprint::{scheme, Hasher};
use idempotency_core::{path, query};
use idempotency_protocol::Fingerprint;
use libfuzzer_sys::fuzz_target;

/// A request out of bytes: query, a header's value and body, parted by zeros.
struct Parts<'a> {
    query: &'a [u8],
    header: &'a [u8],
    body: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(data: &'a [u8]) -> Parts<'a> {
        let mut parts = data.splitn(3, |b| *b == 0);
        let mut next = || parts.next().unwrap_or_default();
        Parts {
            query: next(),
            header: next(),
            body: next(),
        }
    }

    fn hash(&self, body: BodyMode, piece: usize) -> Option<Fingerprint> {
        let policy = FingerprintPolicy {
            body: Some(body),
            headers: Some(vec!["x-shop".to_owned()]),
            query: QueryPolicy {
                ignore: vec!["sig".to_owned()],
            },
            ..FingerprintPolicy::default()
        };
        let headers = [("x-shop".into(), Bytes::copy_from_slice(self.header))];
        let normal = path::normalise(b"/charges");
        let mut hasher = Hasher::new(
            &policy,
            scheme(&policy),
            b"POST",
            &normal.path,
            self.query,
            b"",
            &headers,
        );
        self.body
            .chunks(piece.max(1))
            .for_each(|piece| hasher.update(piece));
        hasher.finish().ok().map(|hashed| hashed.fingerprint)
    }

    /// What it says.
    fn meaning(&self, body: BodyMode) -> Option<(String, &[u8], Vec<u8>)> {
        let said = match body {
            BodyMode::Raw => self.body.to_vec(),
            BodyMode::Json if self.body.is_empty() => Vec::new(),
            BodyMode::Json => canonicalise(self.body).ok()?,
            BodyMode::None => Vec::new(),
        };
        Some((
            query::canonicalise(self.query, &["sig".to_owned()]),
            self.header.trim_ascii(),
            said,
        ))
    }
}

fuzz_target!(|data: &[u8]| {
    let [cut, piece, data @ ..] = data else {
        return;
    };
    let (one, other) = data.split_at(usize::from(*cut).min(data.len()));
    let (one, other) = (Parts::of(one), Parts::of(other));
    for body in [BodyMode::Raw, BodyMode::Json, BodyMode::None] {
        let whole = one.hash(body, usize::MAX);
        assert_eq!(whole, one.hash(body, usize::from(*piece)), "pieces matter");
        assert_eq!(whole.is_some(), one.meaning(body).is_some());
        if let (Some(a), Some(b)) = (whole, other.hash(body, usize::MAX)) {
            assert_eq!(a == b, one.meaning(body) == other.meaning(body));
        }
    }
});
