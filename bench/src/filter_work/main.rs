//! `filter-work`: what the filter itself does for one request, without Envoy and without a quiet
//! machine. The glue and the state machines run natively against a host in memory.
//!
//! Prints the hostcalls and, where valgrind is installed, the instructions per request of each
//! kind. Both repeat, so a change that costs shows at once: `--check` compares with what was
//! committed.

mod baseline;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use baseline::{Baseline, Work};
use idempotency_bench::driver::{Driver, Kind, TICK_EVERY};

const USAGE: &str = "\
usage: filter-work                 a table
       filter-work --check FILE    the same, compared with what FILE says; fails on a difference
       filter-work --update FILE   writes FILE
       filter-work KIND TIMES      drives one kind of request so many times, for profilers";

/// Iterations of the two runs whose difference is the cost of one request.
const FEW: u64 = 100;
const MANY: u64 = 1100;
/// Hostcalls are counted over so many ticks.
const TICKS: u32 = 4;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        [] => measure().and_then(|measured| print(&measured.table())),
        ["--check", file] => check(Path::new(file)),
        ["--update", file] => measure().and_then(|measured| measured.write(Path::new(file))),
        [kind, times] => repeat(kind, times),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn check(file: &Path) -> Result<(), String> {
    let expected = Baseline::read(file)?;
    let measured = measure()?;
    print(&measured.table())?;
    let faults = measured.differs_from(&expected);
    if !measured.compares_with(&expected) {
        print("\ninstructions are not compared: another compiler, or no valgrind\n")?;
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}\nIf that is what you want: make bench-work ARGS=--update",
        faults.join("\n")
    ))
}

fn print(text: &str) -> Result<(), String> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| error.to_string())
}

/// Drives one kind of request so many times; for profilers.
fn repeat(kind: &str, times: &str) -> Result<(), String> {
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind);
    let kind = kind.ok_or("no such kind of request")?;
    let times: u64 = times.parse().map_err(|_| "how many times?")?;
    let mut driver = Driver::new(kind);
    (0..times).try_for_each(|_| driver.request())
}

fn measure() -> Result<Baseline, String> {
    let mut requests = BTreeMap::new();
    for kind in Kind::ALL {
        let instructions = match (instructions(kind, MANY), instructions(kind, FEW)) {
            (Some(many), Some(few)) => Some((many - few) / (MANY - FEW)),
            _ => None,
        };
        let work = Work {
            instructions,
            hostcalls: hostcalls(kind)?,
        };
        requests.insert(kind.name().to_owned(), work);
    }
    Ok(Baseline {
        made_with: made_with(),
        requests,
    })
}

/// Those of one request, with its part of what is done once for many: the tick, and randomness for owners.
fn hostcalls(kind: Kind) -> Result<BTreeMap<String, f64>, String> {
    let mut driver = Driver::new(kind);
    (0..TICK_EVERY).try_for_each(|_| driver.request())?;
    driver.host().counting.set(true);
    (0..TICKS * TICK_EVERY).try_for_each(|_| driver.request())?;
    let requests = f64::from(TICKS * TICK_EVERY);
    let calls = driver.host().calls.borrow();
    let each = |n: u64| (n as f64 / requests * 1000.0).round() / 1000.0;
    Ok(calls
        .iter()
        .map(|(name, n)| ((*name).to_owned(), each(*n)))
        .collect())
}

/// What instructions depend on besides the sources.
fn made_with() -> String {
    let rustc = Command::new("rustc").arg("--version").output();
    let rustc = rustc.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!("{}, {}", rustc.unwrap_or_default(), std::env::consts::ARCH)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostcalls_are_those_that_were_committed() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("work.json");
        let expected = Baseline::read(&file).unwrap();
        for kind in Kind::ALL {
            let expected = &expected.requests[kind.name()].hostcalls;
            let hint = "make bench-work ARGS=--update writes what is counted now";
            assert_eq!(
                &hostcalls(kind).unwrap(),
                expected,
                "{}: {hint}",
                kind.name()
            );
        }
    }
}
