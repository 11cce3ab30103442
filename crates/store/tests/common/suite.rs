//! On what the contract suite runs: the declaration, the notes of what came out, and the table.
#![allow(dead_code)]

use idempotency_store::contract::{names, run_all, Harness};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A backend, or a topology of one, on which every case runs.
pub struct Backend {
    /// The column's head.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// The test that runs the suite on it.
    pub test: &'static str,
}

/// All of them. A run under another name fails.
pub const BACKENDS: [Backend; 16] = [
    Backend {
        name: "Memory",
        what: "the model, on a clock that the test moves",
        test: "contract.rs: memory",
    },
    Backend {
        name: "Memory, real time",
        what: "the same on the machine's clock",
        test: "contract.rs: memory_in_real_time",
    },
    Backend {
        name: "Embedded",
        what: "durable",
        test: "contract.rs: embedded",
    },
    Backend {
        name: "Embedded, relaxed",
        what: "synced in the background",
        test: "contract.rs: embedded_relaxed",
    },
    Backend {
        name: "Redis",
        what: "one server, two instances of the store",
        test: "redis/contract.rs: single",
    },
    Backend {
        name: "Redis, socket",
        what: "over a Unix socket",
        test: "redis/contract.rs: through_a_unix_socket",
    },
    Backend {
        name: "Sentinel",
        what: "a master, a replica, three Sentinels; two instances",
        test: "redis/contract.rs: sentinel",
    },
    Backend {
        name: "WAIT",
        what: "the same with `wait_replicas=1`",
        test: "redis/contract.rs: with_replicas_that_are_waited_for",
    },
    Backend {
        name: "Cluster",
        what: "three masters, three replicas; two instances",
        test: "redis/contract.rs: cluster",
    },
    Backend {
        name: "Redlock",
        what: "one server and five independent nodes; two instances",
        test: "redis/redlock.rs: contract",
    },
    Backend {
        name: "PostgreSQL",
        what: "one server, two instances that take turns",
        test: "postgres/contract.rs: in_real_time",
    },
    Backend {
        name: "PostgreSQL, moved clock",
        what: "one connection, and a clock that the test moves",
        test: "postgres/contract.rs: on_a_moved_clock_and_one_connection",
    },
    Backend {
        name: "Memory, encrypted",
        what: "the model with a sealed store around it, after a rotation",
        test: "sealed/contract.rs: memory",
    },
    Backend {
        name: "Embedded, encrypted",
        what: "likewise, durable",
        test: "sealed/contract.rs: embedded",
    },
    Backend {
        name: "Redis, encrypted",
        what: "likewise, one server, two instances",
        test: "sealed/contract.rs: redis",
    },
    Backend {
        name: "PostgreSQL, encrypted",
        what: "likewise, one server, two instances",
        test: "sealed/contract.rs: postgres",
    },
];

/// Runs the suite on one of [`BACKENDS`] and notes what came out.
pub async fn holds_on(backend: &str, harness: &dyn Harness) {
    let declared = BACKENDS.iter().any(|declared| declared.name == backend);
    assert!(declared, "{backend} is not among the backends of the suite");
    let verdicts = run_all(harness).await;
    let mut notes = String::new();
    let mut failed = String::new();
    for (name, verdict) in &verdicts {
        let word = if verdict.is_ok() { "ok" } else { "FAILED" };
        writeln!(notes, "{word}\t{name}").unwrap();
        if let Err(why) = verdict {
            writeln!(failed, "{name}: {why}").unwrap();
        }
    }
    let file = notes_dir().join(backend);
    std::fs::create_dir_all(notes_dir()).unwrap();
    std::fs::write(file, notes).unwrap();
    assert!(verdicts.len() > 200, "only {} cases", verdicts.len());
    assert!(failed.is_empty(), "{failed}");
}

/// Where runs note what came out.
pub fn notes_dir() -> PathBuf {
    match idempotency_stack::tools::target_dir() {
        Some(dir) => dir.join("contract"),
        None => panic!("this program is not in a target directory"),
    }
}

/// What a run on a backend noted: whether each case held. `None`: it has not run.
pub fn noted(dir: &Path, backend: &str) -> Option<BTreeMap<String, bool>> {
    let notes = std::fs::read_to_string(dir.join(backend)).ok()?;
    let line = |line: &str| {
        let (word, name) = line.split_once('\t')?;
        Some((name.to_owned(), word == "ok"))
    };
    Some(notes.lines().filter_map(line).collect())
}

/// The rows of a table, each with its cases: what is tried in several states (`… × state`) is one
/// row, every other case has its own.
pub fn rows() -> Vec<(String, Vec<String>)> {
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    for name in names() {
        let head = name.split(" × ").next().unwrap_or_default().to_owned();
        match rows.iter_mut().find(|(row, _)| *row == head) {
            Some((_, cases)) => cases.push(name),
            None => rows.push((head, vec![name])),
        }
    }
    rows
}

/// The page of the documentation: what runs where, case by case.
pub fn page() -> String {
    let mut page = String::from(
        "# The store's contract, case by case\n\n\
         Every backend does the same: these cases run on each of them, on real servers that the tests\n\
         start. `make test` prints what came out, and fails if a case or a backend was left out. This\n\
         page is generated from the suite (`crates/store/src/contract`) and from the list of backends\n\
         (`crates/store/tests/common/suite.rs`); a test keeps it current.\n\n\
         | | | test, in `crates/store/tests` |\n|---|---|---|\n",
    );
    for Backend { name, what, test } in &BACKENDS {
        let (file, test) = test.split_once(": ").unwrap_or((test, ""));
        writeln!(page, "| {name} | {what} | `{file}`: `{test}` |").unwrap();
    }
    let heads: Vec<_> = BACKENDS.iter().map(|backend| backend.name).collect();
    write!(
        page,
        "\n{} cases. A number counts the states in which something is tried.\n\n| | {} |\n|---|{}\n",
        names().len(),
        heads.join(" | "),
        ":-:|".repeat(heads.len())
    )
    .unwrap();
    for (head, cases) in rows() {
        let cell = if cases.len() > 1 {
            cases.len().to_string()
        } else {
            "✓".to_owned()
        };
        let cells = vec![cell; heads.len()].join(" | ");
        writeln!(page, "| {head} | {cells} |").unwrap();
    }
    page
}
