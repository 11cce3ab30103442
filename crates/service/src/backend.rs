//! Which store, and opening it.

mod opening;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;

use crate::config::{DurabilityMode, Limits, Settings};
use idempotency_store::clock::SystemClock;
use idempotency_store::{
    Durability, Embedded, EmbeddedOptions, Memory, Store, StoreError, WaiterCaps,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A store as it is named on the command line: `scheme:rest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChoice {
    /// Nothing survives the process. For tests.
    Memory,
    /// A database file of this process alone.
    Embedded(EmbeddedChoice),
    /// Redis, which any number of services share.
    #[cfg(feature = "redis")]
    Redis(Box<idempotency_store::RedisOptions>),
    /// A PostgreSQL database, which any number of services share.
    #[cfg(feature = "postgres")]
    Postgres(Box<idempotency_store::PostgresOptions>),
}

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

/// The stores of this build, for messages.
const STORES: &str = match (cfg!(feature = "redis"), cfg!(feature = "postgres")) {
    (true, true) => "embedded, redis:// with its variants, postgres and memory",
    (true, false) => "embedded, redis:// with its variants and memory",
    (false, true) => "embedded, postgres and memory",
    (false, false) => "embedded and memory",
};

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the store cannot be opened: {0}")]
pub struct OpenError(pub String);

impl StoreChoice {
    /// Reads the choice; the error names the setting.
    pub(crate) fn from_settings(settings: &Settings) -> Result<StoreChoice, (String, String)> {
        let written = settings.store.as_deref().unwrap_or("embedded");
        let (scheme, rest) = written.split_once(':').unwrap_or((written, ""));
        if !scheme.starts_with("redis") {
            no_guard(settings, "only a Redis store has such a guard")?;
        }
        match scheme {
            "embedded" => {
                let path = match (rest, &settings.data_dir) {
                    ("", None) => PathBuf::from("idempotencyd-data"),
                    ("", Some(dir)) => dir.clone(),
                    (_, None) => PathBuf::from(rest),
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
            "memory" if rest.is_empty() => {
                for (field, given) in [
                    ("data_dir", settings.data_dir.is_some()),
                    ("durability", settings.durability.is_some()),
                    (
                        "store_min_free_bytes",
                        settings.store_min_free_bytes.is_some(),
                    ),
                ] {
                    if given {
                        return Err((field.into(), "means nothing to the memory store".into()));
                    }
                }
                Ok(StoreChoice::Memory)
            }
            #[cfg(feature = "redis")]
            _ if scheme.starts_with("redis") => Ok(StoreChoice::Redis(Box::new(redis::choose(
                written, settings,
            )?))),
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => {
                let options = postgres::choose(written, settings)?;
                Ok(StoreChoice::Postgres(Box::new(options)))
            }
            _ => Err((
                "store".into(),
                format!("`{scheme}` is no store of this build; there are {STORES}"),
            )),
        }
    }

    /// Whether there is a schema that [`StoreChoice::migrate`] can bring up to date.
    pub fn has_schema(&self) -> bool {
        match self {
            #[cfg(feature = "postgres")]
            StoreChoice::Postgres(_) => true,
            _ => false,
        }
    }

    /// Brings the schema up to date, and says what it did.
    pub async fn migrate(&self) -> Result<String, OpenError> {
        match self {
            #[cfg(feature = "postgres")]
            StoreChoice::Postgres(options) => postgres::migrate(options).await,
            _ => Err(OpenError("it has no schema to migrate".to_owned())),
        }
    }

    /// Opens the store. Its own caps on waits are the service's.
    pub async fn open(&self, limits: &Limits) -> Result<Arc<dyn Store>, OpenError> {
        let store = self.open_without_quotas(limits).await?;
        // The embedded store has them from its first moment on.
        if !matches!(self, StoreChoice::Embedded(_)) {
            let set = store.set_quotas(limits.quotas).await;
            set.map_err(|error| OpenError(format!("the quotas of tenants: {error}")))?;
        }
        Ok(store)
    }

    async fn open_without_quotas(&self, limits: &Limits) -> Result<Arc<dyn Store>, OpenError> {
        let waiters = WaiterCaps {
            per_key: limits.max_waiters_per_key,
            per_tenant: limits.max_waiters_per_tenant,
            total: limits.max_waiters,
        };
        match self {
            StoreChoice::Memory => {
                tracing::warn!("MEMORY STORE: every record is lost when the process ends");
                let clock = Arc::new(SystemClock::starting_after(0));
                Ok(Arc::new(Memory::with_caps(clock, waiters)))
            }
            StoreChoice::Embedded(choice) => {
                let options = EmbeddedOptions {
                    quotas: limits.quotas,
                    ..choice.options(waiters)
                };
                let open = {
                    let options = options.clone();
                    move || open_embedded(options.clone())
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
            #[cfg(feature = "redis")]
            StoreChoice::Redis(options) => redis::open(options, waiters).await,
            #[cfg(feature = "postgres")]
            StoreChoice::Postgres(options) => postgres::open(options, waiters).await,
        }
    }
}

/// Opens the embedded store, and tells what there is to tell. Blocks.
fn open_embedded(options: EmbeddedOptions) -> Result<Arc<dyn Store>, StoreError> {
    let store = Embedded::open(options)?;
    for note in store.notes() {
        tracing::warn!("{note}");
    }
    Ok(Arc::new(store))
}

/// Refuses the settings of a guard.
fn no_guard(settings: &Settings, why: &str) -> Result<(), (String, String)> {
    for (field, given) in [
        ("redlock_nodes", !settings.redlock_nodes.is_empty()),
        ("redlock_timeout", settings.redlock_timeout.is_some()),
        (
            "redlock_drift_percent",
            settings.redlock_drift_percent.is_some(),
        ),
    ] {
        if given {
            return Err((field.into(), why.into()));
        }
    }
    Ok(())
}

/// Refuses the settings that mean nothing to a server with settings of its own.
#[cfg(any(feature = "redis", feature = "postgres"))]
fn only_embedded(settings: &Settings, server: &str) -> Result<(), (String, String)> {
    for (field, given) in [
        ("data_dir", settings.data_dir.is_some()),
        ("durability", settings.durability.is_some()),
        ("sync_interval", settings.sync_interval.is_some()),
        ("store_cache_bytes", settings.store_cache_bytes.is_some()),
        (
            "store_min_free_bytes",
            settings.store_min_free_bytes.is_some(),
        ),
    ] {
        if given {
            let message = format!("means nothing to {server}, which has settings of its own");
            return Err((field.into(), message));
        }
    }
    Ok(())
}

impl EmbeddedChoice {
    fn options(&self, waiters: WaiterCaps) -> EmbeddedOptions {
        let mut options = EmbeddedOptions::new(&self.path);
        options.waiters = waiters;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(store: Option<&str>, dir: Option<&str>) -> Result<StoreChoice, (String, String)> {
        StoreChoice::from_settings(&Settings {
            store: store.map(Into::into),
            data_dir: dir.map(Into::into),
            ..Settings::default()
        })
    }

    #[test]
    fn schemes() {
        let path = |choice| match choice {
            Ok(StoreChoice::Embedded(e)) => e.path,
            other => panic!("{other:?}"),
        };
        assert_eq!(path(choose(None, None)), PathBuf::from("idempotencyd-data"));
        assert_eq!(path(choose(None, Some("/d"))), PathBuf::from("/d"));
        assert_eq!(
            path(choose(Some("embedded"), Some("/d"))),
            PathBuf::from("/d")
        );
        assert_eq!(path(choose(Some("embedded:/e"), None)), PathBuf::from("/e"));
        assert_eq!(choose(Some("memory"), None).unwrap(), StoreChoice::Memory);
        assert_eq!(choose(Some("memory:"), None).unwrap(), StoreChoice::Memory);
        let redis = choose(Some("redis+cluster://u:secret@x?prefix=p:"), None).unwrap();
        assert!(matches!(&redis, StoreChoice::Redis(o) if o.prefix == "p:"));
        assert!(!format!("{redis:?}").contains("secret"));
        for (store, dir, field) in [
            (Some("mysql://x"), None, "store"),
            (Some("redis://a,b"), None, "store"),
            (Some("redis+ring://a"), None, "store"),
            (Some("redis://x"), Some("/d"), "data_dir"),
            (Some(""), None, "store"),
            (Some("memory:/x"), None, "store"),
            (Some("memory"), Some("/d"), "data_dir"),
            (Some("embedded:/e"), Some("/d"), "data_dir"),
        ] {
            assert_eq!(
                choose(store, dir).unwrap_err().0,
                field,
                "{store:?} {dir:?}"
            );
        }
    }

    #[test]
    #[cfg(feature = "redis")]
    fn a_guard() {
        let choose = |store: &str, nodes: &[&str], change: fn(&mut Settings)| {
            let mut settings = Settings {
                store: Some(store.into()),
                redlock_nodes: nodes.iter().map(|node| (*node).into()).collect(),
                ..Settings::default()
            };
            change(&mut settings);
            StoreChoice::from_settings(&settings)
        };
        let nodes = ["redis://a", "redis://:secret@b", "redis://c"];
        let chosen = choose("redis://m", &nodes, |s| {
            s.redlock_timeout = Some(crate::config::Millis(70));
        });
        let Ok(StoreChoice::Redis(options)) = &chosen else {
            panic!("{chosen:?}");
        };
        let guard = options.guard.as_ref().unwrap();
        assert_eq!(guard.nodes.len(), 3);
        assert_eq!((guard.timeout.as_millis(), guard.drift_percent), (70, 1));
        assert!(!format!("{chosen:?}").contains("secret"));

        let same = |_: &mut Settings| {};
        let drift = |s: &mut Settings| s.redlock_drift_percent = Some(51);
        let timeout = |s: &mut Settings| s.redlock_timeout = Some(crate::config::Millis(0));
        for (store, nodes, change, field) in [
            (
                "embedded",
                &nodes[..],
                same as fn(&mut Settings),
                "redlock_nodes",
            ),
            ("postgres://h/d", &nodes, same, "redlock_nodes"),
            ("redis://m", &nodes[..2], same, "redlock_nodes"),
            ("redis://b", &nodes, same, "redlock_nodes[1]"),
            ("redis://m", &[], drift, "redlock_drift_percent"),
            ("redis://m", &nodes, drift, "redlock_drift_percent"),
            ("redis://m", &nodes, timeout, "redlock_timeout"),
        ] {
            let (named, message) = choose(store, nodes, change).unwrap_err();
            assert_eq!(named, field, "{store} {nodes:?}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
