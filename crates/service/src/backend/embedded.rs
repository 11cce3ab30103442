//! The embedded store.

use super::{opening, BadSetting, Kind, OpenError, Setting, StoreChoice, Written};
use crate::config::{DurabilityMode, Limits, Settings};
use crate::encryption::around;
use idempotency_store::sealed::KeyRing;
use idempotency_store::{Durability, Embedded, EmbeddedOptions, Store, StoreError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(super) const KIND: Kind = Kind {
    name: "embedded",
    is: |scheme| scheme == "embedded",
    settings: &[
        Setting::DataDir,
        Setting::Durability,
        Setting::SyncInterval,
        Setting::CacheBytes,
        Setting::MaxBytes,
        Setting::MinFreeBytes,
    ],
    nothing_to: |_| "the embedded store",
    choose,
};

/// How the embedded store is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedChoice {
    /// Its directory.
    pub path: PathBuf,
    /// When an acknowledged operation is on disk.
    pub durability: DurabilityMode,
    /// High-water mark by size.
    pub max_bytes: Option<u64>,
    /// High-water mark by free room in the file system.
    pub min_free_bytes: Option<u64>,
    /// Time between two syncs in relaxed mode.
    pub sync_interval: Duration,
    /// Memory for its cache.
    pub cache_bytes: Option<u64>,
}

fn choose(written: &Written<'_>, settings: &Settings) -> Result<StoreChoice, BadSetting> {
    let path = match (written.rest, &settings.data_dir) {
        ("", None) => PathBuf::from("idempotencyd-data"),
        ("", Some(dir)) => dir.clone(),
        (rest, None) => PathBuf::from(rest),
        (_, Some(_)) => {
            let message = "the directory is also named in `store`; say it once";
            return Err(("data_dir".into(), message.into()));
        }
    };
    let durability = settings.durability.unwrap_or(DurabilityMode::Durable);
    let sync_interval = match (durability, settings.sync_interval) {
        (DurabilityMode::Durable, Some(_)) => {
            let message = "means nothing with durability durable, where every answer \
                           waits for its sync";
            return Err(("sync_interval".into(), message.into()));
        }
        (_, Some(interval)) if !(1..=60_000).contains(&interval.0) => {
            let message = "must be between 1ms and 60s";
            return Err(("sync_interval".into(), message.into()));
        }
        (_, Some(interval)) => interval.duration(),
        (_, None) => Duration::from_millis(100),
    };
    Ok(StoreChoice::Embedded(EmbeddedChoice {
        path,
        durability,
        sync_interval,
        cache_bytes: settings.store_cache_bytes.map(|s| s.0),
        max_bytes: settings.store_max_bytes.map(|s| s.0),
        min_free_bytes: settings.store_min_free_bytes.map(|s| s.0),
    }))
}

impl EmbeddedChoice {
    fn options(&self, limits: &Limits) -> EmbeddedOptions {
        let mut options = EmbeddedOptions::new(&self.path);
        options.waiters = limits.waiters;
        options.quotas = limits.quotas;
        options.max_bytes = self.max_bytes;
        options.durability = match self.durability {
            DurabilityMode::Durable => Durability::Durable,
            DurabilityMode::Relaxed => Durability::Relaxed {
                interval: self.sync_interval,
            },
        };
        if let Some(bytes) = self.min_free_bytes {
            options.min_free_bytes = bytes;
        }
        if let Some(bytes) = self.cache_bytes {
            options.cache_bytes = bytes;
        }
        options
    }
}

/// Opens it with its quotas. If space or descriptors are lacking now, the store that is returned
/// opens it as soon as it can.
pub(super) async fn open(
    choice: &EmbeddedChoice,
    limits: &Limits,
    ring: Option<Arc<KeyRing>>,
) -> Result<Arc<dyn Store>, OpenError> {
    let options = choice.options(limits);
    let open = {
        let options = options.clone();
        let runtime = tokio::runtime::Handle::current();
        move || {
            let store = open_now(options.clone())?;
            runtime.block_on(around(store, ring.clone()))
        }
    };
    // Recovery reads the disk.
    match tokio::task::spawn_blocking(open.clone()).await {
        Ok(Ok(store)) => Ok(store),
        Ok(Err(why @ StoreError::Transient(_))) => {
            // To open it takes reading all its journals: not before there is a chance.
            let again = move || Embedded::lack(&options).and_then(|()| open());
            Ok(Arc::new(opening::Opening::after(why, again)))
        }
        Ok(Err(error)) => Err(OpenError(error.to_string())),
        Err(error) => Err(OpenError(error.to_string())),
    }
}

/// Opens it, and tells what there is to tell. Blocks.
fn open_now(options: EmbeddedOptions) -> Result<Arc<dyn Store>, StoreError> {
    let store = Embedded::open(options)?;
    for note in store.notes() {
        tracing::warn!("{note}");
    }
    Ok(Arc::new(store))
}
