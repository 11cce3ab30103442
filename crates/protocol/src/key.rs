//! What identifies a record, a payload and an execution.

use sha2::{Digest, Sha256};
use std::fmt;

/// Who made the idempotency key. Part of the lookup key, so that a client can never name a
/// derived key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Origin {
    /// The client sent it in a request header.
    Client = 0,
    /// The filter derived it from tenant, operation and fingerprint.
    Derived = 1,
}

/// The identity of a record: the promise "executed at most once" holds per lookup key.
///
/// It never contains a rule's name or position: re-ordering a configuration must not re-execute.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupKey {
    /// The verified caller; empty for rules with `scope: "global"`.
    pub tenant: String,
    /// Operator-chosen separation of key spaces; empty by default.
    pub namespace: String,
    /// Client key or derived key.
    pub origin: Origin,
    /// The key itself, case-sensitive, 1–255 characters.
    pub key: String,
}

impl LookupKey {
    /// An unambiguous byte form (length-prefixed parts), usable as a database key. Keys of one
    /// tenant are adjacent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(9 + self.tenant.len() + self.namespace.len() + self.key.len());
        for part in [&self.tenant, &self.namespace] {
            // Tenants and namespaces are bounded well below 64 KiB by the filter's limits and by
            // the decoder; saturating keeps this total.
            let len = u16::try_from(part.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(part.as_bytes());
        }
        out.push(self.origin as u8);
        out.extend_from_slice(self.key.as_bytes());
        out
    }
}

/// Keys can be secrets (a client may put an order number or worse into them): `Debug` shows only
/// their length.
impl fmt::Debug for LookupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookupKey")
            .field("tenant", &format_args!("<{} bytes>", self.tenant.len()))
            .field("namespace", &self.namespace)
            .field("origin", &self.origin)
            .field("key", &format_args!("<{} bytes>", self.key.len()))
            .finish()
    }
}

/// A random token, made by the filter before the acquire is sent, good for one execution.
/// Complete, fail, abandon and extend are compare-and-set on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub [u8; 16]);

/// The owner is a capability: `Debug` shows only its first two bytes.
impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, ..] = self.0;
        write!(f, "Owner({a:02x}{b:02x}…)")
    }
}

/// Identifies *how* a fingerprint was made (algorithm version and what it covers). Digests of
/// different schemes are not comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scheme(pub u64);

/// Digest of a request's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// How the digest was made.
    pub scheme: Scheme,
    /// SHA-256.
    pub digest: [u8; 32],
}

/// The twelve hexadecimal digits that stand for a key in logs, metrics and search.
///
/// Keys and tenants can be secrets, so a log line carries the beginning of a hash: enough to find the lines of one key,
/// not enough to read it. Gateway, service and store make the same one.
pub fn log_id(key: &LookupKey) -> String {
    let digest: [u8; 32] = Sha256::new_with_prefix(b"idempotency-log-id\0")
        .chain_update(key.to_bytes())
        .finalize()
        .into();
    let digits = |byte: &u8| [byte >> 4, byte & 15];
    let digit = |digit: u8| char::from_digit(digit.into(), 16).unwrap_or('0');
    digest.iter().take(6).flat_map(digits).map(digit).collect()
}
