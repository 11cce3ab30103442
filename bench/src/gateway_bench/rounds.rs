//! Rows by turns: A B C … A B C …, so that whatever else the machine does meets all of them.

use idempotency_stack::Error;

use crate::options::Options;
use crate::plan::{Cell, Section};
use crate::rig::Rig;
use crate::run::{Plan, Sample};
use crate::seed;

/// The runs of one cell.
#[derive(Debug)]
pub struct Series {
    /// Worker threads of Envoy.
    pub workers: u16,
    /// What ran.
    pub cell: Cell,
    /// One for each round; `None`: that run did not count.
    pub samples: Vec<Option<Sample>>,
}

/// All runs.
#[derive(Debug, Default)]
pub struct Results {
    /// By section, then as its cells.
    pub series: Vec<Series>,
    /// The runs that did not count, and why.
    pub rejected: Vec<String>,
}

/// Runs all rounds of a section.
///
/// # Errors
///
/// If something could not be run at all, or a row's answers are wrong before it is measured.
pub fn run(
    options: &Options,
    section: &Section,
    rig: &Rig,
    results: &mut Results,
) -> Result<(), Error> {
    // Keys must be new even where a data directory is not.
    let session = format!("{:x}", std::process::id());
    let session = format!("{session}{:x}", now_ms());
    let mut prepared = Vec::new();
    for cell in &section.cells {
        if !prepared.contains(&(cell.row, cell.size)) {
            seed::prepare(rig, cell, &session)?;
            prepared.push((cell.row, cell.size));
        }
    }
    let mut number = 0;
    let mut one = |cell: &Cell, round: usize, results: &mut Results| {
        number += 1;
        let plan = Plan {
            cell,
            duration: options.run,
            session: &session,
            number,
        };
        let outcome = plan.run(rig, &options.wrk)?;
        progress(section.workers, cell, round, &outcome);
        Ok::<_, Error>(match outcome {
            Ok(sample) => Some(sample),
            Err(fault) => {
                results.rejected.push(format!(
                    "{} with {}, {} connections, {} workers, round {round}: {fault}",
                    cell.row,
                    cell.size.describe(),
                    cell.connections,
                    section.workers
                ));
                None
            }
        })
    };
    // Round 0 warms up: every row once, with the most connections. Its answers are checked like
    // all others.
    for (row, size) in prepared {
        let own = section
            .cells
            .iter()
            .filter(|c| (c.row, c.size) == (row, size));
        if let Some(cell) = own.max_by_key(|cell| cell.connections) {
            one(cell, 0, results)?;
        }
    }
    let mut series: Vec<Series> = section
        .cells
        .iter()
        .map(|cell| Series {
            workers: section.workers,
            cell: *cell,
            samples: Vec::new(),
        })
        .collect();
    for round in 1..=options.rounds {
        for series in &mut series {
            let sample = one(&series.cell, round, results)?;
            series.samples.push(sample);
        }
    }
    results.series.extend(series);
    Ok(())
}

fn progress(workers: u16, cell: &Cell, round: usize, outcome: &Result<Sample, String>) {
    let said = match outcome {
        Ok(sample) => format!("{:8.0} req/s", sample.seen.rate()),
        Err(fault) => format!("rejected: {fault}"),
    };
    eprintln!(
        "round {round}, {workers} workers, {:<14} {:3} connections, {:<23} {said}",
        cell.size.id, cell.connections, cell.row
    );
}

fn now_ms() -> u128 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis())
}
