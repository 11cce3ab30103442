//! The budget of waits: capped per process, tenant and key, and separate from everything else.

use idempotency_protocol::LookupKey;
use std::collections::hash_map::{Entry, RandomState};
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who is waiting.
pub(crate) struct Waits {
    caps: Caps,
    hasher: RandomState,
    counts: Mutex<Counts>,
}

#[derive(Clone, Copy)]
pub(crate) struct Caps {
    pub process: usize,
    pub tenant: usize,
    pub key: usize,
}

#[derive(Default)]
struct Counts {
    total: usize,
    // Hashes, not names: a waiter must not cost a copy of its key. A collision only makes two
    // keys share a cap.
    tenants: HashMap<u64, usize>,
    keys: HashMap<u64, usize>,
}

/// One place in the budget; given back on drop.
pub(crate) struct Place {
    waits: Arc<Waits>,
    tenant: u64,
    key: u64,
}

impl Waits {
    pub(crate) fn new(caps: Caps) -> Arc<Waits> {
        Arc::new(Waits {
            caps,
            hasher: RandomState::new(),
            counts: Mutex::default(),
        })
    }

    /// A place, if there is one.
    pub(crate) fn enter(self: &Arc<Waits>, key: &LookupKey) -> Option<Place> {
        let tenant = self.hasher.hash_one(&key.tenant);
        let key = self.hasher.hash_one(key);
        let mut counts = self.counts();
        let room = counts.total < self.caps.process
            && counts
                .tenants
                .get(&tenant)
                .is_none_or(|n| *n < self.caps.tenant)
            && counts.keys.get(&key).is_none_or(|n| *n < self.caps.key);
        if !room {
            return None;
        }
        counts.total += 1;
        *counts.tenants.entry(tenant).or_default() += 1;
        *counts.keys.entry(key).or_default() += 1;
        Some(Place {
            waits: self.clone(),
            tenant,
            key,
        })
    }

    /// How many wait now.
    pub(crate) fn total(&self) -> usize {
        self.counts().total
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fn leave(map: &mut HashMap<u64, usize>, id: u64) {
            if let Entry::Occupied(mut entry) = map.entry(id) {
                if *entry.get() <= 1 {
                    entry.remove();
                } else {
                    *entry.get_mut() -= 1;
                }
            }
        }
        let mut counts = self.waits.counts();
        counts.total = counts.total.saturating_sub(1);
        leave(&mut counts.tenants, self.tenant);
        leave(&mut counts.keys, self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_protocol::Origin;

    fn key(tenant: &str, key: &str) -> LookupKey {
        LookupKey {
            tenant: tenant.into(),
            namespace: String::new(),
            origin: Origin::Client,
            key: key.into(),
        }
    }

    #[test]
    fn each_cap_holds_and_places_come_back() {
        let waits = Waits::new(Caps {
            process: 4,
            tenant: 3,
            key: 2,
        });
        let a1 = waits.enter(&key("a", "1")).unwrap();
        let _a1 = waits.enter(&key("a", "1")).unwrap();
        assert!(waits.enter(&key("a", "1")).is_none(), "per key");
        let _a2 = waits.enter(&key("a", "2")).unwrap();
        assert!(waits.enter(&key("a", "3")).is_none(), "per tenant");
        let _b1 = waits.enter(&key("b", "1")).unwrap();
        assert!(waits.enter(&key("c", "1")).is_none(), "per process");
        drop(a1);
        assert_eq!(waits.total(), 3);
        let again = waits.enter(&key("a", "1")).unwrap();
        drop((again, _a1, _a2, _b1));
        let counts = waits.counts();
        assert!(counts.total == 0 && counts.tenants.is_empty() && counts.keys.is_empty());
    }
}
