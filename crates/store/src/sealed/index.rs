//! What stands in the place of keys, tenants, fingerprints and digests: they must stay comparable, and tell nothing.
//!
//! Tenant and key become MACs under the index key, which never changes, each in a text that begins with `~1`. The
//! namespace stays: it is an operator's word, and lists are made by it. A fingerprint becomes a MAC under a key that
//! seals, and its scheme a number that follows from the scheme and the key's name: under another key it is not
//! comparable. The digest of an outcome becomes a MAC under the index key, so that a complete that is sent again after
//! a rotation is the same complete.

use super::keys::{Index, Key};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use hmac::{Hmac, Mac};
use idempotency_protocol::{Fingerprint, LookupKey, Origin, Scheme};
use sha2::{Digest, Sha256};

/// How every name begins that is a MAC.
const MARK: &str = "~1";
/// Bytes of a tenant's MAC that are kept, and of a key's.
const TENANT: usize = 16;
const KEY: usize = 32;

fn name(mac: &Hmac<Sha256>, text: &str, bytes: usize) -> String {
    let mac = mac.clone().chain_update(text).finalize().into_bytes();
    let mut name = MARK.to_owned();
    URL_SAFE_NO_PAD.encode_string(mac.get(..bytes).unwrap_or(&mac), &mut name);
    name
}

impl Index {
    /// What stands for a tenant.
    pub fn tenant(&self, tenant: &str) -> String {
        name(&self.tenant, tenant, TENANT)
    }

    /// What stands for a client's key: the same for every tenant, so that a key is found without its tenant.
    pub fn key(&self, key: &str) -> String {
        name(&self.key, key, KEY)
    }

    /// The key under which a record is kept.
    pub fn place(&self, key: &LookupKey) -> LookupKey {
        LookupKey {
            tenant: self.tenant(&key.tenant),
            namespace: key.namespace.clone(),
            origin: key.origin,
            key: self.key(&key.key),
        }
    }

    /// The digest of an outcome, from that of its plaintext.
    pub fn outcome(&self, place: &LookupKey, digest: &[u8; 32]) -> [u8; 32] {
        let mac = self.outcome.clone().chain_update(place.to_bytes());
        mac.chain_update(digest).finalize().into_bytes().into()
    }
}

impl Key {
    /// A fingerprint of this record.
    pub fn fingerprint(&self, place: &LookupKey, of: &Fingerprint) -> Fingerprint {
        let mac = self.fingerprint.clone().chain_update(place.to_bytes());
        let mac = mac.chain_update(of.scheme.0.to_be_bytes());
        Fingerprint {
            scheme: self.scheme(of.scheme),
            digest: mac.chain_update(of.digest).finalize().into_bytes().into(),
        }
    }

    /// What stands for a scheme: it names the key.
    fn scheme(&self, of: Scheme) -> Scheme {
        let digest = Sha256::new_with_prefix(b"idempotency-sealed-scheme\0")
            .chain_update(of.0.to_be_bytes())
            .chain_update(&self.name)
            .finalize();
        let first = digest.first_chunk().copied().unwrap_or_default();
        Scheme(u64::from_be_bytes(first))
    }
}

/// Whether this is a key under which a sealed record is kept, rather than a client's.
pub(super) fn is_place(key: &LookupKey) -> bool {
    is_name(&key.tenant, TENANT) && is_name(&key.key, KEY)
}

fn is_name(text: &str, bytes: usize) -> bool {
    let Some(mac) = text.strip_prefix(MARK) else {
        return false;
    };
    URL_SAFE_NO_PAD
        .decode(mac)
        .is_ok_and(|mac| mac.len() == bytes)
}

/// The record that says that a store is sealed: no client can name it.
pub(super) fn marker(what: &str) -> LookupKey {
    LookupKey {
        tenant: String::new(),
        namespace: MARKERS.to_owned(),
        origin: Origin::Derived,
        key: what.to_owned(),
    }
}

const MARKERS: &str = "\u{1}idempotency-gateway";

/// Whether this is one of [`marker`].
pub(super) fn is_marker(key: &LookupKey) -> bool {
    key.namespace == MARKERS && key.tenant.is_empty() && key.origin == Origin::Derived
}

#[cfg(test)]
mod tests {
    use super::super::keys::Keys;
    use super::*;

    fn keys(names: &[&str]) -> Keys {
        let lines = names.iter().map(|name| Keys::line(name).unwrap());
        Keys::parse(&lines.collect::<String>()).unwrap()
    }

    fn key(tenant: &str, key: &str) -> LookupKey {
        LookupKey {
            tenant: tenant.into(),
            namespace: "orders".into(),
            origin: Origin::Client,
            key: key.into(),
        }
    }

    #[test]
    fn a_place_tells_nothing_but_the_namespace() {
        let index = keys(&["index", "k"]).index;
        let place = index.place(&key("acme", "order-1"));
        assert!(is_place(&place) && !is_place(&key("acme", "order-1")));
        assert_eq!(place.namespace, "orders");
        assert_eq!(place, index.place(&key("acme", "order-1")));
        let other = index.place(&key("acme2", "order-1"));
        assert_eq!(
            (place.key == other.key, place.tenant == other.tenant),
            (true, false)
        );
        let elsewhere = keys(&["index", "k"]).index;
        assert_ne!(elsewhere.place(&key("acme", "order-1")), place);
        assert!(!is_place(&key("~1AAAA", "~1AAAA")));
    }

    #[test]
    fn a_fingerprint_names_its_key_and_its_record() {
        let keys = keys(&["index", "a", "b"]);
        let [a, b] = keys.keys.as_slice() else {
            panic!("two keys");
        };
        let of = |scheme, digest| Fingerprint {
            scheme: Scheme(scheme),
            digest: [digest; 32],
        };
        let (here, there) = (key("t", "1"), key("t", "2"));
        let mac = a.fingerprint(&here, &of(1, 1));
        assert_eq!(mac, a.fingerprint(&here, &of(1, 1)));
        assert_ne!(mac.digest, a.fingerprint(&here, &of(1, 2)).digest);
        assert_ne!(mac.digest, a.fingerprint(&there, &of(1, 1)).digest);
        assert_ne!(mac.scheme, a.fingerprint(&here, &of(2, 1)).scheme);
        assert_ne!(mac.scheme, b.fingerprint(&here, &of(1, 1)).scheme);
    }

    #[test]
    fn a_digest_belongs_to_its_record() {
        let index = keys(&["index", "k"]).index;
        let (here, there) = (key("t", "1"), key("t", "2"));
        let digest = index.outcome(&here, &[7; 32]);
        assert_eq!(digest, index.outcome(&here, &[7; 32]));
        assert_ne!(digest, index.outcome(&there, &[7; 32]));
        assert_ne!(digest, index.outcome(&here, &[8; 32]));
    }
}
