//! What of an answer matters.

use http::response::Parts;
use sha2::{Digest, Sha256};

use crate::history::Answer;

/// Of the headers that a replay keeps, those that the upstream sends.
const KEPT: [&str; 5] = ["content-type", "etag", "link", "location", "retry-after"];

const MARKER: &str = "idempotency-replayed";

const PROBLEM: &str = "application/problem+json";

/// Reads an answer.
pub(super) fn read(head: &Parts, body: &[u8]) -> Answer {
    let value = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let id = value("location").and_then(|location| location.strip_prefix("/charges/"));
    let problem = (value("content-type") == Some(PROBLEM)).then(|| problem(body));
    let mut headers = Sha256::new();
    for name in KEPT {
        for value in head.headers.get_all(name) {
            headers.update(name);
            headers.update([0]);
            headers.update(value.as_bytes());
            headers.update([0]);
        }
    }
    Answer {
        status: head.status.as_u16(),
        id: id.map(str::to_owned),
        replayed: value(MARKER) == Some("true"),
        problem,
        retry_after: head.headers.contains_key("retry-after"),
        body: digest(body),
        headers: hex::encode(headers.finalize()),
    }
}

/// The problem's name: what its type ends in.
fn problem(body: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let kind = document["type"].as_str().unwrap_or("none");
    let last = kind.rsplit([':', '/', '#']).next();
    last.unwrap_or_default().to_owned()
}

/// SHA-256 in hex.
pub(crate) fn digest(octets: &[u8]) -> String {
    hex::encode(Sha256::digest(octets))
}
