//! The history of a run: everything that clients, upstream and nemesis did, in files of JSON
//! lines. The checker knows nothing else.

mod event;
mod recorder;

pub use event::{
    Answer, End, Event, FaultBegins, FaultKind, Invoke, OpId, Record, Return, Run, Stall, Started,
    Target,
};
pub use recorder::Recorder;

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// The file of what clients and nemesis did.
pub const HISTORY: &str = "history.jsonl";

/// The upstream's own journal.
pub const EXECUTIONS: &str = "executions.jsonl";

/// The header that carries an operation's number to the upstream's journal.
pub const OP_HEADER: &str = "x-check-op";

/// The header that names the caller.
pub const TENANT_HEADER: &str = "x-tenant";

/// Reads a run's directory.
///
/// # Errors
///
/// If a file cannot be read, or a line is none.
pub fn read(dir: &Path) -> io::Result<Vec<Event>> {
    let mut events = Vec::new();
    for name in [HISTORY, EXECUTIONS] {
        let path = dir.join(name);
        let failed = |error: &dyn std::fmt::Display| {
            io::Error::other(format!("{}: {error}", path.display()))
        };
        let file = File::open(&path).map_err(|error| failed(&error))?;
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|error| failed(&error))?;
            events.push(serde_json::from_str(&line).map_err(|error| failed(&error))?);
        }
    }
    Ok(events)
}
