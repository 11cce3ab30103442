//! What happened of late, for the operators' page: the counters, looked at every few seconds.

use super::metrics::Totals;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks.
pub(crate) const STEP: Duration = Duration::from_secs(5);
/// Looks that are remembered: five minutes.
const KEPT: usize = 61;
/// Steps whose mean is said to be the rate now.
const NOW: usize = 6;

/// The looks of the last minutes.
#[derive(Default)]
pub(crate) struct Rates(Mutex<VecDeque<(Instant, Totals)>>);

/// One quantity over the last minutes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Course {
    /// Mean of the last half minute.
    pub now: f64,
    /// One value per step, oldest first.
    pub steps: Vec<f64>,
}

impl Rates {
    /// Takes a look.
    pub(crate) fn look(&self, now: Instant, totals: Totals) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() == KEPT {
            looks.pop_front();
        }
        looks.push_back((now, totals));
    }

    /// What grew by how much per second.
    pub(crate) fn per_second(&self, of: impl Fn(&Totals) -> f64) -> Course {
        self.course(|before, after, seconds| (of(after) - of(before)) / seconds)
    }

    /// Mean time of a call in milliseconds; zero where there was none.
    pub(crate) fn call_ms(&self) -> Course {
        self.course(|before, after, _| {
            let calls = after.calls.saturating_sub(before.calls);
            match calls {
                0 => 0.0,
                calls => (after.call_seconds - before.call_seconds) * 1_000.0 / calls as f64,
            }
        })
    }

    fn course(&self, value: impl Fn(&Totals, &Totals, f64) -> f64) -> Course {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let between = |from: &(Instant, Totals), to: &(Instant, Totals)| {
            let seconds = to.0.duration_since(from.0).as_secs_f64().max(0.001);
            value(&from.1, &to.1, seconds).max(0.0)
        };
        let all = looks.iter();
        let steps = all.clone().zip(all.skip(1)).map(|(a, b)| between(a, b));
        let steps: Vec<f64> = steps.collect();
        let first = looks.len().saturating_sub(NOW + 1);
        let now = match (looks.get(first), looks.back()) {
            (Some(from), Some(to)) if looks.len() > 1 => between(from, to),
            _ => 0.0,
        };
        Course { now, steps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_and_memory_is_bounded() {
        let rates = Rates::default();
        let start = Instant::now();
        assert_eq!(rates.per_second(|t| t.granted as f64), Course::default());
        for n in 0..100_u64 {
            let totals = Totals {
                granted: n * 50,
                calls: n * 10,
                call_seconds: n as f64 * 0.02,
                ..Totals::default()
            };
            rates.look(start + STEP * u32::try_from(n).unwrap(), totals);
        }
        let granted = rates.per_second(|t| t.granted as f64);
        assert_eq!(granted.steps.len(), KEPT - 1);
        assert!((granted.now - 10.0).abs() < 1e-9, "{granted:?}");
        assert!((rates.call_ms().now - 2.0).abs() < 1e-6);
        assert_eq!(rates.per_second(|t| t.faults as f64).now, 0.0);
    }
}
