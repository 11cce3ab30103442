//! Who changed which record. Every change that an operator asks for is a log line with the target
//! `audit` and, where configured, a line in a file of its own.

use crate::redact::log_id;
use idempotency_store::{Resolution, Resolve};
use serde::Serialize;
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
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
    /// Opens the file, so that a wrong path is found at start. Only its owner may read it.
    pub(crate) fn open(path: Option<&Path>) -> std::io::Result<Audit> {
        let file = match path {
            Some(path) => {
                let mut options = OpenOptions::new();
                let file = options.append(true).create(true).mode(0o600).open(path)?;
                narrow(&file, path)?;
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

/// One that is there already may be wider; what is no file, a pipe to a collector, stays as it is.
fn narrow(file: &File, path: &Path) -> std::io::Result<()> {
    let metadata = file.metadata()?;
    let mode = metadata.permissions().mode() & 0o777;
    if !metadata.is_file() || mode & 0o077 == 0 {
        return Ok(());
    }
    let path = path.display();
    match file.set_permissions(Permissions::from_mode(mode & 0o700)) {
        Ok(()) => tracing::warn!(%path, "the audit log was open to others; now it is its owner's"),
        Err(error) => tracing::warn!(%path, %error, "the audit log is open to others"),
    }
    Ok(())
}

fn append(file: &Mutex<File>, entry: &Entry, result: &str) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(&Line { entry, result })?;
    line.push(b'\n');
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    // One write: lines of several processes do not mix in an append-only file.
    file.write_all(&line)?;
    file.sync_data()
}
