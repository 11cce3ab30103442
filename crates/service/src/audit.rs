//! Who changed which record. Every change that an operator asks for is a log line with the target
//! `audit` and, where configured, a line in a file of its own.

use crate::redact::log_id;
use idempotency_store::{Resolution, Resolve};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where audit lines go.
pub(crate) struct Audit {
    file: Option<Arc<Mutex<File>>>,
}

/// One change, as it was asked for.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    at_ms: u64,
    who: String,
    action: &'static str,
    key: String,
    version: u64,
    force: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    result: &'a str,
}

impl Entry {
    pub(crate) fn new(who: &Arc<str>, resolve: &Resolve) -> Entry {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Entry {
            at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            who: who.to_string(),
            action: match resolve.to {
                Resolution::Completed(_) => "resolve-completed",
                Resolution::Failed => "resolve-failed",
                Resolution::Deleted => "delete",
            },
            key: log_id(&resolve.key),
            version: resolve.version,
            force: resolve.force,
        }
    }
}

impl Audit {
    /// Opens the file, so that a wrong path is found at start.
    pub(crate) fn open(path: Option<&Path>) -> std::io::Result<Audit> {
        let file = match path {
            Some(path) => {
                let file = OpenOptions::new().append(true).create(true).open(path)?;
                Some(Arc::new(Mutex::new(file)))
            }
            None => None,
        };
        Ok(Audit { file })
    }

    /// Writes the line, and waits until the file has it.
    pub(crate) async fn write(&self, entry: Entry, result: &'static str) {
        tracing::info!(
            target: "audit",
            who = %entry.who,
            action = entry.action,
            key = %entry.key,
            version = entry.version,
            force = entry.force,
            result,
            "operator change"
        );
        let Some(file) = self.file.clone() else {
            return;
        };
        let written = tokio::task::spawn_blocking(move || append(&file, &entry, result)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the audit log cannot be written"),
            Err(error) => tracing::error!(%error, "the audit log cannot be written"),
        }
    }
}

fn append(file: &Mutex<File>, entry: &Entry, result: &str) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(&Line { entry, result })?;
    line.push(b'\n');
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    // One write: lines of several processes do not mix in an append-only file.
    file.write_all(&line)?;
    file.sync_data()
}
