//! What would be logged with every operation, logged now and then.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines of the same text.
const SAME: Duration = Duration::from_secs(10);
/// Between two lines of whatever text: two that alternate are no better than one that repeats.
const ANY: Duration = Duration::from_secs(1);

/// Remembers what was said last.
#[derive(Default)]
pub(crate) struct Repeats(Mutex<Last>);

#[derive(Default)]
struct Last {
    said: Option<(Instant, String)>,
    unsaid: u64,
}

impl Repeats {
    /// Whether to say it now; then how much went unsaid before.
    pub(crate) fn say(&self, text: &str) -> Option<u64> {
        self.say_at(text, Instant::now())
    }

    fn say_at(&self, text: &str, now: Instant) -> Option<u64> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, said)) = &last.said {
            let pause = if said == text { SAME } else { ANY };
            if now.duration_since(*at) < pause {
                last.unsaid += 1;
                return None;
            }
        }
        last.said = Some((now, text.to_owned()));
        Some(std::mem::take(&mut last.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_now_and_then_and_something_else_sooner() {
        let repeats = Repeats::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(repeats.say_at("full", at(0)), Some(0));
        for n in 1..=50 {
            assert_eq!(repeats.say_at("full", at(n)), None);
        }
        assert_eq!(repeats.say_at("gone", at(500)), None);
        assert_eq!(repeats.say_at("gone", at(1_000)), Some(51));
        assert_eq!(repeats.say_at("gone", at(10_999)), None);
        assert_eq!(repeats.say_at("gone", at(11_000)), Some(1));
    }
}
