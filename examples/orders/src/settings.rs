//! Where the database and the broker are, and the database's tables.

use crate::BoxError;
use deadpool_postgres::{Manager, Pool};
use idempotency::store::{Postgres, PostgresOptions};
use idempotency::Guard;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::NoTls;

/// From the environment.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `DATABASE_URL`.
    pub database: String,
    /// `KAFKA_BROKERS`.
    pub brokers: String,
    /// `LISTEN`: where the service listens.
    pub listen: String,
}

impl Settings {
    /// Reads them, and starts the log.
    ///
    /// # Errors
    ///
    /// If one is missing.
    pub fn from_env() -> Result<Settings, BoxError> {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .with_env_filter(tracing_subscriber::EnvFilter::new("info"))
            .init();
        let get = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
        Ok(Settings {
            database: get("DATABASE_URL")?,
            brokers: get("KAFKA_BROKERS")?,
            listen: std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".to_owned()),
        })
    }
}

/// Connections for the application, and a guard whose records are in the same database: that is what lets an effect and
/// its record be one commit.
///
/// # Errors
///
/// If the database cannot be reached.
pub async fn database(url: &str) -> Result<(Pool, Guard), BoxError> {
    let options = PostgresOptions::from_url(url)?;
    Postgres::migrate(&options).await?;
    let store = Postgres::open(options).await?;
    let guard = Guard::new(Arc::new(store))
        // How long the key of a process that died is held.
        .lease(Duration::from_secs(2))
        // How long a retry gets the first answer.
        .ttl(Duration::from_secs(24 * 3600));

    let pool = Pool::builder(Manager::new(url.parse()?, NoTls))
        .max_size(8)
        .build()?;
    let client = pool.get().await?;
    // The service and the consumer may start at the same time.
    client.batch_execute("SELECT pg_advisory_lock(7)").await?;
    client.batch_execute(include_str!("../schema.sql")).await?;
    client.batch_execute("SELECT pg_advisory_unlock(7)").await?;
    drop(client);
    Ok((pool, guard))
}
