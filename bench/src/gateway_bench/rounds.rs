//! Rows by turns: A B C … A B C …, so that whatever else the machine does meets all of them.

use idempotency_stack::Error;

use crate::options::Options;
use crate::rig::Rig;
use crate::rows::Row;
use crate::run::{Plan, Sample};
use crate::seed;

/// The runs of one row at one number of connections.
#[derive(Debug)]
pub struct Series {
    /// The row.
    pub row: Row,
    /// Client connections.
    pub connections: usize,
    /// One for each round; `None`: that run did not count.
    pub samples: Vec<Option<Sample>>,
}

/// All runs.
#[derive(Debug, Default)]
pub struct Results {
    /// By connections, then by row.
    pub series: Vec<Series>,
    /// The runs that did not count, and why.
    pub rejected: Vec<String>,
}

/// Runs all rounds.
///
/// # Errors
///
/// If something could not be run at all, or a row's answers are wrong before it is measured.
pub fn run(options: &Options, rig: &Rig) -> Result<Results, Error> {
    // Keys must be new even where a data directory is not.
    let session = format!("{:x}", std::process::id());
    let session = format!("{session}{:x}", now_ms());
    for row in &options.rows {
        seed::prepare(rig, row, &session)?;
    }
    let mut results = Results::default();
    for connections in &options.connections {
        for row in &options.rows {
            results.series.push(Series {
                row: *row,
                connections: *connections,
                samples: Vec::new(),
            });
        }
    }
    let mut number = 0;
    for round in 0..=options.rounds {
        // Round 0 warms up. Its answers are checked like all others.
        let warm_up = round == 0;
        for series in &mut results.series {
            number += 1;
            let plan = Plan {
                row: &series.row,
                connections: series.connections,
                duration: if warm_up {
                    options.warm_up
                } else {
                    options.run
                },
                session: &session,
                number,
            };
            let outcome = plan.run(rig, &options.wrk)?;
            progress(&series.row, series.connections, round, &outcome);
            let sample = match outcome {
                Ok(sample) => Some(sample),
                Err(fault) => {
                    results.rejected.push(format!(
                        "{} at {} connections, round {round}: {fault}",
                        series.row, series.connections
                    ));
                    None
                }
            };
            if !warm_up {
                series.samples.push(sample);
            }
        }
    }
    Ok(results)
}

fn progress(row: &Row, connections: usize, round: usize, outcome: &Result<Sample, String>) {
    let said = match outcome {
        Ok(sample) => format!("{:8.0} req/s", sample.seen.rate()),
        Err(fault) => format!("rejected: {fault}"),
    };
    eprintln!("round {round}, {connections:3} connections, {row:<23} {said}");
}

fn now_ms() -> u128 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis())
}
