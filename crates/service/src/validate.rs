//! Bounds on operations that the wire format itself does not have. What is out of bounds is
//! answered with a fault of its own; the store never sees it.

use idempotency_protocol::limits::{MAX_KEY_CHARS, MAX_LEASE_MS, MAX_SCOPE_BYTES, MAX_TTL_MS};
use idempotency_protocol::{LookupKey, Operation, Outcome, Settlement, StoredResponse};

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
        Operation::Fail { .. } | Operation::Abandon { .. } | Operation::Redeem(_) => Ok(()),
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

    /// The acquire that a gateway sends with this policy; `None`: its configuration is refused.
    fn sent_with(field: &str, value: u64) -> Option<Operation> {
        use idempotency_core::config::{self, Policy};
        use idempotency_protocol::{Acquire, Fingerprint, Origin, Owner, Retention, Scheme};
        let text = format!(
            r#"{{"service":{{"target":"s","timeout_ms":1}},"rules":[{{"match":{{}},"scope":"global",
                "lease_margin_ms":1,"execution_timeout_ms":1,"{field}":{value}}}]}}"#
        );
        let plan = config::parse(&text).ok()?;
        let policy: &Policy = &plan.policies.rules[0].policy;
        Some(Operation::Acquire(Acquire {
            key: LookupKey {
                tenant: String::new(),
                namespace: policy.namespace.clone(),
                origin: Origin::Client,
                key: "k".into(),
            },
            owner: Owner([1; 16]),
            fingerprint: Fingerprint {
                scheme: Scheme(1),
                digest: [0; 32],
            },
            lease_ms: policy.lease_ms,
            retention: Retention {
                ttl_ms: policy.ttl_ms,
                unknown_ttl_ms: policy.unknown_ttl_ms,
            },
            on_unknown: policy.on_unknown,
            kind: idempotency_protocol::AttemptKind::Gateway,
            about: None,
        }))
    }

    /// What a gateway's configuration accepts, the service accepts; one more, and both refuse.
    #[test]
    fn the_limits_of_a_configuration_are_those_of_the_service() {
        for (field, most) in [
            ("lease_ms", MAX_LEASE_MS),
            ("ttl_ms", MAX_TTL_MS),
            ("unknown_ttl_ms", MAX_TTL_MS),
        ] {
            let sent = sent_with(field, most).expect("it is accepted");
            assert_eq!(operation(&sent), Ok(()), "{field}");
            assert!(sent_with(field, most + 1).is_none(), "{field}");
            let Operation::Acquire(mut acquire) = sent else {
                unreachable!()
            };
            match field {
                "lease_ms" => acquire.lease_ms += 1,
                _ => acquire.retention.unknown_ttl_ms += 1,
            }
            let over = operation(&Operation::Acquire(acquire));
            assert!(over.is_err(), "{field}");
        }
    }

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
