//! The copy of a response that becomes the record. It grows while the response streams by and
//! never holds more than the cap.

use crate::config::Policy;
use crate::cors::{is_cors, STORED_ORIGIN};
use crate::headers::{is_one_line, Headers};
use bytes::Bytes;
use idempotency_protocol::limits::MAX_REDIRECT_BYTES;
use idempotency_protocol::{Outcome, StoredResponse, Tombstone, TombstoneReason};

/// Response headers of this length that are stored without being named in the configuration: most names differ in
/// their lengths. `content-length` is not among them: the replay's own length is set by the host.
fn stored_headers(length: usize) -> &'static [&'static str] {
    match length {
        4 => &["etag", "link", "vary"],
        5 => &["allow"],
        6 => &["digest"],
        7 => &["expires"],
        8 => &["location"],
        11 => &["deprecation", "grpc-status", "repr-digest", "retry-after"],
        12 => &["content-type", "grpc-message"],
        13 => &[
            "accept-ranges",
            "cache-control",
            "content-range",
            "last-modified",
        ],
        14 => &["content-digest"],
        15 => &["referrer-policy"],
        16 => &["content-encoding", "content-language", "content-location"],
        18 => &["permissions-policy", "preference-applied"],
        19 => &["content-disposition"],
        22 => &["x-content-type-options"],
        23 => &["content-security-policy", "grpc-status-details-bin"],
        25 => &["strict-transport-security"],
        26 => &["cross-origin-opener-policy"],
        28 => &[
            "cross-origin-embedder-policy",
            "cross-origin-resource-policy",
        ],
        _ => &[],
    }
}

fn is_stored(name: &[u8]) -> bool {
    let stored = stored_headers(name.len());
    stored.iter().any(|known| known.as_bytes() == name)
}

/// A response on its way to becoming an outcome.
#[derive(Clone, Debug)]
pub struct Capture {
    status: u16,
    headers: Vec<(Bytes, Bytes)>,
    body: Vec<u8>,
    cap: usize,
    tombstone: Option<TombstoneReason>,
}

impl Capture {
    /// Starts with the response's status and headers. `origin` is the request's, which is kept with the
    /// CORS headers.
    pub fn new(policy: &Policy, status: u16, headers: &Headers, origin: Option<&Bytes>) -> Self {
        let mut kept = Vec::new();
        let mut tombstone = None;
        let mut cors = false;
        for (name, value) in &headers.0 {
            let is_cors = policy.cors.replayed && is_cors(name);
            let wanted = is_cors
                || is_stored(name)
                || policy.replay_headers.iter().any(|h| h.as_bytes() == name);
            if !wanted {
                continue;
            }
            cors |= is_cors;
            if !is_one_line(value) {
                tombstone = Some(TombstoneReason::NotStorable);
                continue;
            }
            kept.push((name.clone(), value.clone()));
        }
        if let (true, Some(origin)) = (cors, origin) {
            kept.push((STORED_ORIGIN.into(), origin.clone()));
        }
        if !(200..=599).contains(&status) {
            tombstone = Some(TombstoneReason::NotStorable);
        }
        Capture {
            status,
            headers: kept,
            body: Vec::new(),
            cap: policy.max_response_bytes,
            tombstone,
        }
    }

    /// The same for a redirect that is remembered: short, or not at all.
    pub fn of_redirect(
        policy: &Policy,
        status: u16,
        headers: &Headers,
        origin: Option<&Bytes>,
    ) -> Self {
        let mut capture = Capture::new(policy, status, headers, origin);
        capture.cap = capture.cap.min(MAX_REDIRECT_BYTES);
        capture
    }

    /// More of the body. Over the cap the copy is dropped: a tombstone needs none.
    pub fn push(&mut self, chunk: &[u8]) {
        if self.tombstone.is_some() {
            return;
        }
        if self.body.len().saturating_add(chunk.len()) > self.cap {
            self.tombstone = Some(TombstoneReason::TooLarge);
            self.body = Vec::new();
            return;
        }
        self.body.extend_from_slice(chunk);
    }

    /// The response has trailers, which a replay cannot carry.
    pub fn trailers(&mut self) {
        self.tombstone.get_or_insert(TombstoneReason::Trailers);
    }

    /// Part of the body could not be read.
    pub fn unreadable(&mut self) {
        self.tombstone.get_or_insert(TombstoneReason::NotStorable);
        self.body = Vec::new();
    }

    /// Whether there will be nothing to replay, whatever comes.
    pub fn is_tombstone(&self) -> bool {
        self.tombstone.is_some()
    }

    /// The finished copy.
    pub fn outcome(self) -> Outcome {
        match self.tombstone {
            Some(reason) => Outcome::Tombstone(Tombstone {
                status: self.status,
                reason,
            }),
            None => Outcome::Response(StoredResponse {
                status: self.status,
                headers: self.headers,
                body: self.body.into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_headers_stand_where_they_are_looked_for() {
        let mut count = 0;
        for length in 0..64 {
            for name in stored_headers(length) {
                assert_eq!(name.len(), length, "{name}");
                assert!(is_stored(name.as_bytes()));
                count += 1;
            }
        }
        assert_eq!(count, 32);
        assert!(!is_stored(b"date") && !is_stored(b"") && !is_stored(b"content-length"));
    }
}
