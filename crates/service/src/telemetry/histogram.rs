//! A histogram that costs two relaxed additions per observation.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Fixed upper bounds; the last bucket is open. Values are integers of the recorded unit.
pub(crate) struct Histogram<const N: usize> {
    bounds: [u64; N],
    buckets: [AtomicU64; N],
    above: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    pub(crate) fn new(bounds: [u64; N]) -> Histogram<N> {
        Histogram {
            bounds,
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            above: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    pub(crate) fn observe(&self, value: u64) {
        let bucket = self
            .bounds
            .iter()
            .zip(&self.buckets)
            .find(|(bound, _)| value <= **bound)
            .map_or(&self.above, |(_, bucket)| bucket);
        bucket.fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Prometheus text; `unit` is what one integer is worth in the metric's unit.
    pub(crate) fn write(&self, out: &mut String, name: &str, help: &str, unit: f64) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut count = 0;
        for (bound, bucket) in self.bounds.iter().zip(&self.buckets) {
            count += bucket.load(Relaxed);
            let le = *bound as f64 * unit;
            let _ = writeln!(out, "{name}_bucket{{le=\"{le}\"}} {count}");
        }
        count += self.above.load(Relaxed);
        let sum = self.sum.load(Relaxed) as f64 * unit;
        let _ = writeln!(
            out,
            "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cumulative() {
        let histogram = Histogram::new([10, 100]);
        for value in [1, 10, 11, 1000] {
            histogram.observe(value);
        }
        let mut text = String::new();
        histogram.write(&mut text, "h", "help", 0.5);
        for line in [
            "h_bucket{le=\"5\"} 2",
            "h_bucket{le=\"50\"} 3",
            "h_bucket{le=\"+Inf\"} 4",
            "h_sum 511",
            "h_count 4",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
}
