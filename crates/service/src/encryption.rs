//! The keys of encryption at rest: where they come from, and when they are read again.

use crate::config::SettingError;
use idempotency_store::sealed::{KeyRing, Keys};
use idempotency_store::{Sealed, Store, StoreError};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often a file of keys is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often a command is asked again that nobody asked for.
const ASK: Duration = Duration::from_secs(300);
/// Longest time for a command.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most that is read of keys.
const MAX_BYTES: usize = 64 << 10;

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file, looked at every second.
    File(PathBuf),
    /// What this command writes, by way of `sh -c`: asked at start, on SIGHUP, and every five minutes.
    Command(String),
}

impl KeySource {
    /// From the settings, of which there may be one.
    pub(crate) fn from_settings(
        file: Option<&PathBuf>,
        command: Option<&String>,
    ) -> Result<Option<KeySource>, SettingError> {
        let wrong = |field: &str, message: &str| SettingError {
            field: field.to_owned(),
            message: message.to_owned(),
        };
        match (file, command) {
            (None, None) => Ok(None),
            (Some(path), None) => Ok(Some(KeySource::File(path.clone()))),
            (None, Some(command)) if command.trim().is_empty() => {
                Err(wrong("encryption_key_command", "is empty"))
            }
            (None, Some(command)) => Ok(Some(KeySource::Command(command.clone()))),
            (Some(_), Some(_)) => Err(wrong(
                "encryption_key_command",
                "there is a file of keys, too: say one of both",
            )),
        }
    }

    fn name(&self) -> String {
        match self {
            KeySource::File(path) => path.display().to_string(),
            // Its arguments may be secrets.
            KeySource::Command(_) => "the key command".to_owned(),
        }
    }

    async fn read(&self) -> Result<zeroize::Zeroizing<String>, String> {
        let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", self.name());
        let bytes = match self {
            KeySource::File(path) => tokio::fs::read(path).await.map_err(|e| failed(&e))?,
            KeySource::Command(command) => {
                let mut child = Command::new("sh");
                child.arg("-c").arg(command).kill_on_drop(true);
                child.stdin(std::process::Stdio::null());
                let output = tokio::time::timeout(PATIENCE, child.output()).await;
                let output = output.map_err(|_| failed(&"no answer within 30 s"))?;
                let output = output.map_err(|e| failed(&e))?;
                if !output.status.success() {
                    return Err(failed(&output.status));
                }
                output.stdout
            }
        };
        if bytes.len() > MAX_BYTES {
            return Err(failed(&"more than 64 KiB"));
        }
        let text = String::from_utf8(bytes).map_err(|_| failed(&"no text"))?;
        Ok(zeroize::Zeroizing::new(text))
    }
}

/// Keeps the keys of a process up to date.
#[derive(Debug)]
pub struct KeyKeeper {
    source: KeySource,
    ring: OnceLock<Arc<KeyRing>>,
    /// A digest of what was read last, so that what is the same is not told again.
    seen: Mutex<Option<[u8; 32]>>,
    has_failed: AtomicBool,
    again: Notify,
}

impl KeyKeeper {
    /// Of keys that are not read yet.
    pub fn new(source: KeySource) -> Arc<KeyKeeper> {
        Arc::new(KeyKeeper {
            source,
            ring: OnceLock::new(),
            seen: Mutex::new(None),
            has_failed: AtomicBool::new(false),
            again: Notify::new(),
        })
    }

    /// The keys, once they were read.
    pub fn ring(&self) -> Option<&Arc<KeyRing>> {
        self.ring.get()
    }

    /// Whether the newest keys are not in use because they could not be read, or make no sense.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// Reads the keys for the first time.
    ///
    /// # Errors
    ///
    /// What is wrong with them, without a key.
    pub async fn load(&self) -> Result<Arc<KeyRing>, String> {
        let text = self.source.read().await?;
        let keys = Keys::parse(&text).map_err(|e| format!("{}: {e}", self.source.name()))?;
        *self.seen() = Some(digest(&text));
        tracing::info!(keys = ?keys.names(), "records are encrypted; the first key seals");
        Ok(Arc::clone(self.ring.get_or_init(|| KeyRing::new(keys))))
    }

    /// Has the keys read again soon.
    pub fn ask_again(&self) {
        self.again.notify_one();
    }

    /// Reads the keys again when they change or somebody asks, until the server stops.
    pub(crate) async fn run(self: Arc<KeyKeeper>, stopping: CancellationToken) {
        let pause = match self.source {
            KeySource::File(_) => LOOK,
            KeySource::Command(_) => ASK,
        };
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.again.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            self.look().await;
        }
    }

    async fn look(&self) {
        let text = match self.source.read().await {
            Ok(text) => text,
            Err(error) => return self.fail(&error),
        };
        let digest = digest(&text);
        if *self.seen() == Some(digest) {
            // These are in use.
            self.has_failed.store(false, Ordering::Relaxed);
            return;
        }
        let Some(ring) = self.ring.get() else { return };
        let replaced = Keys::parse(&text).and_then(|keys| {
            let names = format!("{:?}", keys.names());
            ring.replace(keys).map(|()| names)
        });
        match replaced {
            Ok(keys) => {
                *self.seen() = Some(digest);
                self.has_failed.store(false, Ordering::Relaxed);
                tracing::info!(keys, "encryption keys read again; the first one seals");
            }
            Err(error) => self.fail(&format!("{}: {error}", self.source.name())),
        }
    }

    fn fail(&self, error: &str) {
        if !self.has_failed.swap(true, Ordering::Relaxed) {
            tracing::error!(error, "encryption keys not replaced");
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Option<[u8; 32]>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// The store as it is used: encrypted where there are keys, and refused where there are none and it is encrypted.
///
/// # Errors
///
/// As [`Sealed::open`], or that of a store that is encrypted.
pub(crate) async fn around(
    store: Arc<dyn Store>,
    ring: Option<Arc<KeyRing>>,
) -> Result<Arc<dyn Store>, StoreError> {
    match ring {
        Some(ring) => Ok(Arc::new(Sealed::open(store, ring).await?)),
        None => {
            idempotency_store::sealed::refuse_sealed(&*store).await?;
            Ok(store)
        }
    }
}
