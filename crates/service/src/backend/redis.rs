//! The Redis store.

use super::OpenError;
use crate::config::Settings;
use idempotency_store::{RedisOptions, RedisStore, Store, WaiterCaps};
use std::sync::Arc;

/// Reads the choice; the error names the setting.
pub(super) fn choose(url: &str, settings: &Settings) -> Result<RedisOptions, (String, String)> {
    super::only_embedded(settings, "Redis")?;
    if settings.store_max_bytes.is_some() {
        let message = "means nothing to Redis, which has `maxmemory`";
        return Err(("store_max_bytes".into(), message.into()));
    }
    RedisOptions::parse(url).map_err(|message| ("store".into(), message))
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
