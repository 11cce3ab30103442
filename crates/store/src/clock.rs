//! The store's clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in store time: microseconds since the Unix epoch, but monotonic. Below 2⁵³.
pub type Micros = u64;

/// Milliseconds as microseconds, without overflow. Caps at 2⁵² so that sums stay below 2⁵³.
pub fn micros(ms: u64) -> Micros {
    ms.saturating_mul(1_000).min(1 << 52)
}

/// Where a store takes its time from. Never goes backwards while the process runs.
pub trait Clock: Send + Sync + 'static {
    /// The current store time.
    fn now(&self) -> Micros;
}

/// The wall clock at the start, and the monotonic clock from then on: a wall clock that is set
/// back or forth afterwards changes no lease and no TTL.
#[derive(Debug)]
pub struct SystemClock {
    started_at: Micros,
    started: Instant,
}

impl SystemClock {
    /// A clock that starts at the wall clock's time, or at `floor` if that is later. Pass the
    /// newest time that the store has seen in earlier lives: store time never runs backwards,
    /// even if the wall clock did while the store was down.
    pub fn starting_after(floor: Micros) -> SystemClock {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let wall = u64::try_from(wall.as_micros())
            .unwrap_or(u64::MAX)
            .min(1 << 52);
        SystemClock {
            started_at: wall.max(floor),
            started: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Micros {
        let elapsed = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.started_at.saturating_add(elapsed)
    }
}

/// A clock that moves only when told to; for tests.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn at(now: Micros) -> ManualClock {
        ManualClock(AtomicU64::new(now))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Micros {
        self.0.load(Ordering::SeqCst)
    }
}
