//! The result as a Markdown table and as JSON.

use std::fmt::Write;
use std::path::Path;

use idempotency_stack::{tools, Error};
use serde_json::json;

use idempotency_bench::machine::Machine;
use idempotency_bench::spread::{median, with_extremes};
use idempotency_bench::usage::peak_rss;

use crate::options::Options;
use crate::places::Cores;
use crate::rig::Rig;
use crate::rounds::Results;
use crate::summary::{lines, Line};
use crate::wrk::{REQUEST_BYTES, RESPONSE_BYTES};

/// A finished result.
#[derive(Debug)]
pub struct Report {
    /// For readers.
    pub markdown: String,
    /// For programs.
    pub json: serde_json::Value,
}

impl Report {
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

/// Puts a result together. The parts must still run: their memory is looked at.
pub fn report(options: &Options, rig: &Rig, machine: &Machine, results: &Results) -> Report {
    let lines = lines(&results.series);
    let memory = memory(rig);
    let mut text = format!(
        "# Through one Envoy: {}\n\n\
         {}. Envoy {} with {} worker(s), filter of {} bytes.\n\
         {} rounds of {} s, rows by turns, after {} s of warm-up each; {REQUEST_BYTES} B requests, \
         {RESPONSE_BYTES} B responses.\n\
         {}.\n\n\
         Ratios are to the first row of the same round, of requests per second and of requests \
         per second of Envoy's CPU time; numbers are medians over the rounds, in brackets the \
         extremes.\n",
        options.name,
        machine.describe(),
        rig.envoy_version(),
        options.envoy_workers,
        wasm_bytes(),
        options.rounds,
        options.run.as_secs(),
        options.warm_up.as_secs(),
        capitalised(&Cores::describe(rig.cores)),
    );
    for connections in &options.connections {
        let own = lines.iter().filter(|line| line.connections == *connections);
        table(&mut text, *connections, own);
    }
    text.push_str("\n## Peak memory\n\n| process | MiB |\n|---|--:|\n");
    for (name, bytes) in &memory {
        let _ = writeln!(text, "| {name} | {:.0} |", *bytes as f64 / 1_048_576.0);
    }
    let rejected = &results.rejected;
    let _ = writeln!(text, "\nRejected runs: {}.", rejected.len());
    for fault in rejected {
        let _ = writeln!(text, "- {fault}");
    }
    let samples: Vec<_> = results.series.iter().map(series_json).collect();
    let json = json!({
        "name": options.name,
        "machine": machine,
        "envoy": rig.envoy_version(),
        "wasm_bytes": wasm_bytes(),
        "placing": Cores::describe(rig.cores),
        "envoy_workers": options.envoy_workers,
        "rounds": options.rounds,
        "run_s": options.run.as_secs(),
        "request_bytes": REQUEST_BYTES,
        "response_bytes": RESPONSE_BYTES,
        "lines": lines,
        "runs": samples,
        "peak_rss_bytes": memory.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "rejected": rejected,
    });
    Report {
        markdown: text,
        json,
    }
}

fn table<'a>(text: &mut String, connections: usize, lines: impl Iterator<Item = &'a Line>) {
    let plural = if connections == 1 { "" } else { "s" };
    let _ = write!(
        text,
        "\n## {connections} connection{plural}\n\n\
         | | ratio | by Envoy CPU | req/s | p50 µs | p99 µs | Envoy µs/req | service µs/req | \
         busy % (Envoy, service, upstream) |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    for line in lines {
        let busy = [line.envoy_busy, line.service_busy, line.upstream_busy];
        let busy = busy.map(|spread| median(spread, 0)).join(", ");
        let _ = writeln!(
            text,
            "| {} | **{}** | {} | {} | {} | {} | {} | {} | {busy} |",
            line.label,
            with_extremes(line.ratio, 2),
            median(line.cpu_ratio, 2),
            with_extremes(line.rate, 0),
            median(line.p50_us, 0),
            with_extremes(line.p99_us, 0),
            median(line.envoy_us, 1),
            median(line.service_us, 1),
        );
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

fn series_json(series: &crate::rounds::Series) -> serde_json::Value {
    let runs: Vec<_> = series
        .samples
        .iter()
        .map(|sample| {
            sample.as_ref().map(|sample| {
                json!({
                    "requests": sample.seen.requests,
                    "duration_us": sample.seen.duration_us,
                    "p50_us": sample.seen.p50_us,
                    "p90_us": sample.seen.p90_us,
                    "p99_us": sample.seen.p99_us,
                    "max_us": sample.seen.max_us,
                    "envoy_cpu_s": sample.cpu.envoy.as_secs_f64(),
                    "service_cpu_s": sample.cpu.service.as_secs_f64(),
                    "upstream_cpu_s": sample.cpu.upstream.as_secs_f64(),
                })
            })
        })
        .collect();
    json!({ "id": series.row.to_string(), "connections": series.connections, "runs": runs })
}

fn memory(rig: &Rig) -> Vec<(String, u64)> {
    let mut memory = Vec::new();
    for gateway in rig.gateways() {
        let name = gateway.name();
        memory.push((format!("Envoy, {name}"), peak_rss(gateway.envoy_id)));
        if let Some(id) = gateway.service_id {
            memory.push((format!("service, {name}"), peak_rss(id)));
        }
    }
    memory
}

fn wasm_bytes() -> u64 {
    let wasm = tools::wasm().ok().and_then(|path| path.metadata().ok());
    wasm.map_or(0, |metadata| metadata.len())
}
