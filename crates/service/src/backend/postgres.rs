//! The PostgreSQL store.

use super::OpenError;
use crate::config::Settings;
use idempotency_store::{Postgres, PostgresOptions, Store, WaiterCaps};
use std::sync::Arc;

/// Reads the choice; the error names the setting.
pub(super) fn choose(url: &str, settings: &Settings) -> Result<PostgresOptions, (String, String)> {
    super::only_embedded(settings, "PostgreSQL")?;
    let mut options = PostgresOptions::from_url(url).map_err(|e| ("store".to_owned(), e))?;
    options.max_bytes = settings.store_max_bytes.map(|size| size.0);
    Ok(options)
}

pub(super) async fn open(
    options: &PostgresOptions,
    waiters: WaiterCaps,
) -> Result<Arc<dyn Store>, OpenError> {
    let mut options = options.clone();
    options.waiters = waiters;
    match Postgres::open(options).await {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(OpenError(error.to_string())),
    }
}

/// Says what it did.
pub(super) async fn migrate(options: &PostgresOptions) -> Result<String, OpenError> {
    match Postgres::migrate(options).await {
        Ok(done) if done.from == done.to => Ok(format!("the schema has version {}", done.to)),
        Ok(done) => Ok(format!(
            "the schema went from version {} to {}",
            done.from, done.to
        )),
        Err(error) => Err(OpenError(error.to_string())),
    }
}
