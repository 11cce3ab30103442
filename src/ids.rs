//! Maps whose keys are numbers that a host or the filter itself has given out, or owners: nobody outside
//! chooses them, so they need no secret hash.
//!
//! Not trees: a tree's code is made anew for every size of what it holds, and was an eighth of the filter.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by such a key. (Values that are large are best boxed, so that maps share their code.)
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Spreads numbers that follow each other, and random ones.
#[derive(Debug, Default)]
pub struct IdHasher(u64);

/// The golden ratio, as a fraction of 2⁶⁴ and odd (Knuth, The Art of Computer Programming, 6.4).
const RATIO: u64 = 0x9E37_79B9_7F4A_7C15;

impl Hasher for IdHasher {
    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(RATIO);
    }

    fn write(&mut self, bytes: &[u8]) {
        for four in bytes.chunks(4) {
            let number = four.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
            self.write_u32(number);
        }
    }

    fn finish(&self) -> u64 {
        // Where a `usize` has 32 bits, the upper half is not looked at.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::hash::{BuildHasher, Hash};

    /// Of so many places, random numbers would fill 63 %.
    const PLACES: u32 = 1 << 14;

    fn filled(keys: impl Iterator<Item = impl Hash>) -> usize {
        let hash = BuildHasherDefault::<IdHasher>::default();
        let place = |key| hash.hash_one(key) as u32 % PLACES;
        keys.map(place).collect::<BTreeSet<_>>().len()
    }

    #[test]
    fn keys_are_spread_wherever_they_differ() {
        let enough = (PLACES / 2) as usize;
        for shift in [0, 4, 8, 16, 18] {
            let filled = filled((0..PLACES).map(|n| n << shift));
            assert!(
                filled > enough,
                "{filled} places, numbers shifted by {shift}"
            );
        }
        for at in [0, 4, 12] {
            let owner = |n: u32| {
                let mut owner = [0u8; 16];
                owner[at..at + 4].copy_from_slice(&n.to_be_bytes());
                owner
            };
            let filled = filled((0..PLACES).map(owner));
            assert!(
                filled > enough,
                "{filled} places, owners that differ at {at}"
            );
        }
    }
}
