//! The keys that a process uses now, and what it met without them.

use super::keys::{Keys, KeysError};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The keys of a process, which can be replaced while it runs. Shared by everything that seals or opens.
#[derive(Debug)]
pub struct KeyRing {
    keys: RwLock<Arc<Keys>>,
    counts: [AtomicU64; Trouble::ALL.len()],
    /// Records in clear may be in the store, from before the encryption.
    has_clear: AtomicBool,
}

/// What can be wrong with something sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// A fingerprint could not be compared: its key is not among ours.
    MissingForFingerprint,
    /// An answer could not be opened: its key is not among ours.
    MissingForAnswer,
    /// A description could not be opened: its key is not among ours.
    MissingForDescription,
    /// The key is there, and what is sealed was changed, cut, or put under another key or fence.
    Damaged,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Trouble; 4] = [
        Trouble::MissingForFingerprint,
        Trouble::MissingForAnswer,
        Trouble::MissingForDescription,
        Trouble::Damaged,
    ];

    /// In one word or two, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Trouble::MissingForFingerprint => "missing_key_fingerprint",
            Trouble::MissingForAnswer => "missing_key_answer",
            Trouble::MissingForDescription => "missing_key_description",
            Trouble::Damaged => "damaged",
        }
    }
}

impl KeyRing {
    /// These keys, for now.
    pub fn new(keys: Keys) -> Arc<KeyRing> {
        Arc::new(KeyRing {
            keys: RwLock::new(Arc::new(keys)),
            counts: Default::default(),
            has_clear: AtomicBool::new(false),
        })
    }

    /// The keys that are in use.
    pub fn keys(&self) -> Arc<Keys> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&keys)
    }

    /// Uses these from now on.
    ///
    /// # Errors
    ///
    /// The index key is another one, or a key changed under its name. Then nothing changes.
    pub fn replace(&self, keys: Keys) -> Result<(), KeysError> {
        let mut now = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.may_follow(&now)?;
        *now = Arc::new(keys);
        Ok(())
    }

    /// Whether there may be records in clear: not once a rewrap has gone through all of them.
    pub fn has_clear(&self) -> bool {
        self.has_clear.load(Ordering::Acquire)
    }

    pub(super) fn set_has_clear(&self, has_clear: bool) {
        self.has_clear.store(has_clear, Ordering::Release);
    }

    /// How often this process has met that.
    pub fn count(&self, trouble: Trouble) -> u64 {
        self.counter(trouble).load(Ordering::Relaxed)
    }

    pub(super) fn note(&self, trouble: Trouble) {
        self.counter(trouble).fetch_add(1, Ordering::Relaxed);
    }

    fn counter(&self, trouble: Trouble) -> &AtomicU64 {
        let [fingerprint, answer, description, damaged] = &self.counts;
        match trouble {
            Trouble::MissingForFingerprint => fingerprint,
            Trouble::MissingForAnswer => answer,
            Trouble::MissingForDescription => description,
            Trouble::Damaged => damaged,
        }
    }
}
