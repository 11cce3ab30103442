//! Waiting for a condition of another process.

use std::time::{Duration, Instant};

/// Asks until `condition` holds; `false` when `timeout` is over first.
///
/// Other processes cannot wake us, so this looks every few milliseconds.
pub fn until(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
