//! What logs may say about a key. Keys and tenants can be secrets, so a log line carries a hash
//! prefix: enough to find the lines of one key, not enough to read it.

use idempotency_protocol::LookupKey;
use sha2::{Digest, Sha256};
use std::fmt;

pub use idempotency_protocol::log_id;

/// A lookup key in a log line; the hash is made when the line is written.
pub struct Redacted<'a>(pub &'a LookupKey);

impl fmt::Display for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&log_id(self.0))
    }
}

/// The twelve hex digits that stand for a tenant in logs.
pub fn tenant_id(tenant: &str) -> String {
    let digest = Sha256::new_with_prefix(b"idempotency-tenant-id\0").chain_update(tenant);
    let mut id = hex::encode(digest.finalize());
    id.truncate(12);
    id
}

#[cfg(test)]
mod tests {
    use idempotency_protocol::{LookupKey, Origin};

    /// Whoever reads a line of a gateway finds the record.
    #[test]
    fn gateways_make_the_same_log_id() {
        let key = LookupKey {
            tenant: "acme".into(),
            namespace: "payments".into(),
            origin: Origin::Client,
            key: "k-1".into(),
        };
        let gateway = idempotency_protocol::log_id(&key);
        assert_eq!(gateway, super::log_id(&key));
    }
}
