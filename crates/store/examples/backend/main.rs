//! A backend to copy: all records in memory (`store.rs`), and every change of them in a file
//! (`journal.rs`).
//!
//! ```text
//! cargo run -p idempotency-store --features contract --example backend
//! ```
//!
//! runs the whole contract suite against it, and ends with an error if a case fails.
//!
//! It does what a store must do: an answer leaves only when all that it tells of has been synced,
//! and a second process is kept out. It is small because it does without what takes most of the
//! code of a real one: every call that changes something pays for a sync of its own, all records
//! have to fit into memory, a sweep looks at all of them, and there is no high-water mark. While the
//! process is down, leases go on: an execution that outlives its lease becomes unknown, which is
//! safe.

mod journal;
mod store;

use idempotency_store::clock::{Clock, ManualClock};
use idempotency_store::contract::{self, ManualHarness};
use idempotency_store::Store;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use store::FileStore;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    // The suite lets hours pass, so it moves the clock. A program takes a `SystemClock`.
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000));
    let store = FileStore::open(dir.path(), |_| Arc::clone(&clock) as Arc<dyn Clock>)?;
    let harness = ManualHarness::new(store, clock, |store| store.waits().now);

    let verdicts = contract::run_all(&harness).await;
    for (name, verdict) in &verdicts {
        if let Err(why) = verdict {
            eprintln!("{name}: {why}");
        }
    }
    let passed = verdicts.iter().filter(|(_, v)| v.is_ok()).count();
    println!("{passed} of {} cases passed", verdicts.len());
    Ok(if passed == verdicts.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
