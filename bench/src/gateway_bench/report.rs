//! The result as Markdown tables, as JSON and as a picture.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use idempotency_bench::machine::Machine;
use idempotency_bench::spread::{median, with_extremes};
use idempotency_stack::{tools, Error};
use serde_json::json;

use crate::options::Options;
use crate::picture;
use crate::plan::Cell;
use crate::rounds::{Results, Series};
use crate::summary::{lines, Line};
use idempotency_bench::wrk::SHARES;

/// A finished result.
#[derive(Debug)]
pub struct Report {
    /// For readers.
    pub markdown: String,
    /// For programs.
    pub json: serde_json::Value,
    /// To look at.
    pub svg: String,
}

/// On what the rows ran.
#[derive(Debug, Default)]
pub struct Ground {
    /// Envoy's version.
    pub envoy: String,
    /// By number of workers: which part was where.
    pub places: BTreeMap<u16, String>,
    /// Largest resident size of each process in bytes, by what it is.
    pub memory: BTreeMap<String, u64>,
}

impl Report {
    /// Writes the files; the name has no extension.
    ///
    /// # Errors
    ///
    /// If they cannot be written.
    pub fn save(&self, dir: &Path, name: &str) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::new(format!("{}: {error}", dir.display()));
        std::fs::create_dir_all(dir).map_err(failed)?;
        let json = format!("{}\n", self.json);
        std::fs::write(dir.join(format!("{name}.md")), &self.markdown).map_err(failed)?;
        std::fs::write(dir.join(format!("{name}.json")), json).map_err(failed)?;
        std::fs::write(dir.join(format!("{name}.svg")), &self.svg).map_err(failed)
    }
}

/// Puts a result together.
pub fn report(options: &Options, machine: &Machine, ground: &Ground, results: &Results) -> Report {
    let lines = lines(&results.series);
    let wasm_bytes = wasm_bytes();
    let mut text = format!(
        "# Through Envoy: {}\n\n\
         {}. Envoy {}, filter of {wasm_bytes} bytes.\n\
         {} rounds of {} s, rows by turns, after a warm-up of {} s for each.\n",
        options.name,
        machine.describe(),
        ground.envoy,
        options.rounds,
        options.run.as_secs(),
        options.run.as_secs(),
    );
    for (workers, places) in &ground.places {
        let _ = writeln!(text, "With {workers} worker(s): {places}.");
    }
    text.push_str(
        "\nRatios are to the first row of the same round, of requests per second and of requests \
         per second of Envoy's CPU time; numbers are medians over the rounds, in brackets the \
         extremes. *Added* is the median latency less that of the first row. A part that is busy \
         for 100 % of a core limits its row.\n",
    );
    let table = |line: &Line| (line.workers, line.cell.size, line.connections);
    let mut rest = lines.as_slice();
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|line| table(line) == table(first));
        let (own, others) = rest.split_at(same.count());
        write_table(&mut text, first, own);
        rest = others;
    }
    text.push_str("\n## Peak memory\n\n| process | MiB |\n|---|--:|\n");
    for (name, bytes) in &ground.memory {
        let _ = writeln!(text, "| {name} | {:.0} |", *bytes as f64 / 1_048_576.0);
    }
    let rejected = &results.rejected;
    let _ = writeln!(text, "\nRejected runs: {}.", rejected.len());
    for fault in rejected {
        let _ = writeln!(text, "- {fault}");
    }
    let runs: Vec<_> = results.series.iter().map(series_json).collect();
    let json = json!({
        "name": options.name,
        "machine": machine,
        "envoy": ground.envoy,
        "wasm_bytes": wasm_bytes,
        "placing": ground.places,
        "rounds": options.rounds,
        "run_s": options.run.as_secs(),
        "lines": lines,
        "latency_shares": SHARES,
        "runs": runs,
        "peak_rss_bytes": ground.memory,
        "rejected": rejected,
    });
    Report {
        svg: picture::draw(&lines, machine, &ground.envoy),
        markdown: text,
        json,
    }
}

fn write_table(text: &mut String, first: &Line, lines: &[Line]) {
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let _ = write!(
        text,
        "\n## {}, {} connection{}, {} worker{}\n\n\
         | | ratio | by Envoy CPU | req/s | p50 µs | added µs | p99 µs | Envoy µs/req | \
         service µs/req | server µs/req | busy % (load, Envoy, service, server, upstream) |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        first.cell.size.describe(),
        first.connections,
        plural(first.connections),
        first.workers,
        plural(first.workers.into()),
    );
    for line in lines {
        let busy = [
            line.load_busy,
            line.envoy_busy,
            line.service_busy,
            line.server_busy,
            line.upstream_busy,
        ];
        let busy = busy.map(|spread| median(spread, 0)).join(", ");
        let _ = writeln!(
            text,
            "| {} | **{}** | {} | {} | {} | {} | {} | {} | {} | {} | {busy} |",
            line.label,
            with_extremes(line.ratio, 2),
            median(line.cpu_ratio, 2),
            with_extremes(line.rate, 0),
            median(line.p50_us, 0),
            median(line.added_us, 0),
            with_extremes(line.p99_us, 0),
            median(line.envoy_us, 1),
            median(line.service_us, 1),
            median(line.server_us, 1),
        );
    }
}

fn series_json(series: &Series) -> serde_json::Value {
    let runs: Vec<_> = series
        .samples
        .iter()
        .map(|sample| {
            sample.as_ref().map(|sample| {
                json!({
                    "requests": sample.seen.requests,
                    "duration_us": sample.seen.duration_us,
                    "latency_us": sample.seen.latency_us,
                    "envoy_cpu_s": sample.cpu.envoy.as_secs_f64(),
                    "service_cpu_s": sample.cpu.service.as_secs_f64(),
                    "server_cpu_s": sample.cpu.server.as_secs_f64(),
                    "upstream_cpu_s": sample.cpu.upstream.as_secs_f64(),
                    "load_cpu_s": sample.cpu.load.as_secs_f64(),
                })
            })
        })
        .collect();
    let Cell {
        row,
        size,
        connections,
    } = series.cell;
    json!({
        "id": row.to_string(),
        "size": size.id,
        "connections": connections,
        "workers": series.workers,
        "runs": runs,
    })
}

fn wasm_bytes() -> u64 {
    let wasm = tools::wasm().ok().and_then(|path| path.metadata().ok());
    wasm.map_or(0, |metadata| metadata.len())
}
