//! Fences of executions that this process was told of, by their owners.
//!
//! A complete names its owner, and what it stores is sealed for its fence. If the fence is not here, the store is asked.

use idempotency_protocol::{LookupKey, Owner};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

/// Owners of one generation. Two are kept: about 6 MB at most.
const GENERATION: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct Fences {
    hashes: RandomState,
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Owner, Granted>,
    old: HashMap<Owner, Granted>,
}

/// What an owner was granted last. An owner should be good for one execution; one that is used for two keys is asked
/// about in the store, since what is sealed for a wrong fence cannot be opened.
#[derive(Clone, Copy, Debug)]
struct Granted {
    /// The hash of where the record is.
    place: u64,
    fence: u64,
}

impl Fences {
    pub fn put(&self, place: &LookupKey, owner: Owner, fence: u64) {
        let place = self.hashes.hash_one(place);
        let mut all = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if all.young.len() >= GENERATION {
            all.old = std::mem::take(&mut all.young);
        }
        all.young.insert(owner, Granted { place, fence });
    }

    pub fn get(&self, place: &LookupKey, owner: Owner) -> Option<u64> {
        let place = self.hashes.hash_one(place);
        let all = self.generations.lock();
        let all = all.unwrap_or_else(PoisonError::into_inner);
        let granted = all.young.get(&owner).or_else(|| all.old.get(&owner));
        let granted = granted.filter(|granted| granted.place == place);
        granted.map(|granted| granted.fence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_in_bulk() {
        let fences = Fences::default();
        let owner = |n: usize| Owner(u128::try_from(n).unwrap().to_be_bytes());
        let place = place("k");
        for n in 0..=2 * GENERATION {
            fences.put(&place, owner(n), n as u64);
        }
        for (n, kept) in [(0, false), (GENERATION, true), (2 * GENERATION, true)] {
            let fence = kept.then_some(n as u64);
            assert_eq!(fences.get(&place, owner(n)), fence);
        }
    }

    #[test]
    fn an_owner_of_two_keys_is_no_fence_of_the_first() {
        let fences = Fences::default();
        let owner = Owner([7; 16]);
        fences.put(&place("a"), owner, 1);
        fences.put(&place("b"), owner, 2);
        assert_eq!(fences.get(&place("a"), owner), None);
        assert_eq!(fences.get(&place("b"), owner), Some(2));
    }

    fn place(key: &str) -> LookupKey {
        LookupKey {
            tenant: "t".into(),
            namespace: String::new(),
            origin: idempotency_protocol::Origin::Client,
            key: key.into(),
        }
    }
}
