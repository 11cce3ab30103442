//! The Redis store.

use super::{BadSetting, Kind, OpenError, Setting, StoreChoice, Written};
use crate::config::{Limits, Settings};
use idempotency_store::{RedisOptions, RedisStore, RedlockOptions, Store};
use std::sync::Arc;

pub(super) const KIND: Kind = Kind {
    name: "redis:// with its variants",
    is: |scheme| scheme.starts_with("redis"),
    settings: &[
        Setting::RedlockNodes,
        Setting::RedlockTimeout,
        Setting::RedlockDriftPercent,
    ],
    nothing_to: |setting| match setting {
        Setting::MaxBytes => "Redis, which has `maxmemory`",
        _ => "Redis, which has settings of its own",
    },
    choose,
};

fn choose(written: &Written<'_>, settings: &Settings) -> Result<StoreChoice, BadSetting> {
    let options = RedisOptions::parse(written.whole);
    let mut options = options.map_err(|message| ("store".to_owned(), message))?;
    options.guard = guard(settings, &options)?;
    Ok(StoreChoice::Redis(Box::new(options)))
}

fn guard(settings: &Settings, main: &RedisOptions) -> Result<Option<RedlockOptions>, BadSetting> {
    if settings.redlock_nodes.is_empty() {
        for setting in [Setting::RedlockTimeout, Setting::RedlockDriftPercent] {
            if setting.is_given(settings) {
                let message = "means nothing without redlock_nodes";
                return Err((setting.field().into(), message.into()));
            }
        }
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
    limits: &Limits,
) -> Result<Arc<dyn Store>, OpenError> {
    let mut options = options.clone();
    options.waiters = limits.waiters;
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
