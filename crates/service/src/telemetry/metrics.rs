//! What the service counts, for Prometheus.
//!
//! The `prometheus` crate keeps and writes the numbers. What each operation adds to is resolved once, so that the
//! hot path adds to atomics at fixed places: it looks up no label and takes no lock. Names follow Prometheus'
//! conventions (base units, `_seconds`, `_bytes`, `_total`); the test
//! `promtool_accepts_the_metrics` holds that.

use super::labels::{answer_index, OpIndex, ANSWERS, OPERATIONS};
use super::refusals::Refusals;
use super::rules::Rules;
use super::sealing;
use super::store_time::StoreTimes;
use super::tls::{self, TlsCounts};
use crate::census::Census;
use crate::encryption::KeyKeeper;
use crate::tls::Loaded;
use idempotency_protocol::Answer;
use idempotency_store::{Quota, Swept, Usage, WaitCounts};
use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::Duration;

/// Upper bounds of the buckets of times, in seconds: 50 µs to 10 s.
const SECONDS: [f64; 17] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0,
];

/// Upper bounds of the buckets of operations per call.
const BATCHES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// Answers that alerts wait for. Their series are there from the start: Prometheus sees no rise in a series that
/// begins with one.
const ALARMING: [&str; 5] = ["fault", "untrusted", "unreadable", "lost", "differs"];

/// One row of counters, one per answer. The series of other answers exist from their first count on: of the pairs
/// of operation and answer most never occur.
pub(crate) struct ByAnswer {
    of: IntCounterVec,
    /// The value of the label before the answer's, if there is one.
    other: Option<Cow<'static, str>>,
    counters: [OnceLock<IntCounter>; ANSWERS.len()],
}

impl ByAnswer {
    fn new(of: &IntCounterVec, operation: Option<&'static str>) -> ByAnswer {
        let row = ByAnswer::row(of, operation.map(Cow::Borrowed));
        for (place, answer) in ANSWERS.iter().enumerate() {
            if ALARMING.contains(answer) {
                row.counter(place);
            }
        }
        row
    }

    /// A row in which no series is there before its first count.
    pub(super) fn unseen(of: &IntCounterVec, other: &str) -> ByAnswer {
        ByAnswer::row(of, Some(Cow::Owned(other.to_owned())))
    }

    fn row(of: &IntCounterVec, other: Option<Cow<'static, str>>) -> ByAnswer {
        ByAnswer {
            of: of.clone(),
            other,
            counters: std::array::from_fn(|_| OnceLock::new()),
        }
    }

    fn counter(&self, place: usize) -> Option<&IntCounter> {
        let (counter, answer) = (self.counters.get(place)?, ANSWERS.get(place)?);
        Some(counter.get_or_init(|| match self.other.as_deref() {
            Some(other) => self.of.with_label_values(&[other, answer]),
            None => self.of.with_label_values(&[answer]),
        }))
    }

    /// How often that answer was given; `None` if it never was.
    pub(super) fn count(&self, place: usize) -> Option<u64> {
        let count = self.counters.get(place)?.get()?.get();
        (count > 0).then_some(count)
    }

    pub(crate) fn add(&self, answer: &Answer) {
        if let Some(counter) = self.counter(answer_index(answer)) {
            counter.inc();
        }
    }
}

/// Answers to an acquire that let nobody execute and replay nothing.
const REFUSALS: [&str; 8] = [
    "in_flight",
    "mismatch",
    "not_comparable",
    "unknown_outcome",
    "cancelled",
    "spent",
    "refused",
    "quota",
];

/// What happened since the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Totals {
    /// Executions that were granted.
    pub granted: u64,
    /// Acquires that were answered with what is stored.
    pub replayed: u64,
    /// Acquires that were refused for a reason of their own.
    pub refused: u64,
    /// Operations that the store could not do.
    pub faults: u64,
    /// Calls of gateways and programs, and the time that all of them took.
    pub calls: u64,
    pub call_seconds: f64,
    /// Requests whose sender was refused.
    pub auth_failures: u64,
}

/// What is not counted, but asked for when somebody looks.
#[derive(Clone, Copy, Default)]
pub(crate) struct Now<'n> {
    /// The store's count of waits.
    pub waits: WaitCounts,
    /// Bytes held for known callers.
    pub held: usize,
    /// What the store says now, if it can.
    pub usage: Option<&'n Usage>,
    /// The newest count of the records.
    pub census: Option<&'n Census>,
    /// The certificates in force, and whether newer ones are of no use, where there are any.
    pub certificates: Option<(&'n Loaded, bool)>,
    /// The keys of encryption at rest, where records are encrypted.
    pub keys: Option<&'n KeyKeeper>,
}

/// All metrics of one server.
pub(crate) struct Metrics {
    registry: Registry,
    operations: [ByAnswer; OPERATIONS.len()],
    waits: ByAnswer,
    /// Acquires by rule.
    pub rules: Rules,
    /// How long the store takes.
    pub store: StoreTimes,
    calls: Histogram,
    batches: Histogram,
    /// HTTP answers other than the hot path's 200.
    answers: IntCounterVec,
    /// Calls whose client left before the store had answered.
    pub cut_off: IntCounter,
    /// Connections open now.
    pub connections: IntGauge,
    /// Connections ever accepted.
    pub accepted: IntCounter,
    /// Who was turned away, and why.
    pub refusals: Refusals,
    /// Handshakes, and files that were read again.
    pub tls: TlsCounts,
    swept_expired: IntCounter,
    swept_lapsed: IntCounter,
    swept_slots: IntCounter,
    /// Sweeps that failed.
    pub sweep_errors: IntCounter,
    /// Changes by operators, asked for.
    pub operator_changes: IntCounter,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let registry = Registry::new();
        let make = Register(&registry);
        let help = "The version that runs, and the revision of the wire protocol that it speaks.";
        let build = make.gauges("build_info", help, &["version", "protocol"]);
        let revision = idempotency_protocol::REVISION.to_string();
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION"), revision.as_str()])
            .set(1);
        let help = "Operations by what was asked and answered.";
        let operations = make.counters("operations_total", help, &["operation", "answer"]);
        let waits = make.counters("waits_total", "Ended waits by answer.", &["answer"]);
        let help = "HTTP answers other than 200 to /v1/operations (those: call_duration's count).";
        Metrics {
            operations: OPERATIONS.map(|operation| ByAnswer::new(&operations, Some(operation))),
            waits: ByAnswer::new(&waits, None),
            rules: Rules::new(&make),
            store: StoreTimes::new(&make),
            calls: make.histogram(
                "call_duration_seconds",
                "Time from the whole request to the store's answer, per call.",
                &SECONDS,
            ),
            batches: make.histogram("batch_operations", "Operations per call.", &BATCHES),
            answers: make.counters("http_answers_total", help, &["route", "status"]),
            cut_off: make.counter(
                "calls_cut_off_total",
                "Calls finished after their client had left.",
            ),
            connections: make.gauge("connections", "Open connections."),
            accepted: make.counter("connections_accepted_total", "Connections accepted."),
            refusals: Refusals::new(&make),
            tls: TlsCounts::new(&make),
            swept_expired: make.counter("swept_expired_total", "Records forgotten by the sweeper."),
            swept_lapsed: make.counter(
                "swept_lapsed_total",
                "Executions that the sweeper made unknown.",
            ),
            swept_slots: make.counter(
                "swept_slots_total",
                "Slots that the sweeper changed or removed, also those that held only marks.",
            ),
            sweep_errors: make.counter("sweep_errors_total", "Sweeps that failed."),
            operator_changes: make
                .counter("operator_changes_total", "Changes asked for by operators."),
            registry,
        }
    }

    /// Where parts that are not always there put metrics of their own.
    pub(crate) fn register(&self) -> Register<'_> {
        Register(&self.registry)
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
        self.calls.observe(took.as_secs_f64());
        self.batches.observe(batch as f64);
    }

    pub(crate) fn answered(&self, route: &str, status: u16) {
        let status = status.to_string();
        self.answers
            .with_label_values(&[route, status.as_str()])
            .inc();
    }

    /// What the page of operators shows as rates.
    pub(crate) fn totals(&self) -> Totals {
        let acquires = |answers: &[&str]| -> u64 {
            let row = self.operations.first();
            let places = ANSWERS.iter().enumerate();
            places
                .filter(|(_, answer)| answers.contains(answer))
                .filter_map(|(place, _)| row?.count(place))
                .sum()
        };
        let everywhere = |answers: &[&str]| -> u64 {
            let places = ANSWERS.iter().enumerate();
            let places = places.filter(|(_, answer)| answers.contains(answer));
            places
                .flat_map(|(place, _)| self.operations.iter().filter_map(move |r| r.count(place)))
                .sum()
        };
        Totals {
            granted: acquires(&["granted"]),
            replayed: acquires(&["stored"]),
            refused: acquires(&REFUSALS),
            faults: everywhere(&["fault", "untrusted", "unreadable"]),
            calls: self.calls.get_sample_count(),
            call_seconds: self.calls.get_sample_sum(),
            auth_failures: self.refusals.all_auth_failures(),
        }
    }

    pub(crate) fn swept(&self, swept: &Swept) {
        self.swept_expired.inc_by(swept.expired as u64);
        self.swept_lapsed.inc_by(swept.lapsed as u64);
        self.swept_slots.inc_by(swept.slots as u64);
    }

    /// Everything as text. What nobody knows has no series: zero would be a lie.
    pub(crate) fn render(&self, now_is: &Now<'_>) -> String {
        let Now {
            waits,
            held,
            usage,
            census,
            certificates,
            keys,
        } = *now_is;
        let now = Registry::new();
        let make = Register(&now);
        make.counter(
            "waits_refused_total",
            "Waits that found no place and ended at once.",
        )
        .inc_by(waits.refused);
        let set = |name, help, value: u64| {
            let gauge = make.gauge(name, help);
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set("waiters", "Waits in progress.", waits.now as u64);
        let help = "Bytes taken by requests and answers of known callers.";
        set("buffered_bytes", help, held as u64);
        let help = "Whether the store says that it is ready.";
        set("store_up", help, u64::from(usage.is_some()));
        if let Some(usage) = usage {
            if let Some(records) = usage.records {
                set("store_records", "Records in the store.", records);
            }
            if let Some(bytes) = usage.bytes {
                set("store_bytes", "Size of the store.", bytes);
            }
            let help = "New keys are refused because the store is full.";
            let full = u64::from(usage.above_high_water);
            set("store_above_high_water", help, full);
        }
        if let Some(census) = census {
            counted(&make, census);
        }
        if let Some((loaded, refusing)) = certificates {
            tls::now(&make, loaded, refusing);
        }
        if let Some(keys) = keys {
            sealing::write(&make, keys);
        }
        let mut text = Vec::with_capacity(16 * 1024);
        for registry in [&self.registry, &now] {
            if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut text) {
                tracing::error!(%error, "metrics cannot be written");
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// The newest count of the records.
fn counted(make: &Register<'_>, census: &Census) {
    let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let help =
        "Records by state when they were counted last; at least so many if census_complete is 0.";
    let records = make.gauges("records", help, &["state"]);
    for (state, count) in census.counts() {
        records.with_label_values(&[state]).set(whole(count));
    }
    let help = "How long the oldest record had been in that state when they were counted last; 0: there was none.";
    let oldest = make.gauges("oldest_record_age_seconds", help, &["state"]);
    for (state, age) in census.oldest_ages() {
        oldest.with_label_values(&[state]).set(whole(age.as_secs()));
    }
    let help = "When the records were counted last.";
    make.gauge("census_timestamp_seconds", help)
        .set(whole(census.at_ms / 1_000));
    let help = "Whether that count came to the end of the store in its time.";
    make.gauge("census_complete", help)
        .set(i64::from(census.complete));
}

/// Makes metrics and puts them into a registry, all named `idempotencyd_…`.
pub(crate) struct Register<'r>(&'r Registry);

impl Register<'_> {
    /// Into that registry.
    #[cfg(test)]
    pub(super) fn into(registry: &Registry) -> Register<'_> {
        Register(registry)
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace("idempotencyd")
    }

    /// An error means that a name is none, or was used twice. All of them are literals of this crate, and the tests
    /// make them all.
    #[allow(clippy::expect_used)]
    fn put<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let made = made.expect("metrics have valid names");
        self.0
            .register(Box::new(made.clone()))
            .expect("metrics have distinct names");
        made
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.put(IntCounter::with_opts(Self::opts(name, help)))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.put(IntCounterVec::new(Self::opts(name, help), labels))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.put(IntGauge::with_opts(Self::opts(name, help)))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.put(IntGaugeVec::new(Self::opts(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(buckets.to_vec());
        self.put(Histogram::with_opts(opts))
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> HistogramVec {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(buckets.to_vec());
        self.put(HistogramVec::new(opts, labels))
    }
}

#[cfg(test)]
mod tests {
    use super::super::store_time::StoreQuestion;
    use super::*;
    use crate::encryption::KeySource;
    use idempotency_protocol::Grant;
    use idempotency_store::sealed::Keys;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// A server that has counted a little of everything.
    async fn counted() -> String {
        let metrics = Metrics::new();
        metrics
            .store
            .measure(StoreQuestion::Sweep, std::future::ready(()))
            .await;
        if let Some(rule) = metrics.rules.of("payments") {
            rule.add(&Answer::Mismatch);
        }
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
        let lines = ["index", "new", "old"].map(|name| Keys::line(name).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        std::fs::write(&path, lines.concat()).unwrap();
        let keys = KeyKeeper::new(KeySource::File(path));
        keys.load().await.unwrap();
        metrics.tls.failed(crate::tls::HandshakeFailure::Expired);
        metrics.tls.reloaded(true);
        metrics.render(&Now {
            waits,
            usage: Some(&usage),
            census: Some(&Census::example()),
            keys: Some(&keys),
            ..Now::default()
        })
    }

    #[tokio::test]
    async fn what_is_counted_is_written() {
        let text = counted().await;
        for part in [
            "idempotencyd_operations_total{answer=\"granted\",operation=\"acquire\"} 1\n",
            "idempotencyd_operations_total{answer=\"quota\",operation=\"acquire\"} 1\n",
            "idempotencyd_operations_total{answer=\"differs\",operation=\"complete\"} 0\n",
            "idempotencyd_quota_refusals_total{reason=\"records\"} 1\n",
            "idempotencyd_quota_refusals_total{reason=\"bytes\"} 0\n",
            "idempotencyd_waits_total{answer=\"changed\"} 1\n",
            "idempotencyd_call_duration_seconds_bucket{le=\"0.00005\"} 0\n",
            "idempotencyd_call_duration_seconds_bucket{le=\"0.025\"} 1\n",
            "idempotencyd_call_duration_seconds_count 1\n",
            "idempotencyd_store_above_high_water 1\n",
            "idempotencyd_waiters 2\n",
            "idempotencyd_waits_refused_total 5\n",
            "idempotencyd_rule_acquires_total{answer=\"mismatch\",rule=\"payments\"} 1\n",
            "idempotencyd_store_duration_seconds_count{operation=\"sweep\"} 1\n",
            "idempotencyd_records{state=\"unknown\"} 2\n",
            "idempotencyd_records{state=\"failed\"} 0\n",
            "idempotencyd_oldest_record_age_seconds{state=\"unknown\"} 90\n",
            "idempotencyd_oldest_record_age_seconds{state=\"executing\"} 0\n",
            "idempotencyd_census_timestamp_seconds 1700000000\n",
            "idempotencyd_census_complete 1\n",
            "idempotencyd_encryption_key_info{key=\"new\",use=\"seals\"} 1\n",
            "idempotencyd_encryption_key_info{key=\"old\",use=\"opens\"} 1\n",
            "idempotencyd_encryption_keys_stale 0\n",
            "idempotencyd_encryption_troubles_total{trouble=\"missing_key_answer\"} 0\n",
            "idempotencyd_http_answers_total{route=\"/v1/wait\",status=\"200\"} 1\n",
            "idempotencyd_tls_handshakes_failed_total{reason=\"expired\"} 1\n",
            "idempotencyd_tls_handshakes_failed_total{reason=\"unknown-ca\"} 0\n",
            "idempotencyd_tls_reloads_total{result=\"loaded\"} 1\n",
            "idempotencyd_tls_reloads_total{result=\"refused\"} 0\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let unknown = Metrics::new().render(&Now::default());
        assert!(unknown.contains("idempotencyd_store_up 0\n"), "{unknown}");
        assert!(!unknown.contains("store_records"), "{unknown}");
        assert!(!unknown.contains("idempotencyd_records"), "{unknown}");
        assert!(!unknown.contains("encryption"), "{unknown}");
    }

    #[tokio::test]
    async fn promtool_accepts_the_metrics() {
        let text = counted().await;
        let started = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut promtool = match started {
            Ok(promtool) => promtool,
            Err(error) if std::env::var_os("CI").is_none() => {
                eprintln!("skipped: promtool (Debian: prometheus): {error}");
                return;
            }
            Err(error) => panic!("promtool, of Debian's package prometheus: {error}"),
        };
        let mut stdin = promtool.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.trim().is_empty(), "{said}");
    }
}
