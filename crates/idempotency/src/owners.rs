//! Tokens of executions. A token allows its holder to end the execution, so tokens cannot be guessed, and no two are
//! the same.

use crate::claim::Sent;
use crate::error::Error;
use idempotency_protocol::Owner;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cell::RefCell;

/// Tokens from one seed.
const FROM_ONE_SEED: u32 = 4_096;

/// A generator, and how many tokens it may still make.
struct TokenSource {
    rng: StdRng,
    left: u32,
}

thread_local! {
    /// One for each thread: a token costs no call of the operating system, and no lock.
    static SOURCE: RefCell<Option<TokenSource>> = const { RefCell::new(None) };
}

/// A new one. What is random in it comes from a generator for cryptography (`StdRng`), which the operating system
/// seeds; the time is mixed in, so that processes that were forked from one, and share its seed, do not share tokens.
pub(crate) fn new(sent: &Sent) -> Result<Owner, Error> {
    let mut token = SOURCE.with_borrow_mut(|source| -> Result<[u8; 16], Error> {
        let source = match source {
            Some(source) if source.left > 0 => source,
            spent => spent.insert(seeded()?),
        };
        source.left -= 1;
        let mut token = [0; 16];
        source.rng.fill_bytes(&mut token);
        Ok(token)
    })?;
    for (byte, mixed) in token.iter_mut().zip(sent.nanos().to_le_bytes()) {
        *byte ^= mixed;
    }
    Ok(Owner(token))
}

fn seeded() -> Result<TokenSource, Error> {
    let mut seed = <StdRng as SeedableRng>::Seed::default();
    getrandom::fill(&mut seed).map_err(|error| Error::NoRandomness(error.to_string()))?;
    Ok(TokenSource {
        rng: StdRng::from_seed(seed),
        left: FROM_ONE_SEED,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_are_the_same_also_of_one_moment_and_over_seeds() {
        let sent = Sent::now();
        let make = move || -> Vec<Owner> {
            let one = |_| new(&sent).unwrap();
            (0..2 * FROM_ONE_SEED + 1).map(one).collect()
        };
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(make)).collect();
        let all = threads.into_iter().flat_map(|t| t.join().unwrap());
        let all: Vec<Owner> = all.collect();
        let different: HashSet<Owner> = all.iter().copied().collect();
        assert_eq!(different.len(), all.len());
    }
}
