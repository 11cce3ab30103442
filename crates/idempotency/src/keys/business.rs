//! Keys from what an operation is about.

use crate::error::Error;
use idempotency_core::canonical_json;
use serde::Serialize;
use sha2::{Digest, Sha256};

const DOMAIN: &[u8] = b"idempotency/keys/business/1";

/// A key from the fields of an operation: SHA-256 over length-prefixed parts, so that no two different
/// lists of fields make one key.
///
/// Two operations with equal fields are one operation: a customer who wants two coffees gets one. How long
/// that holds is the record's TTL; with a [`Daily`](crate::keys::Daily) window, until midnight. Give it a
/// field that tells intended repetitions apart wherever there is one (a cart, an invoice).
///
/// ```
/// use idempotency::keys::Business;
///
/// let key = Business::new("user-7", "payout")
///     .field("account", "DE00 1234")
///     .field("amount", "100.00 EUR")
///     .key();
/// assert_eq!(key.len(), 64);
/// ```
#[derive(Clone)]
pub struct Business(Sha256);

/// Shows nothing of the fields.
impl std::fmt::Debug for Business {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Business(…)")
    }
}

impl Business {
    /// Begins with who asks, and what for.
    pub fn new(user: &str, operation: &str) -> Business {
        let mut key = Business(Sha256::new());
        key.part(b'D', DOMAIN);
        key.part(b'U', user.as_bytes());
        key.part(b'O', operation.as_bytes());
        key
    }

    /// Adds a field. Their order counts.
    pub fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Business {
        self.part(b'N', name.as_bytes());
        self.part(b'F', value.as_ref());
        self
    }

    /// Adds a value by its JSON form; the order of members does not count.
    ///
    /// # Errors
    ///
    /// [`Error::Json`] if it cannot be written as JSON, [`Error::Payload`] if an object names a member
    /// twice.
    pub fn payload<T: Serialize + ?Sized>(mut self, value: &T) -> Result<Business, Error> {
        let text = serde_json::to_vec(value)?;
        let canonical = canonical_json::canonicalise(&text)
            .map_err(|error| Error::Payload(error.to_string()))?;
        self.part(b'P', &canonical);
        Ok(self)
    }

    /// Adds a date, such as [`Daily::today`](crate::keys::Daily::today). Then equal operations of two days
    /// are two operations, *whatever happens at midnight*: a try at 23:59:59 and its retry at 00:00:01
    /// both execute. A [`Daily`](crate::keys::Daily) window does not have that gap.
    pub fn on(mut self, date: &str) -> Business {
        self.part(b'A', date.as_bytes());
        self
    }

    /// The key: 64 hexadecimal digits.
    pub fn key(self) -> String {
        hex::encode(self.0.finalize())
    }

    fn part(&mut self, tag: u8, bytes: &[u8]) {
        self.0.update([tag]);
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    #[test]
    fn different_operations_have_different_keys() {
        let new = Business::new;
        let payload = |value| new("u", "o").payload(&value).unwrap();
        let all = [
            new("u", "o"),
            new("uo", ""),
            new("", "uo"),
            new("u", "o").field("a", "b"),
            new("u", "o").field("ab", ""),
            new("u", "o").field("", "ab"),
            new("u", "o").field("a", "b").field("c", "d"),
            new("u", "o").field("c", "d").field("a", "b"),
            new("u", "o").on("2026-11-29"),
            new("u", "o").on("2026-11-30"),
            new("u", "o").field("2026-11-29", ""),
            payload(json!({"a": 1})),
            payload(json!({"a": "1"})),
            payload(json!({"a": 1.0})),
        ];
        let count = all.len();
        let keys: BTreeSet<String> = all.into_iter().map(Business::key).collect();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn one_operation_has_one_key() {
        #[derive(Serialize)]
        struct Order {
            b: u8,
            a: u8,
        }
        let order = Business::new("u", "o").payload(&Order { b: 2, a: 1 });
        let same = Business::new("u", "o").payload(&json!({"a": 1, "b": 2}));
        assert_eq!(order.unwrap().key(), same.unwrap().key());
        assert_eq!(
            Business::new("u", "o").field("a", "b").key(),
            "3f1decb01e45525db149c8ffdbeb277fe95f5b5e86bf93f6144bd966a21bcdb1",
            "pinned: a change makes every operation a new one"
        );
    }
}
