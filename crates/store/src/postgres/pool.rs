//! Connections: how many, how they are set up, and when one is thrown away.

use super::error::{Kind, Trouble};
use super::options::PostgresOptions;
use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, PoolConfig, RecyclingMethod, Runtime, Timeouts,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::Row;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Parameters of a statement.
pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The connections of this process, but for the one that listens.
pub(super) struct Pool {
    inner: deadpool_postgres::Pool,
    statement_timeout: Duration,
}

impl Pool {
    pub fn new(options: &PostgresOptions, tls: MakeRustlsConnect) -> Result<Pool, Trouble> {
        let manager_config = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_config(options.config.clone(), tls, manager_config);
        let connect = options.config.get_connect_timeout();
        let config = PoolConfig {
            timeouts: Timeouts {
                wait: Some(options.checkout_timeout),
                create: Some(connect.copied().unwrap_or(Duration::from_secs(5))),
                recycle: None,
            },
            ..PoolConfig::new(options.pool_size)
        };
        let set_up = set_up(options);
        let hook = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
            let set_up = set_up.clone();
            Box::pin(async move {
                let done = client.batch_execute(&set_up).await;
                done.map_err(HookError::Backend)
            })
        });
        let inner = deadpool_postgres::Pool::builder(manager)
            .config(config)
            .runtime(Runtime::Tokio1)
            .post_create(hook)
            .build()
            .map_err(|e| Trouble::permanent(e.to_string()))?;
        Ok(Pool {
            inner,
            statement_timeout: options.statement_timeout,
        })
    }

    pub async fn get(&self) -> Result<Connection, Trouble> {
        Ok(Connection {
            object: Some(self.inner.get().await?),
            spoiled: AtomicBool::new(false),
            // The server gives up first, unless it is not there any more.
            timeout: self.statement_timeout + Duration::from_secs(1),
        })
    }

    pub fn close(&self) {
        self.inner.close();
    }
}

/// What every session starts with.
fn set_up(options: &PostgresOptions) -> String {
    let statement = options.statement_timeout.as_millis();
    let lock = options.lock_timeout.as_millis();
    // Every statement finds its rows by key or by the index of what is due. The planner must not
    // think otherwise while the table is small: it keeps its plan while the table grows.
    format!(
        "SET statement_timeout = {statement};
         SET lock_timeout = {lock};
         SET idle_in_transaction_session_timeout = {statement};
         SET default_transaction_isolation = 'read committed';
         SET plan_cache_mode = force_generic_plan;
         SET enable_seqscan = off;
         SET enable_bitmapscan = off;
         SET enable_hashjoin = off;
         SET enable_mergejoin = off;
         SET jit = off"
    )
}

/// A connection on loan.
pub(super) struct Connection {
    object: Option<Object>,
    spoiled: AtomicBool,
    timeout: Duration,
}

impl Connection {
    /// Runs one statement, a transaction of its own.
    pub async fn query(
        &self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Trouble> {
        let Some(client) = self.object.as_ref() else {
            return Err(Trouble::transient("PostgreSQL: no connection"));
        };
        let work = async {
            let prepared = client.prepare_cached(statement).await?;
            client.query(&prepared, parameters).await
        };
        let result = match timeout(self.timeout, work).await {
            Ok(result) => result.map_err(Trouble::from),
            Err(_) => {
                self.spoiled.store(true, Ordering::Relaxed);
                Err(Trouble::too_slow("PostgreSQL: no answer in time"))
            }
        };
        if let Err(Trouble {
            kind: Kind::Retry, ..
        }) = &result
        {
            self.spoiled.store(true, Ordering::Relaxed);
        }
        result
    }

    /// The driver's client, for transactions.
    pub fn client(&mut self) -> Result<&mut deadpool_postgres::ClientWrapper, Trouble> {
        match self.object.as_mut() {
            Some(object) => Ok(&mut *object),
            None => Err(Trouble::transient("PostgreSQL: no connection")),
        }
    }
}

impl Drop for Connection {
    /// A connection that does not answer, or whose server said goodbye, is not used again.
    fn drop(&mut self) {
        if self.spoiled.load(Ordering::Relaxed) {
            if let Some(object) = self.object.take() {
                drop(Object::take(object));
            }
        }
    }
}
