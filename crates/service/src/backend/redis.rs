//! The Redis store.

use super::OpenError;
use crate::config::Settings;
use idempotency_store::{RedisOptions, RedisStore, RedlockOptions, Store, WaiterCaps};
use std::sync::Arc;

/// Reads the choice; the error names the setting.
pub(super) fn choose(url: &str, settings: &Settings) -> Result<RedisOptions, (String, String)> {
    super::only_embedded(settings, "Redis")?;
    if settings.store_max_bytes.is_some() {
        let message = "means nothing to Redis, which has `maxmemory`";
        return Err(("store_max_bytes".into(), message.into()));
    }
    let mut options = RedisOptions::parse(url).map_err(|message| ("store".to_owned(), message))?;
    options.guard = guard(settings, &options)?;
    Ok(options)
}

fn guard(
    settings: &Settings,
    main: &RedisOptions,
) -> Result<Option<RedlockOptions>, (String, String)> {
    if settings.redlock_nodes.is_empty() {
        super::no_guard(settings, "means nothing without redlock_nodes")?;
        return Ok(None);
    }
    let mut guard = RedlockOptions::parse(&settings.redlock_nodes, main).map_err(|bad| {
        let field = match bad.node {
            Some(node) => format!("redlock_nodes[{node}]"),
            None => "redlock_nodes".to_owned(),
        };
        (field, bad.message)
    })?;
    match settings.redlock_timeout {
        Some(timeout) if !(1..=10_000).contains(&timeout.0) => {
            let message = "must be between 1ms and 10s";
            return Err(("redlock_timeout".into(), message.into()));
        }
        Some(timeout) => guard.timeout = timeout.duration(),
        None => {}
    }
    match settings.redlock_drift_percent {
        Some(51..) => {
            let message = "must be between 0 and 50";
            return Err(("redlock_drift_percent".into(), message.into()));
        }
        Some(percent) => guard.drift_percent = percent,
        None => {}
    }
    Ok(Some(guard))
}

pub(super) async fn open(
    options: &RedisOptions,
    waiters: WaiterCaps,
) -> Result<Arc<dyn Store>, OpenError> {
    let mut options = options.clone();
    options.waiters = waiters;
    if options.accept_loss {
        tracing::warn!(
            "ACCEPT_LOSS: Redis may evict or forget records, and what is forgotten is executed again"
        );
    }
    let store = RedisStore::open(options).await;
    let store = store.map_err(|error| OpenError(error.to_string()))?;
    if let Err(error) = store.ready().await {
        tracing::warn!(%error, "not ready yet");
    }
    Ok(Arc::new(store))
}
