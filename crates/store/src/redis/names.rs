//! Names of records in Redis.
//!
//! `<prefix>{<tag>}<lookup key>`. The tag, which alone decides the Cluster slot, is a hash of the
//! lookup key: were it part of the key, a client could put all of its keys into one slot.

use crate::keys;
use bytes::Bytes;
use idempotency_protocol::LookupKey;
use sha2::{Digest, Sha256};

const TAG: usize = 8;

/// Makes and reads names.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub fn new(prefix: &str) -> Names {
        Names {
            prefix: prefix.to_owned(),
        }
    }

    /// The name of a record.
    pub fn of(&self, key: &LookupKey) -> Bytes {
        let lookup = key.to_bytes();
        let mut name = Vec::with_capacity(self.prefix.len() + TAG + 2 + lookup.len());
        name.extend_from_slice(self.prefix.as_bytes());
        push_tag(&mut name, &lookup);
        name.extend_from_slice(&lookup);
        Bytes::from(name)
    }

    /// The names of a tenant's ledger, in one slot; no record has such a name.
    pub fn ledger(&self, tenant: &str) -> [Bytes; 3] {
        ["ends", "leases", "facts"].map(|what| {
            let mut name = format!("{}quota:", self.prefix).into_bytes();
            push_tag(&mut name, tenant.as_bytes());
            name.extend_from_slice(what.as_bytes());
            name.push(b':');
            name.extend_from_slice(tenant.as_bytes());
            Bytes::from(name)
        })
    }

    /// A name that no record has.
    pub fn probe(&self) -> Bytes {
        Bytes::from(format!("{}probe", self.prefix))
    }

    /// The lookup key's bytes in a name; `None` if it is no name of ours.
    pub fn lookup<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        let rest = name.strip_prefix(self.prefix.as_bytes())?;
        let rest = rest.strip_prefix(b"{")?;
        rest.get(TAG..)?.strip_prefix(b"}")
    }

    /// The lookup key of a name.
    pub fn key(&self, name: &[u8]) -> Option<LookupKey> {
        keys::from_bytes(self.lookup(name)?)
    }

    /// A glob that matches the names of all records with this key, of every tenant, and few others.
    pub fn pattern_of_key(&self, key: &str) -> Vec<u8> {
        let mut pattern = self.pattern(b"");
        pattern.extend(escaped(key.as_bytes()));
        pattern
    }

    /// A glob that all names match whose lookup key begins with `prefix`, and few others.
    pub fn pattern(&self, prefix: &[u8]) -> Vec<u8> {
        let mut pattern = escaped(self.prefix.as_bytes());
        pattern.push(b'{');
        pattern.extend([b'?'; TAG]);
        pattern.push(b'}');
        pattern.extend(escaped(prefix));
        pattern.push(b'*');
        pattern
    }
}

/// Appends what decides the slot.
fn push_tag(name: &mut Vec<u8>, of: &[u8]) {
    let digest: [u8; 32] = Sha256::digest(of).into();
    name.push(b'{');
    for byte in digest.iter().take(TAG / 2) {
        for digit in [byte >> 4, byte & 15] {
            name.push(if digit < 10 {
                b'0' + digit
            } else {
                b'a' + digit - 10
            });
        }
    }
    name.push(b'}');
}

fn escaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        if b"*?[]\\^-".contains(byte) {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_protocol::Origin;

    fn key(text: &str) -> LookupKey {
        LookupKey {
            tenant: "t*".into(),
            namespace: "{n}".into(),
            origin: Origin::Derived,
            key: text.into(),
        }
    }

    #[test]
    fn a_name_survives_the_round_trip() {
        let names = Names::new("p:");
        for text in ["k", "{a}", "}", "\0\n", "ü"] {
            let name = names.of(&key(text));
            assert_eq!(names.key(&name), Some(key(text)));
        }
        assert_eq!(names.key(b"p:{12345678"), None);
        assert_eq!(names.key(b"other"), None);
        for name in names.ledger("t*") {
            assert_eq!(names.lookup(&name), None);
        }
    }

    #[test]
    fn a_client_s_braces_do_not_choose_the_slot() {
        let names = Names::new("p:");
        let (a, b) = (names.of(&key("{x}1")), names.of(&key("{x}2")));
        assert_ne!(a.get(..12), b.get(..12));
    }

    #[test]
    fn wildcards_in_names_are_plain_in_patterns() {
        let pattern = Names::new("p:").pattern(b"a*");
        assert_eq!(pattern, b"p:{????????}a\\**");
    }
}
