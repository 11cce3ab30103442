//! Counting answers: when a majority is reached, and when it cannot be any more.

use std::fmt;
use std::time::Duration;

/// Added to every drift: what a node's clock cannot resolve.
const LEAST_DRIFT: Duration = Duration::from_millis(2);

/// One node's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Vote {
    /// The lock is ours (or released, if that was asked for).
    Yes,
    /// Another owner holds it for that long.
    Held(Duration),
    /// We have released it ourselves.
    Released,
    /// It cannot answer, and why.
    Failed(String),
}

/// The answers so far.
#[derive(Clone, Debug)]
pub(in crate::redis) struct Tally {
    nodes: usize,
    quorum: usize,
    yes: usize,
    /// What is left to other owners, one for each node that they hold.
    held: Vec<Duration>,
    released: usize,
    failed: usize,
    /// What the first node said that could not answer.
    why: Option<String>,
}

impl Tally {
    pub(super) fn new(nodes: usize, quorum: usize) -> Tally {
        Tally {
            nodes,
            quorum,
            yes: 0,
            held: Vec::new(),
            released: 0,
            failed: 0,
            why: None,
        }
    }

    /// Counts one node's answer.
    pub(super) fn count(&mut self, vote: Vote) {
        match vote {
            Vote::Yes => self.yes += 1,
            Vote::Held(left) => self.held.push(left),
            Vote::Released => self.released += 1,
            Vote::Failed(why) => {
                self.failed += 1;
                self.why.get_or_insert(why);
            }
        }
    }

    /// Whether a majority said yes; `None` while that is open.
    pub fn verdict(&self) -> Option<bool> {
        if self.yes >= self.quorum {
            return Some(true);
        }
        let no = self.held.len() + self.released + self.failed;
        (no > self.nodes - self.quorum).then_some(false)
    }

    /// Whether no majority can be had for anybody, since too many nodes do not answer.
    pub fn is_deaf(&self) -> bool {
        let heard = self.yes + self.held.len() + self.released;
        heard < self.quorum && self.held.is_empty() && self.released == 0
    }

    /// When enough locks of others will have ended for a majority; `None` if that would not do.
    pub fn free_in(&self) -> Option<Duration> {
        let needed = self.quorum.checked_sub(self.yes + 1)?;
        let mut held = self.held.clone();
        held.sort_unstable();
        held.get(needed).copied()
    }
}

/// For errors.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} nodes, {} are needed; held by another on {}, no answer from {}",
            self.yes,
            self.nodes,
            self.quorum,
            self.held.len(),
            self.nodes - self.yes - self.held.len() - self.released,
        )?;
        match &self.why {
            Some(why) => write!(f, " ({why})"),
            None => Ok(()),
        }
    }
}

/// For how long nodes are told to hold a lock that must be valid for `lease` from before they were
/// asked: a node whose clock is fast lets go early by the drift. (Redlock as it is written tells the
/// nodes the lease, and calls the lock valid for lease − elapsed − drift.)
pub(super) fn hold(lease: Duration, drift_percent: u32) -> Duration {
    lease + lease.saturating_mul(drift_percent) / 100 + LEAST_DRIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(nodes: usize, votes: &[Vote]) -> Tally {
        let mut tally = Tally::new(nodes, nodes / 2 + 1);
        votes.iter().for_each(|vote| tally.count(vote.clone()));
        tally
    }

    fn held(ms: u64) -> Vote {
        Vote::Held(Duration::from_millis(ms))
    }

    #[test]
    fn verdicts() {
        use Vote::{Released, Yes};
        let failed = || Vote::Failed("gone".to_owned());
        for (nodes, votes, verdict) in [
            (5, vec![], None),
            (5, vec![Yes, Yes], None),
            (5, vec![Yes, Yes, held(1), failed(), Yes], Some(true)),
            (5, vec![Yes, Yes, Yes], Some(true)),
            (5, vec![Yes, Yes, held(1), Released], None),
            (5, vec![Yes, held(1), held(1), failed()], Some(false)),
            (5, vec![Released, Released, failed()], Some(false)),
            // Half of an even number is no majority.
            (4, vec![Yes, Yes], None),
            (4, vec![Yes, Yes, held(1)], None),
            (4, vec![Yes, Yes, held(1), held(1)], Some(false)),
        ] {
            assert_eq!(tally(nodes, &votes).verdict(), verdict, "{votes:?}");
        }
    }

    #[test]
    fn when_it_is_worth_while_to_ask_again() {
        use Vote::{Released, Yes};
        let failed = || Vote::Failed("gone".to_owned());
        for (votes, ms) in [
            (vec![held(9), held(5), held(7)], Some(9)),
            (vec![Yes, held(9), held(5), held(7)], Some(7)),
            (vec![Yes, Yes, held(9), held(5), held(7)], Some(5)),
            (vec![Yes, held(9), failed(), failed(), failed()], None),
            (vec![held(1), held(2), Released, Released, Released], None),
            (vec![Yes, Yes, failed(), failed(), failed()], None),
        ] {
            let free_in = tally(5, &votes).free_in();
            assert_eq!(free_in, ms.map(Duration::from_millis), "{votes:?}");
        }
    }

    #[test]
    fn a_lock_outlives_its_lease_on_a_fast_clock() {
        let lease = Duration::from_secs(60);
        let told = hold(lease, 1);
        assert_eq!(told, Duration::from_millis(60_602));
        // A clock that is 1 % fast lets 60 s pass in 59.4 s: the lock is still there.
        assert!(told.mul_f64(1.0 / 1.01) >= lease);
    }
}
