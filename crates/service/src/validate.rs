//! Bounds on operations that the wire format itself does not have. What is out of bounds is
//! answered with a fault of its own; the store never sees it.

use idempotency_protocol::{LookupKey, Operation, Outcome, Settlement, StoredResponse};

/// Longest key, in characters, as in the contract with clients.
pub(crate) const MAX_KEY_CHARS: usize = 255;
/// Longest tenant and namespace, in bytes.
pub(crate) const MAX_SCOPE_BYTES: usize = 1024;
/// Longest lease: one day.
const MAX_LEASE_MS: u64 = 86_400_000;
/// Longest retention: ten years. Keeps every sum of times far from overflow.
const MAX_TTL_MS: u64 = 10 * 366 * 86_400_000;

/// What is wrong with the operation, if anything.
pub(crate) fn operation(operation: &Operation) -> Result<(), &'static str> {
    key(operation.key())?;
    match operation {
        Operation::Acquire(a) => {
            lease(a.lease_ms)?;
            let (ttl, unknown) = (a.retention.ttl_ms, a.retention.unknown_ttl_ms);
            if ttl == 0 || unknown > MAX_TTL_MS {
                return Err("a retention is between 1 ms and 10 years");
            }
            if unknown < ttl {
                return Err("unknown_ttl_ms is below ttl_ms");
            }
            Ok(())
        }
        Operation::Complete(c) => outcome(&c.outcome),
        Operation::Settle(s) => match &s.settlement {
            Settlement::Completed(o) => outcome(o),
            Settlement::Failed => Ok(()),
        },
        Operation::Extend { lease_ms, .. } => lease(*lease_ms),
        Operation::Fail { .. } | Operation::Abandon { .. } => Ok(()),
    }
}

/// What is wrong with the key, if anything.
pub(crate) fn key(key: &LookupKey) -> Result<(), &'static str> {
    let long = key.key.len() > MAX_KEY_CHARS && key.key.chars().count() > MAX_KEY_CHARS;
    if key.key.is_empty() || long {
        return Err("a key has 1 to 255 characters");
    }
    if key.tenant.len() > MAX_SCOPE_BYTES || key.namespace.len() > MAX_SCOPE_BYTES {
        return Err("a tenant or namespace has at most 1024 bytes");
    }
    Ok(())
}

/// What is wrong with the outcome, if anything: a replay must be a valid response whatever was
/// stored.
pub(crate) fn outcome(outcome: &Outcome) -> Result<(), &'static str> {
    match outcome {
        Outcome::Response(response) => self::response(response),
        Outcome::Tombstone(tombstone) => status(tombstone.status),
    }
}

fn response(response: &StoredResponse) -> Result<(), &'static str> {
    status(response.status)?;
    for (name, value) in &response.headers {
        // Also refuses pseudo headers and upper case, both of which break HTTP/2 replays.
        let token =
            |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(b);
        if name.is_empty() || !name.iter().all(token) {
            return Err("a header name is a lower-case token");
        }
        if value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            return Err("a header value has no CR, LF or NUL");
        }
    }
    Ok(())
}

fn status(status: u16) -> Result<(), &'static str> {
    if (200..=599).contains(&status) {
        Ok(())
    } else {
        Err("a status is between 200 and 599")
    }
}

fn lease(lease_ms: u64) -> Result<(), &'static str> {
    if (1..=MAX_LEASE_MS).contains(&lease_ms) {
        Ok(())
    } else {
        Err("a lease is between 1 ms and 1 day")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn stored_values() {
        let with = |status, name: &'static str, value: &'static str| {
            outcome(&Outcome::Response(StoredResponse {
                status,
                headers: vec![(Bytes::from(name), Bytes::from(value))],
                body: Bytes::new(),
            }))
        };
        assert!(with(200, "etag", "\"x\"").is_ok());
        for (status, name, value) in [
            (199, "etag", ""),
            (600, "etag", ""),
            (200, "ETag", ""),
            (200, "", ""),
            (200, ":status", ""),
            (200, "etag", "a\r\nb"),
            (200, "etag", "a\0"),
        ] {
            assert!(
                with(status, name, value).is_err(),
                "{status} {name} {value:?}"
            );
        }
    }
}
