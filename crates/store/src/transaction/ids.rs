//! Primary keys.
//!
//! A lookup key can be longer than what a B-tree of PostgreSQL takes. Up to [`MAX`] bytes it is
//! the primary key itself; a longer one is cut there and its hash appended, so that ids of the two
//! kinds differ in length and can never meet.

#[cfg(feature = "postgres")]
use crate::keys;
use idempotency_protocol::LookupKey;
use sha2::{Digest, Sha256};

/// Longest key that is its own id.
const MAX: usize = 1_024;

/// The id of a key, and the key's bytes if the id does not tell them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    pub id: Vec<u8>,
    pub long_key: Option<Vec<u8>>,
}

impl Id {
    pub fn of(key: &LookupKey) -> Id {
        Id::of_bytes(key.to_bytes())
    }

    /// `bytes`: [`LookupKey::to_bytes`].
    pub fn of_bytes(bytes: Vec<u8>) -> Id {
        match bytes.get(..MAX) {
            Some(start) if bytes.len() > MAX => {
                let mut id = start.to_vec();
                id.extend_from_slice(&Sha256::digest(&bytes));
                Id {
                    id,
                    long_key: Some(bytes),
                }
            }
            _ => Id {
                id: bytes,
                long_key: None,
            },
        }
    }

    /// The number of the advisory lock by which the transaction of an application shows that it has this key. Two
    /// keys with one number, or somebody else who uses it, make services less patient, and do no harm.
    pub fn advisory(&self) -> i64 {
        let digest = Sha256::new()
            .chain_update(b"idempotency")
            .chain_update(&self.id)
            .finalize();
        let first = digest.first_chunk().copied().unwrap_or_default();
        i64::from_be_bytes(first)
    }
}

/// The key that is its own id.
#[cfg(feature = "postgres")]
pub(crate) fn short_key(id: &[u8]) -> Option<LookupKey> {
    (id.len() <= MAX).then(|| keys::from_bytes(id)).flatten()
}

/// The ids between which all keys with this prefix are: from the first one on, and below the
/// second one, if there is an end.
#[cfg(feature = "postgres")]
pub(crate) fn range(prefix: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let start = prefix.get(..MAX).unwrap_or(prefix).to_vec();
    let mut end = start.clone();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return (start, Some(end));
        }
    }
    (start, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_keys_have_ids_of_their_own() {
        let long = vec![7; 2_000];
        let id = Id::of_bytes(long.clone());
        assert_eq!(id.id.len(), MAX + 32);
        assert_eq!(id.long_key.as_ref(), Some(&long));
        let mut other = long.clone();
        other.push(7);
        assert_ne!(Id::of_bytes(other).id, id.id);
        // A client that sends the id itself as a key gets another id.
        assert_ne!(Id::of_bytes(id.id.clone()).id, id.id);
        let short = vec![7; MAX];
        assert_eq!(Id::of_bytes(short.clone()).id, short);
    }

    #[test]
    fn ranges_end_after_the_last_key_of_a_prefix() {
        assert_eq!(range(b"ab"), (b"ab".to_vec(), Some(b"ac".to_vec())));
        assert_eq!(range(&[1, 255]), (vec![1, 255], Some(vec![2])));
        assert_eq!(range(&[255]), (vec![255], None));
        assert_eq!(range(b""), (Vec::new(), None));
    }
}
