//! Connections: how many, and when one is thrown away.

use super::connect::{PostgresConnector, Session};
use super::error::{PostgresFailure, RetryAdvice};
use super::options::PostgresOptions;
use crate::transaction::Primary;
use deadpool::managed::{self, Metrics, PoolConfig, RecycleError, RecycleResult, Timeouts};
use deadpool::Runtime;
use deadpool_postgres::ClientWrapper;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::Row;

/// Parameters of a statement.
pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The connections of this process, but for the one that listens.
pub(super) struct Pool {
    inner: managed::Pool<Sessions>,
    statement_timeout: Duration,
}

/// Makes sessions, and says which may be used again.
pub(super) struct Sessions(Arc<PostgresConnector>);

impl managed::Manager for Sessions {
    type Type = Session;
    type Error = PostgresFailure;

    async fn create(&self) -> Result<Session, PostgresFailure> {
        self.0.connect(None).await
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<PostgresFailure> {
        if self.0.is_over(session) {
            return Err(RecycleError::message("closed, or of an old primary"));
        }
        Ok(())
    }
}

impl Pool {
    pub fn new(
        options: &PostgresOptions,
        connector: Arc<PostgresConnector>,
    ) -> Result<Pool, PostgresFailure> {
        let config = PoolConfig {
            timeouts: Timeouts {
                wait: Some(options.checkout_timeout),
                // Each host has a time of its own.
                create: None,
                recycle: None,
            },
            ..PoolConfig::new(options.pool_size)
        };
        let inner = managed::Pool::builder(Sessions(connector))
            .config(config)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|e| PostgresFailure::permanent(e.to_string()))?;
        Ok(Pool {
            inner,
            statement_timeout: options.statement_timeout,
        })
    }

    pub async fn get(&self) -> Result<PooledConnection, PostgresFailure> {
        Ok(PooledConnection {
            object: Some(self.inner.get().await?),
            pool: self.inner.clone(),
            spoiled: AtomicBool::new(false),
            // The server gives up first, unless it is not there any more.
            timeout: self.statement_timeout + Duration::from_secs(1),
        })
    }

    /// The newest primary that any connection has seen.
    pub fn primary(&self) -> Primary {
        self.inner.manager().0.primary()
    }

    pub fn close(&self) {
        self.inner.close();
    }
}

/// A connection on loan.
pub(super) struct PooledConnection {
    object: Option<managed::Object<Sessions>>,
    pool: managed::Pool<Sessions>,
    spoiled: AtomicBool,
    timeout: Duration,
}

impl PooledConnection {
    /// Runs one statement, a transaction of its own.
    pub async fn query(
        &self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, PostgresFailure> {
        let Some(session) = self.object.as_ref() else {
            return Err(PostgresFailure::transient("PostgreSQL: no connection"));
        };
        let client = &session.client;
        let begun = Instant::now();
        let work = async {
            let prepared = client.prepare_cached(statement).await?;
            client.query(&prepared, parameters).await
        };
        let result = match timeout(self.timeout, work).await {
            Ok(result) => result.map_err(PostgresFailure::from),
            Err(_) => {
                self.spoiled.store(true, Ordering::Relaxed);
                // The server stands still. Nobody else needs to find that out, one by one.
                self.pool.retain(|_, metrics| metrics.created > begun);
                Err(PostgresFailure::too_slow("PostgreSQL: no answer in time"))
            }
        };
        if let Err(PostgresFailure {
            kind: RetryAdvice::Retry,
            ..
        }) = &result
        {
            self.spoiled.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Prepares statements, so that those that are begun together are carried out in the order in which they are
    /// begun: one that must be prepared first would come after one that need not.
    pub async fn prepare(&self, statements: &[&str]) -> Result<(), PostgresFailure> {
        let Some(session) = self.object.as_ref() else {
            return Err(PostgresFailure::transient("PostgreSQL: no connection"));
        };
        for statement in statements {
            let prepared = timeout(self.timeout, session.client.prepare_cached(statement)).await;
            if !matches!(prepared, Ok(Ok(_))) {
                self.spoiled.store(true, Ordering::Relaxed);
            }
            prepared.map_err(|_| PostgresFailure::too_slow("PostgreSQL: no answer in time"))??;
        }
        Ok(())
    }

    /// The server that this connection goes to.
    pub fn primary(&self) -> Primary {
        let session = self.object.as_ref();
        session.map_or(Primary::UNKNOWN, |session| session.primary())
    }

    /// The driver's client, for transactions.
    pub fn client(&mut self) -> Result<&mut ClientWrapper, PostgresFailure> {
        match self.object.as_mut() {
            Some(object) => Ok(&mut object.client),
            None => Err(PostgresFailure::transient("PostgreSQL: no connection")),
        }
    }
}

impl Drop for PooledConnection {
    /// A connection that does not answer, or whose server said goodbye, is not used again.
    fn drop(&mut self) {
        if self.spoiled.load(Ordering::Relaxed) {
            if let Some(object) = self.object.take() {
                drop(managed::Object::take(object));
            }
        }
    }
}
