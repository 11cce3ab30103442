//! The operations that every part of this bench does: an acquire with a new key, its complete, and
//! an acquire that finds the record.

use std::time::{Duration, Instant};

use bytes::Bytes;
use idempotency_protocol::{
    Acquire, Answer, Complete, Fingerprint, LookupKey, OnUnknown, Operation, Origin, Outcome,
    Owner, Retention, Scheme, StoredResponse,
};
use sha2::{Digest, Sha256};

/// Tenant of all keys.
const TENANT: &str = "tenant-0042";
/// Longer than any run.
pub const LEASE_MS: u64 = 600_000;
/// Longer than the whole bench.
pub const TTL_MS: u64 = 86_400_000;
/// Digest of every request.
pub const REQUEST_DIGEST: [u8; 32] = *b"0123456789abcdef0123456789abcdef";
/// How it was made.
pub const SCHEME: Scheme = Scheme(1);

/// Key number `n` of a run. The hash spreads them over the whole key space, as clients' random
/// keys are.
pub fn key(run: &str, n: u64) -> LookupKey {
    let digest = Sha256::digest(n.to_string());
    let spread: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
    LookupKey {
        tenant: TENANT.to_owned(),
        namespace: run.to_owned(),
        origin: Origin::Client,
        key: format!("{spread}-{n:08x}"),
    }
}

/// The acquire of key `n` by owner `by`.
pub fn acquire(run: &str, n: u64, by: u64) -> Operation {
    Operation::Acquire(Acquire {
        key: key(run, n),
        owner: owner(by),
        fingerprint: Fingerprint {
            scheme: SCHEME,
            digest: REQUEST_DIGEST,
        },
        lease_ms: LEASE_MS,
        retention: Retention {
            ttl_ms: TTL_MS,
            unknown_ttl_ms: TTL_MS,
        },
        on_unknown: OnUnknown::Refuse,
        kind: idempotency_protocol::AttemptKind::Gateway,
        about: None,
    })
}

/// The complete of key `n` by owner `n`.
pub fn complete(run: &str, n: u64, body: &Bytes) -> Operation {
    Operation::Complete(Complete {
        key: key(run, n),
        owner: owner(n),
        outcome: outcome(body).into(),
    })
}

/// What is stored.
pub fn outcome(body: &Bytes) -> Outcome {
    Outcome::Response(StoredResponse {
        status: 201,
        headers: vec![(
            Bytes::from_static(b"content-type"),
            Bytes::from_static(b"application/json"),
        )],
        body: body.clone(),
    })
}

/// The owner that makes and completes key `n`; replays come with another one.
fn owner(n: u64) -> Owner {
    let mut token = *b"owner-0000000000";
    if let Some(tail) = token.get_mut(8..) {
        tail.copy_from_slice(&n.to_be_bytes());
    }
    Owner(token)
}

/// A body of letters and digits without repetition: nothing that a store could compress away.
pub fn body(octets: usize) -> Bytes {
    const ALPHABET: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
    let letters = (0_u64..).flat_map(|n| {
        let digest: [u8; 32] = Sha256::digest(n.to_be_bytes()).into();
        digest
    });
    letters
        .map(|byte| {
            ALPHABET
                .get(usize::from(byte & 63))
                .copied()
                .unwrap_or(b'0')
        })
        .take(octets)
        .collect()
}

/// What an operation must end in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// A grant.
    Granted,
    /// A stored outcome.
    Completed,
    /// A replay.
    Stored,
}

impl Expected {
    /// Whether it did.
    ///
    /// # Errors
    ///
    /// Says what it ended in instead.
    pub fn check(self, answer: Option<&Answer>) -> Result<(), String> {
        match (self, answer) {
            (Self::Granted, Some(Answer::Granted(_)))
            | (Self::Completed, Some(Answer::Completed { .. }))
            | (Self::Stored, Some(Answer::Stored(_))) => Ok(()),
            (_, answer) => Err(format!("{self:?} was expected, not {answer:?}")),
        }
    }
}

/// A measured stretch of work.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Lap {
    /// Operations done, all of them as expected.
    pub operations: u64,
    /// In how many seconds.
    pub seconds: f64,
    /// Median time of a call in microseconds; 0 if not told.
    pub p50_us: f64,
    /// 99th percentile; 0 if not told.
    pub p99_us: f64,
    /// CPU seconds of the store's server meanwhile; 0 if not measured.
    pub server_s: f64,
}

impl Lap {
    /// Of calls with so many operations each.
    pub fn of(mut calls: Vec<Duration>, operations_per_call: u64, since: Instant) -> Self {
        let seconds = since.elapsed().as_secs_f64();
        calls.sort_unstable();
        let at = |share: f64| {
            let index = (calls.len() as f64 * share) as usize;
            calls
                .get(index)
                .map_or(0.0, |took| took.as_secs_f64() * 1e6)
        };
        Self {
            operations: calls.len() as u64 * operations_per_call,
            seconds,
            p50_us: at(0.5),
            p99_us: at(0.99),
            server_s: 0.0,
        }
    }

    /// Operations per second.
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// CPU time of the store's server per operation in microseconds, if measured.
    pub fn server_us(&self) -> Option<f64> {
        (self.server_s > 0.0).then(|| self.server_s * 1e6 / self.operations.max(1) as f64)
    }

    /// How much of one core the store's server used in percent, if measured.
    pub fn server_busy(&self) -> Option<f64> {
        (self.server_s > 0.0).then(|| self.server_s * 100.0 / self.seconds)
    }

    /// Two stretches that belong together, one after the other.
    pub fn then(&self, next: &Self) -> Self {
        Self {
            operations: self.operations + next.operations,
            seconds: self.seconds + next.seconds,
            p50_us: self.p50_us + next.p50_us,
            p99_us: self.p99_us.max(next.p99_us),
            server_s: self.server_s + next.server_s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_repeat() {
        assert_eq!(key("r", 7), key("r", 7));
        assert_ne!(key("r", 7).key, key("r", 8).key);
        assert_eq!(
            key("r", 7).key.len(),
            key("r", u64::from(u32::MAX)).key.len()
        );
        // As the bulk load in SQL makes them.
        assert_eq!(key("r", 0).key, "5feceb66ffc86f38-00000000");
    }

    #[test]
    fn bodies_have_their_size_and_no_pattern() {
        let body = body(1000);
        assert_eq!(body.len(), 1000);
        assert_ne!(body.slice(..32), body.slice(32..64));
        assert!(body.is_ascii());
    }

    #[test]
    fn laps() {
        let since = Instant::now() - Duration::from_secs(2);
        let lap = Lap::of(vec![Duration::from_micros(5); 100], 2, since);
        assert_eq!((lap.operations, lap.p50_us), (200, 5.0));
        assert!((lap.rate() - 100.0).abs() < 5.0, "{lap:?}");
        assert_eq!(lap.then(&lap).operations, 400);
    }
}
