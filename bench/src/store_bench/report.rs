//! The result as Markdown tables and as JSON.

use std::fmt::Write;
use std::path::Path;

use idempotency_bench::machine::Machine;
use idempotency_bench::spread::{median, with_extremes};
use idempotency_stack::Error;
use serde_json::json;

use crate::options::Options;
use crate::places::Places;
use crate::service::{self, Alone};
use crate::{records, stores};

/// What was measured.
#[derive(Debug, Default)]
pub struct Results {
    /// The service before one Redis.
    pub service: Option<Alone>,
    /// The stores at different loads.
    pub stores: Vec<stores::Line>,
    /// The stores with different numbers of records.
    pub records: Vec<records::Line>,
}

/// A finished result.
#[derive(Debug)]
pub struct Report {
    /// For readers.
    pub markdown: String,
    /// For programs.
    pub json: serde_json::Value,
}

impl Report {
    /// Puts it together.
    pub fn of(options: &Options, machine: &Machine, places: &Places, results: &Results) -> Self {
        let mut text = format!(
            "# Service and stores: {}\n\n{}.\n{}. {} rounds of {} s, everything by turns. Numbers \
             are medians over the rounds, in brackets the extremes; an operation is an acquire or \
             a complete.\n",
            options.name,
            machine.describe(),
            places.describe(),
            options.rounds,
            options.run.as_secs(),
        );
        if let Some(alone) = &results.service {
            service_table(&mut text, alone);
        }
        store_tables(&mut text, &results.stores);
        record_tables(&mut text, &results.records);
        Self {
            markdown: text,
            json: json!({
                "name": options.name,
                "machine": machine,
                "placing": places.describe(),
                "rounds": options.rounds,
                "run_s": options.run.as_secs(),
                "service": results.service,
                "stores": results.stores,
                "records": results.records,
            }),
        }
    }

    /// Writes both files; the name has no extension.
    ///
    /// # Errors
    ///
    /// If they cannot be written.
    pub fn save(&self, dir: &Path, name: &str) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::new(format!("{}: {error}", dir.display()));
        std::fs::create_dir_all(dir).map_err(failed)?;
        let json = format!("{:#}\n", self.json);
        std::fs::write(dir.join(format!("{name}.md")), &self.markdown).map_err(failed)?;
        std::fs::write(dir.join(format!("{name}.json")), json).map_err(failed)
    }
}

fn service_table(text: &mut String, alone: &Alone) {
    let _ = write!(
        text,
        "\n## The service alone\n\nTwo cores, one Redis on a third, bodies of {} B. Ratios are of \
         operations per second, to `redis-benchmark`, unpipelined, with the same script on the same \
         server in the same round. `redis-benchmark` acquires first and then completes other keys; \
         the service is asked for both by turns.\n\n\
         | | ratio | op/s | p50 µs | p99 µs | service µs/op | Redis µs/op | service busy % of 200 | \
         Redis busy % | load busy % |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        service::BODY
    );
    for line in &alone.lines {
        let _ = writeln!(
            text,
            "| {} | **{}** | {} | {} | {} | {} | {} | {} | {} | {} |",
            line.label,
            with_extremes(line.ratio, 2),
            with_extremes(line.rate, 0),
            median(line.p50_us, 0),
            median(line.p99_us, 0),
            median(line.service_us, 1),
            median(line.redis_us, 1),
            median(line.service_busy, 0),
            median(line.redis_busy, 0),
            median(line.load_busy, 0),
        );
    }
    let mib = alone.service_peak_rss as f64 / 1_048_576.0;
    let _ = writeln!(text, "\nPeak memory of the service: {mib:.0} MiB.");
}

fn store_tables(text: &mut String, lines: &[stores::Line]) {
    let mut before = None;
    for line in lines {
        if before != Some((line.body, line.in_flight)) {
            before = Some((line.body, line.in_flight));
            let _ = write!(
                text,
                "\n## Bodies of {} B, {} in flight\n\n\
                 | | acquire + complete, op/s | of the limit | p50 of both, µs | replays/s | \
                 of the limit | p50, µs |\n|---|--:|--:|--:|--:|--:|--:|\n",
                line.body, line.in_flight
            );
        }
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            line.label,
            with_extremes(line.firsts, 0),
            median(line.firsts_ratio, 2),
            median(line.firsts_p50_us, 0),
            with_extremes(line.replays, 0),
            median(line.replays_ratio, 2),
            median(line.replays_p50_us, 0),
        );
    }
    if !lines.is_empty() {
        text.push_str(
            "\nThe embedded store has all cores, the others two beside their server. `pgbench` \
             tells the mean instead of the median.\n",
        );
    }
}

fn record_tables(text: &mut String, lines: &[records::Line]) {
    if lines.is_empty() {
        return;
    }
    text.push_str(
        "\n## Few and many records\n\nOne operation at a time, bodies of 200 B; median times in \
         microseconds, in brackets in parts of the first row of the same store and round. A replay \
         is of any record, a recent one of the thousand newest. Where commits are synced, the disk \
         takes most of the time of a write.\n\n\
         | | records | acquire | complete | replay | recent replay | MiB | loaded in |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for line in lines {
        let [acquire, complete, replay, recent] = line.ratios;
        let _ = writeln!(
            text,
            "| {} | {} | {} ({}) | {} ({}) | {} ({}) | {} ({}) | {:.0} | {:.0} s |",
            line.store,
            line.records,
            median(line.acquire_us, 0),
            median(acquire, 2),
            median(line.complete_us, 0),
            median(complete, 2),
            median(line.replay_us, 0),
            median(replay, 2),
            median(line.recent_us, 0),
            median(recent, 2),
            line.bytes as f64 / 1_048_576.0,
            line.loading_s,
        );
    }
}
