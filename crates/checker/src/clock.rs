//! The one clock of a history.

use rustix::time::{clock_gettime, ClockId};

/// A moment: microseconds of the machine's monotonic clock, which all its processes share.
pub type Micros = u64;

/// One millisecond.
pub const MS: Micros = 1_000;

/// One second.
pub const SECOND: Micros = 1_000 * MS;

/// This moment.
pub fn now() -> Micros {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds * SECOND + nanos / 1_000
}
