//! Prints which cases of the contract suite held on which backends when the tests ran last; fails
//! if one did not, or was left out. `contract_table page` prints the page of the documentation.

#[path = "../tests/common/suite.rs"]
mod suite;

use std::process::ExitCode;
use suite::{noted, notes_dir, page, rows, BACKENDS};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("page") {
        print!("{}", page());
        return ExitCode::SUCCESS;
    }
    let dir = notes_dir();
    let notes: Vec<_> = BACKENDS
        .iter()
        .map(|backend| noted(&dir, backend.name))
        .collect();
    let rows = rows();
    let width = rows.iter().map(|(head, _)| head.chars().count()).max();
    let width = width.unwrap_or_default();
    for (place, backend) in BACKENDS.iter().enumerate() {
        println!("{:width$} {}{}", "", "│ ".repeat(place), backend.name);
    }
    let mut whole = true;
    for (head, cases) in &rows {
        let mut line = format!("{head:width$} ");
        for notes in &notes {
            let held = |case| notes.as_ref().and_then(|notes| notes.get(case)).copied();
            let all: Vec<_> = cases.iter().map(held).collect();
            let sign = if all.contains(&Some(false)) {
                "✗"
            } else if all.contains(&None) {
                "?"
            } else {
                "✓"
            };
            whole &= sign == "✓";
            line += sign;
            line += " ";
        }
        println!("{}", line.trim_end());
    }
    let cases: usize = rows.iter().map(|(_, cases)| cases.len()).sum();
    println!("{cases} cases × {} backends", BACKENDS.len());
    if whole {
        return ExitCode::SUCCESS;
    }
    println!("✗: it did not hold; ?: it did not run");
    ExitCode::FAILURE
}
