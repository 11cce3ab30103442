//! Counters of the service, in Prometheus' text format.
//!
//! Written by hand: the hot path only adds to atomics at fixed places, with no lookup of labels
//! and no lock, and the set of metrics is small and closed.

use super::histogram::Histogram;
use super::labels::{answer_index, OpIndex, ANSWERS, OPERATIONS};
use super::refusals::Refusals;
use idempotency_protocol::Answer;
use idempotency_store::{Quota, Swept, Usage, WaitCounts};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A row of counters, one per answer.
struct ByAnswer([AtomicU64; ANSWERS.len()]);

impl ByAnswer {
    fn new() -> ByAnswer {
        ByAnswer(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    fn add(&self, answer: &Answer) {
        if let Some(counter) = self.0.get(answer_index(answer)) {
            counter.fetch_add(1, Relaxed);
        }
    }

    fn write(&self, out: &mut String, prefix: &str) {
        for (answer, counter) in ANSWERS.iter().zip(&self.0) {
            let n = counter.load(Relaxed);
            if n > 0 {
                let _ = writeln!(out, "{prefix}answer=\"{answer}\"}} {n}");
            }
        }
    }
}

/// All counters of one server.
pub(crate) struct Metrics {
    operations: [ByAnswer; OPERATIONS.len()],
    waits: ByAnswer,
    calls: Histogram<17>,
    batches: Histogram<8>,
    /// HTTP answers other than the hot path's 200.
    answers: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// Calls whose client left before the store had answered.
    pub cut_off: AtomicU64,
    /// Connections open now.
    pub connections: AtomicU64,
    /// Connections ever accepted.
    pub accepted: AtomicU64,
    /// Who was turned away, and why.
    pub refusals: Refusals,
    swept_expired: AtomicU64,
    swept_lapsed: AtomicU64,
    swept_slots: AtomicU64,
    /// Sweeps that failed.
    pub sweep_errors: AtomicU64,
    /// Changes by operators, asked for.
    pub operator_changes: AtomicU64,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let zero = || AtomicU64::new(0);
        Metrics {
            operations: std::array::from_fn(|_| ByAnswer::new()),
            waits: ByAnswer::new(),
            // Microseconds: 50 µs to 10 s.
            calls: Histogram::new([
                50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
                500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
            ]),
            batches: Histogram::new([1, 2, 4, 8, 16, 32, 64, 128]),
            answers: Mutex::default(),
            cut_off: zero(),
            connections: zero(),
            accepted: zero(),
            refusals: Refusals::new(),
            swept_expired: zero(),
            swept_lapsed: zero(),
            swept_slots: zero(),
            sweep_errors: zero(),
            operator_changes: zero(),
        }
    }

    pub(crate) fn operation(&self, operation: OpIndex, answer: &Answer) {
        if let Some(row) = self.operations.get(operation.0) {
            row.add(answer);
        }
        if let Some(quota) = Quota::refused(answer) {
            self.refusals.quota(quota);
        }
    }

    pub(crate) fn wait(&self, answer: &Answer) {
        self.waits.add(answer);
    }

    /// One call to `/v1/operations` that was answered by the store.
    pub(crate) fn call(&self, took: Duration, batch: usize) {
        self.calls
            .observe(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        self.batches.observe(batch as u64);
    }

    pub(crate) fn answered(&self, route: &'static str, status: u16) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry((route, status)).or_default() += 1;
    }

    pub(crate) fn swept(&self, swept: &Swept) {
        self.swept_expired.fetch_add(swept.expired as u64, Relaxed);
        self.swept_lapsed.fetch_add(swept.lapsed as u64, Relaxed);
        self.swept_slots.fetch_add(swept.slots as u64, Relaxed);
    }

    /// Everything as text: with the store's count of waits, the bytes held for known callers, and
    /// what the store says now, if it can.
    pub(crate) fn render(&self, waits: WaitCounts, held: usize, usage: Option<&Usage>) -> String {
        let mut out = String::with_capacity(8 * 1024);
        head(
            &mut out,
            "idempotencyd_build_info",
            "gauge",
            "The version that runs.",
        );
        let version = env!("CARGO_PKG_VERSION");
        let protocol = idempotency_protocol::REVISION;
        let _ = writeln!(
            out,
            "idempotencyd_build_info{{version=\"{version}\",protocol=\"{protocol}\"}} 1"
        );
        let help = "Operations by what was asked and answered.";
        head(&mut out, "idempotencyd_operations_total", "counter", help);
        for (operation, row) in OPERATIONS.iter().zip(&self.operations) {
            let prefix = format!("idempotencyd_operations_total{{operation=\"{operation}\",");
            row.write(&mut out, &prefix);
        }
        let help = "Time from the whole request to the store's answer, per call.";
        self.calls
            .write(&mut out, "idempotencyd_call_duration_seconds", help, 1e-6);
        let help = "Operations per call.";
        self.batches
            .write(&mut out, "idempotencyd_batch_operations", help, 1.0);
        head(
            &mut out,
            "idempotencyd_waits_total",
            "counter",
            "Ended waits by answer.",
        );
        self.waits.write(&mut out, "idempotencyd_waits_total{");
        self.write_http(&mut out);
        self.write_counters(&mut out, waits.refused);
        self.refusals.write(&mut out);
        gauge(
            &mut out,
            "idempotencyd_waiters",
            "Waits in progress.",
            waits.now as u64,
        );
        let help = "Room taken by requests and answers of known callers.";
        gauge(&mut out, "idempotencyd_buffered_bytes", help, held as u64);
        let open = self.connections.load(Relaxed);
        gauge(
            &mut out,
            "idempotencyd_connections",
            "Open connections.",
            open,
        );
        let help = "Whether the store says that it is ready.";
        gauge(
            &mut out,
            "idempotencyd_store_up",
            help,
            u64::from(usage.is_some()),
        );
        if let Some(usage) = usage {
            if let Some(records) = usage.records {
                gauge(
                    &mut out,
                    "idempotencyd_store_records",
                    "Records in the store.",
                    records,
                );
            }
            if let Some(bytes) = usage.bytes {
                gauge(
                    &mut out,
                    "idempotencyd_store_bytes",
                    "Size of the store.",
                    bytes,
                );
            }
            let help = "New keys are refused because the store is full.";
            let full = u64::from(usage.above_high_water);
            gauge(&mut out, "idempotencyd_store_above_high_water", help, full);
        }
        out
    }

    fn write_http(&self, out: &mut String) {
        let help = "HTTP answers other than 200 to /v1/operations (those: call_duration's count).";
        head(out, "idempotencyd_http_answers_total", "counter", help);
        let answers = self
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for ((route, status), n) in answers {
            let _ = writeln!(
                out,
                "idempotencyd_http_answers_total{{route=\"{route}\",status=\"{status}\"}} {n}"
            );
        }
    }

    fn write_counters(&self, out: &mut String, waits_refused: u64) {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        for (name, help, value) in [
            (
                "waits_refused",
                "Waits that found no place and ended at once.",
                waits_refused,
            ),
            (
                "calls_cut_off",
                "Calls finished after their client had left.",
                read(&self.cut_off),
            ),
            (
                "connections_accepted",
                "Connections accepted.",
                read(&self.accepted),
            ),
            (
                "swept_expired",
                "Records forgotten by the sweeper.",
                read(&self.swept_expired),
            ),
            (
                "swept_lapsed",
                "Executions that the sweeper made unknown.",
                read(&self.swept_lapsed),
            ),
            (
                "swept_slots",
                "Slots that the sweeper changed or removed, also those that held only marks.",
                read(&self.swept_slots),
            ),
            (
                "sweep_errors",
                "Sweeps that failed.",
                read(&self.sweep_errors),
            ),
            (
                "operator_changes",
                "Changes asked for by operators.",
                read(&self.operator_changes),
            ),
        ] {
            let name = format!("idempotencyd_{name}_total");
            head(out, &name, "counter", help);
            let _ = writeln!(out, "{name} {value}");
        }
    }
}

pub(super) fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn gauge(out: &mut String, name: &str, help: &str, value: u64) {
    head(out, name, "gauge", help);
    let _ = writeln!(out, "{name} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_protocol::Grant;

    #[test]
    fn every_line_is_prometheus_text() {
        let metrics = Metrics::new();
        let grant = Answer::Granted(Grant {
            fence: 1,
            attempt: 1,
            lease_ms: 1,
        });
        metrics.operation(OpIndex(0), &grant);
        metrics.operation(OpIndex(0), &Quota::Records.refusal());
        metrics.wait(&Answer::Changed);
        metrics.call(Duration::from_micros(70), 3);
        metrics.answered("/v1/wait", 200);
        let waits = WaitCounts { now: 2, refused: 5 };
        let usage = Usage {
            records: Some(5),
            bytes: Some(6),
            above_high_water: true,
        };
        let text = metrics.render(waits, 0, Some(&usage));
        for part in [
            "idempotencyd_operations_total{operation=\"acquire\",answer=\"granted\"} 1\n",
            "idempotencyd_operations_total{operation=\"acquire\",answer=\"quota\"} 1\n",
            "idempotencyd_quota_refusals_total{reason=\"records\"} 1\n",
            "idempotencyd_quota_refusals_total{reason=\"bytes\"} 0\n",
            "idempotencyd_waits_total{answer=\"changed\"} 1\n",
            "idempotencyd_call_duration_seconds_count 1\n",
            "idempotencyd_store_above_high_water 1\n",
            "idempotencyd_waiters 2\n",
            "idempotencyd_waits_refused_total 5\n",
            "idempotencyd_http_answers_total{route=\"/v1/wait\",status=\"200\"} 1\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("idempotencyd_"), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
