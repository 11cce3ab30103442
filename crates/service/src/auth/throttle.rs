//! Slows down peers whose requests fail to authenticate.
//!
//! Only the refusal is delayed, and only after it is certain: a request with a valid token never
//! comes here, whatever others at the same address do.

use crate::peer::{Address, Peer};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures at once before a peer is slowed down.
const BURST: u32 = 64;
/// After that, one failure per this time and peer.
const INTERVAL: Duration = Duration::from_millis(125);
/// Longest delay of one refusal.
const MAX_DELAY: Duration = Duration::from_secs(2);
/// Peers that are remembered. All further ones share one place.
const MAX_PEERS: usize = 1024;
/// At most one log line per this time.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The failures of late.
pub(crate) struct Throttle {
    state: Mutex<ThrottleState>,
}

struct ThrottleState {
    /// When each peer has worked off its failures.
    clear_at: HashMap<Peer, Instant>,
    /// The same for all peers that have no place.
    others_clear_at: Option<Instant>,
    next_line: Option<Instant>,
    unlogged: u64,
}

/// What to do about a failure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// How long to wait before the refusal is sent.
    pub delay: Duration,
    /// Write a log line; so many failures were not logged since the last one.
    pub log: Option<u64>,
}

impl Throttle {
    pub(crate) fn new() -> Throttle {
        Throttle {
            state: Mutex::new(ThrottleState {
                clear_at: HashMap::new(),
                others_clear_at: None,
                next_line: None,
                unlogged: 0,
            }),
        }
    }

    /// A request of this peer has failed now.
    pub(crate) fn failed(&self, from: Address, now: Instant) -> Verdict {
        let mut state = self.state();
        Verdict {
            delay: state.delay(from.peer(), now),
            log: state.line(now),
        }
    }

    fn state(&self) -> MutexGuard<'_, ThrottleState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ThrottleState {
    fn delay(&mut self, peer: Peer, now: Instant) -> Duration {
        if self.clear_at.len() >= MAX_PEERS && !self.clear_at.contains_key(&peer) {
            self.clear_at.retain(|_, clear_at| *clear_at > now);
        }
        let place = if self.clear_at.len() < MAX_PEERS || self.clear_at.contains_key(&peer) {
            self.clear_at.entry(peer).or_insert(now)
        } else {
            self.others_clear_at.get_or_insert(now)
        };
        let clear_at = (*place).max(now) + INTERVAL;
        let delay = clear_at
            .saturating_duration_since(now)
            .saturating_sub(INTERVAL * BURST)
            .min(MAX_DELAY);
        // The debt does not grow beyond the longest delay.
        *place = clear_at.min(now + INTERVAL * BURST + MAX_DELAY);
        delay
    }

    fn line(&mut self, now: Instant) -> Option<u64> {
        if self.next_line.is_some_and(|next| now < next) {
            self.unlogged += 1;
            return None;
        }
        self.next_line = Some(now + LOG_INTERVAL);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(n: u32) -> Address {
        let ip = std::net::Ipv4Addr::from(n);
        Address::Tcp((ip, 1).into())
    }

    #[test]
    fn a_burst_is_free_then_delays_grow_to_their_bound_and_pass() {
        let throttle = Throttle::new();
        let now = Instant::now();
        for n in 0..BURST {
            assert_eq!(throttle.failed(from(1), now).delay, Duration::ZERO, "{n}");
        }
        assert_eq!(throttle.failed(from(1), now).delay, INTERVAL);
        for _ in 0..100 {
            throttle.failed(from(1), now);
        }
        assert_eq!(throttle.failed(from(1), now).delay, MAX_DELAY);
        assert_eq!(throttle.failed(from(2), now).delay, Duration::ZERO);
        let later = now + INTERVAL * BURST + MAX_DELAY;
        assert_eq!(throttle.failed(from(1), later).delay, Duration::ZERO);
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::new();
        let now = Instant::now();
        for n in 0..5_000 {
            throttle.failed(from(n), now);
        }
        assert_eq!(throttle.state().clear_at.len(), MAX_PEERS);
        assert_eq!(throttle.failed(from(9_999), now).delay, MAX_DELAY, "shared");
        let later = now + MAX_DELAY + INTERVAL * (BURST + 1);
        assert_eq!(throttle.failed(from(9_999), later).delay, Duration::ZERO);
        assert_eq!(throttle.state().clear_at.len(), 1);
    }

    #[test]
    fn one_line_a_second_tells_how_many_were_left_out() {
        let throttle = Throttle::new();
        let now = Instant::now();
        assert_eq!(throttle.failed(from(1), now).log, Some(0));
        assert_eq!(throttle.failed(from(1), now).log, None);
        assert_eq!(throttle.failed(from(2), now).log, None);
        assert_eq!(throttle.failed(from(2), now + LOG_INTERVAL).log, Some(2));
    }
}
