//! Who looked at which records, and who changed them. Everything that an operator asks for is a log
//! line with the target `audit` and, where configured, a line in a file of its own.

use crate::peer::Address;
use crate::redact::{log_id, tenant_id};
use idempotency_protocol::LookupKey;
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

/// What an operator asked for. The file names the tenant, so that it can be told whose records
/// were looked at; the log, which goes to more places, shows only ids.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    at_ms: u64,
    who: String,
    /// Where the request came from.
    address: String,
    action: &'static str,
    /// All, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// By what was looked for, of a list: the names of the criteria.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force: Option<bool>,
    /// In the operator's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Who asks, from where, and why.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    /// The token's name.
    pub who: Arc<str>,
    /// Where the request came from.
    pub from: Address,
    /// In the operator's words.
    pub reason: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    result: &'a str,
}

impl Entry {
    fn new(asker: &Asker, action: &'static str) -> Entry {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Entry {
            at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            who: asker.who.to_string(),
            address: asker.from.to_string(),
            action,
            tenant: None,
            key: None,
            by: None,
            version: None,
            force: None,
            reason: asker.reason.clone(),
        }
    }

    /// A change of one record.
    pub(crate) fn change(asker: &Asker, resolve: &Resolve) -> Entry {
        let action = match resolve.to {
            Resolution::Completed(_) | Resolution::Prepared(_) => "resolve-completed",
            Resolution::Failed => "resolve-failed",
            Resolution::Deleted => "delete",
        };
        Entry {
            version: Some(resolve.version),
            force: Some(resolve.force),
            ..Entry::inspect(asker, &resolve.key).named(action)
        }
    }

    /// A look at one record.
    pub(crate) fn inspect(asker: &Asker, key: &LookupKey) -> Entry {
        Entry {
            tenant: Some(key.tenant.clone()),
            key: Some(log_id(key)),
            ..Entry::new(asker, "inspect")
        }
    }

    /// A look at the stored answer of a record.
    pub(crate) fn answer(asker: &Asker, key: &LookupKey) -> Entry {
        Entry::inspect(asker, key).named("read-answer")
    }

    /// A look at a page of records, by what was looked for.
    pub(crate) fn list(asker: &Asker, tenant: Option<&str>, by: &[&str]) -> Entry {
        Entry {
            tenant: tenant.map(str::to_owned),
            by: (!by.is_empty()).then(|| by.join(",")),
            ..Entry::new(asker, "list")
        }
    }

    /// Records are sealed anew.
    pub(crate) fn rewrap(asker: &Asker) -> Entry {
        Entry::new(asker, "rewrap")
    }

    /// What was deleted leaves the store's files.
    pub(crate) fn scrub(asker: &Asker) -> Entry {
        Entry::new(asker, "scrub")
    }

    fn named(self, action: &'static str) -> Entry {
        Entry { action, ..self }
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
            address = %entry.address,
            action = entry.action,
            tenant = entry.tenant.as_deref().map(tenant_id),
            key = entry.key,
            by = entry.by,
            version = entry.version,
            force = entry.force,
            reason = entry.reason,
            result,
            "operator"
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
