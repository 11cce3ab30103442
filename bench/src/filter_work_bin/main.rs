//! `filter-work`: what the filter itself does for one request, without Envoy and without a quiet
//! machine. The glue and the state machines run natively against a host in memory.
//!
//! Prints the hostcalls and, where valgrind is installed, the instructions per request of each
//! kind. Both repeat exactly, so a change that costs shows at once.

mod drive;
mod host;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, ExitCode};

use drive::{Driver, Kind};

/// Iterations of the two runs whose difference is the cost of one request.
const FEW: u64 = 100;
const MANY: u64 = 1100;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.as_slice() {
        [] => table(),
        [kind, times] => repeat(kind, times),
        _ => Err("usage: filter-work [KIND TIMES]".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Drives one kind of request so many times; for profilers.
fn repeat(kind: &str, times: &str) -> Result<(), String> {
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind);
    let kind = kind.ok_or("no such kind of request")?;
    let times: u64 = times.parse().map_err(|_| "how many times?")?;
    let mut driver = Driver::new(kind);
    (0..times).try_for_each(|_| driver.request())
}

fn table() -> Result<(), String> {
    let mut table =
        "| request | instructions | hostcalls | which |\n|---|--:|--:|---|\n".to_owned();
    for kind in Kind::ALL {
        let calls = hostcalls(kind)?;
        let instructions = match (instructions(kind, MANY), instructions(kind, FEW)) {
            (Some(many), Some(few)) => ((many - few) / (MANY - FEW)).to_string(),
            _ => "–".to_owned(),
        };
        let total: u64 = calls.values().sum();
        let which: Vec<_> = calls
            .iter()
            .map(|(name, times)| format!("{times} {name}"))
            .collect();
        let which = which.join(", ");
        let name = kind.name();
        table.push_str(&format!(
            "| {name} | {instructions} | {total} | {which} |\n"
        ));
    }
    std::io::stdout()
        .write_all(table.as_bytes())
        .map_err(|error| error.to_string())
}

fn hostcalls(kind: Kind) -> Result<BTreeMap<&'static str, u64>, String> {
    let mut driver = Driver::new(kind);
    driver.request()?;
    driver.host().counting.set(true);
    driver.request()?;
    let calls = driver.host().calls.borrow().clone();
    Ok(calls)
}

/// Instructions of a whole run, by callgrind; `None` where there is none.
fn instructions(kind: Kind, times: u64) -> Option<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().ok()?)
        .arg(kind.name())
        .arg(times.to_string())
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    collected?.1.trim().parse().ok()
}
