//! The PostgreSQL store.

use super::{BadSetting, Kind, OpenError, Setting, StoreChoice, Written};
use crate::config::{Limits, Settings};
use idempotency_store::{Postgres, PostgresOptions, Store};
use std::sync::Arc;

pub(super) const KIND: Kind = Kind {
    name: "postgres",
    is: |scheme| matches!(scheme, "postgres" | "postgresql"),
    settings: &[Setting::MaxBytes],
    nothing_to: |_| "PostgreSQL, which has settings of its own",
    choose,
};

fn choose(written: &Written<'_>, settings: &Settings) -> Result<StoreChoice, BadSetting> {
    let options = PostgresOptions::from_url(written.whole);
    let mut options = options.map_err(|message| ("store".to_owned(), message))?;
    options.max_bytes = settings.store_max_bytes.map(|size| size.0);
    Ok(StoreChoice::Postgres(Box::new(options)))
}

pub(super) async fn open(
    options: &PostgresOptions,
    limits: &Limits,
) -> Result<Arc<dyn Store>, OpenError> {
    let mut options = options.clone();
    options.waiters = limits.waiters;
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
