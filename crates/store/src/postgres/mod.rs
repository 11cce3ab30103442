//! Records in a PostgreSQL database, which any number of processes share.
//!
//! The database keeps the rows and the time; the [state machine](crate::machine) decides. No
//! transaction is ever open between two messages of ours: a change is written where the version is
//! still the one that the decision was made on, so that a process which stands still, or whose
//! connection hangs, holds no lock. See `docs/adr/0006-postgres-statements.md`; for transactions of
//! applications on the same tables [`crate::transaction`] and `docs/adr/0012-open-transactions.md`.

mod apply;
mod connect;
mod error;
mod groups;
mod hosts;
mod lanes;
mod listen;
mod locked;
mod migrate;
mod options;
mod passfile;
mod past;
mod pool;
mod quota;
mod read_back;
mod records;
mod row;
mod search;
mod step;
mod sweep;
mod tls;
mod usage;
mod write;

use crate::transaction::{ids, Primary, ReadBack, Transactions};
pub use crate::transaction::{Parameter, Statement, Statements};
pub use options::PostgresOptions;
pub use step::{COMPLETE as COMPLETE_STATEMENT, GRANT as GRANT_STATEMENT};

use crate::machine::{Event, Room};
use crate::quota::Quotas;
use crate::record::Slot;
use crate::replay;
use crate::search::{Found, Search};
use crate::store::{
    ListFilter, Page, RecordView, Resolve, Resolved, Store, StoreError, Swept, Usage,
};
use crate::waiters::{WaitCounts, Waiters};
use apply::Retry;
use async_trait::async_trait;
use connect::PostgresConnector;
use error::PostgresFailure;
use idempotency_protocol::{Answer, Fault, LookupKey, Operation, Outcome, Owner, Wait};
use lanes::Lanes;
use listen::Abort;
use pool::Pool;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{RwLock, RwLockReadGuard, Semaphore};

/// The PostgreSQL store. See the [module](self).
pub struct Postgres {
    inner: Arc<PostgresShared>,
    statements: Statements,
    /// The listener, and the safety poll of waiters.
    tasks: Mutex<Vec<Abort>>,
}

struct PostgresShared {
    pool: Pool,
    waiters: Arc<Waiters>,
    retry_budget: Duration,
    lock_timeout: Duration,
    max_bytes: Option<u64>,
    above_high_water: AtomicBool,
    quotas: std::sync::RwLock<Quotas>,
    lanes: Lanes,
    /// For acquires of transactions.
    transactions: Lanes,
    /// Waiters look in turns, so that they never take all connections.
    looks: Semaphore,
    /// False once the store is closed; operations hold it while they run.
    open: RwLock<bool>,
}

/// What a migration did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Number of the newest script of the schema before; 0 if there was no schema.
    pub from: i32,
    /// Number of the newest script of the schema now.
    pub to: i32,
}

impl Postgres {
    /// Connects, and checks server and schema.
    ///
    /// # Errors
    ///
    /// [`StoreError::Permanent`] if the server refuses, is too old, or its schema is missing, older than
    /// this program needs, or too new for it; [`StoreError::Transient`] if it cannot be reached.
    pub async fn open(options: PostgresOptions) -> Result<Postgres, StoreError> {
        let tls = options.tls.connector().map_err(StoreError::Permanent)?;
        let connector = Arc::new(PostgresConnector::new(&options, tls));
        let pool = Pool::new(&options, Arc::clone(&connector)).map_err(|t| t.error)?;
        let connection = pool.get().await.map_err(|t| t.error)?;
        let schema = migrate::check(&connection).await.map_err(|t| t.error)?;
        drop(connection);
        let inner = Arc::new(PostgresShared {
            pool,
            waiters: Waiters::new(options.waiters),
            retry_budget: options.retry_budget,
            lock_timeout: options.lock_timeout,
            max_bytes: options.max_bytes,
            above_high_water: AtomicBool::new(false),
            quotas: std::sync::RwLock::default(),
            lanes: Lanes::new(options.lanes),
            transactions: Lanes::new(lanes::TRANSACTIONS.min(options.lanes)),
            looks: Semaphore::new((options.pool_size / 4).max(1)),
            open: RwLock::new(true),
        });
        inner.measure().await.map_err(|t| t.error)?;
        let poll = tokio::spawn(poll(Arc::clone(&inner), options.poll_interval));
        let waiters = Arc::clone(&inner.waiters);
        let listener = tokio::spawn(listen::run(connector, options.poll_interval, waiters));
        Ok(Postgres {
            inner,
            statements: Statements::with_functions(&schema),
            tasks: Mutex::new(vec![Abort(poll), Abort(listener)]),
        })
    }

    /// Brings the database's schema to the version that this program works with. Does nothing if
    /// it is there already; several processes may call it at the same time.
    ///
    /// # Errors
    ///
    /// As [`Postgres::open`]; also if the schema is newer than this program, or if the user may
    /// not create tables.
    pub async fn migrate(options: &PostgresOptions) -> Result<Migrated, StoreError> {
        let tls = options.tls.connector().map_err(StoreError::Permanent)?;
        let one = PostgresOptions {
            pool_size: 1,
            ..options.clone()
        };
        let connector = Arc::new(PostgresConnector::new(&one, tls));
        let pool = Pool::new(&one, connector).map_err(|t| t.error)?;
        let (from, to) = migrate::migrate(&pool).await.map_err(|t| t.error)?;
        Ok(Migrated { from, to })
    }

    /// What applications run in transactions of their own on this database.
    pub fn statements(&self) -> &Statements {
        &self.statements
    }

    /// Number of waits now.
    pub fn waiting(&self) -> usize {
        self.inner.waiters.counts().now
    }
}

/// The safety net under the notifications, and the gauge of the high-water mark.
async fn poll(inner: Arc<PostgresShared>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        inner.waiters.wake_all();
        if inner.max_bytes.is_some() {
            // Without an answer, the last one stands.
            let _ = inner.measure().await;
        }
    }
}

impl PostgresShared {
    /// Holds off [`Store::close`] while an operation runs.
    async fn enter(&self) -> Result<RwLockReadGuard<'_, bool>, StoreError> {
        let open = self.open.read().await;
        if *open {
            Ok(open)
        } else {
            Err(StoreError::Transient("store is closed".into()))
        }
    }

    fn room(&self) -> Room {
        if self.above_high_water.load(Ordering::Relaxed) {
            Room::NoGrants
        } else {
            Room::Plenty
        }
    }
}

/// Tries until it works, as long as trying again makes sense. A macro, since a closure that
/// borrows and returns a `Send` future cannot be written down.
macro_rules! retrying {
    ($inner:expr, $work:expr) => {{
        let mut retry = Retry::within($inner.retry_budget);
        loop {
            match $work.await {
                Err(trouble) if retry.again(&trouble).await => {}
                result => break result.map_err(|trouble: PostgresFailure| trouble.error),
            }
        }
    }};
}

#[async_trait]
impl Store for Postgres {
    async fn apply(&self, operations: Vec<Operation>) -> Vec<Answer> {
        let events = operations.into_iter().map(Event::prepare).collect();
        self.apply_events(events).await
    }

    async fn apply_events(&self, events: Vec<(LookupKey, Event)>) -> Vec<Answer> {
        match self.inner.enter().await {
            Ok(_open) => lanes::travel(&self.inner, events).await,
            Err(error) => vec![Answer::Fault(Fault::from(error)); events.len()],
        }
    }

    async fn wait(&self, wait: Wait) -> Answer {
        self.inner.wait(wait).await
    }

    fn waits(&self) -> WaitCounts {
        self.inner.waiters.counts()
    }

    async fn inspect(&self, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
        let _open = self.inner.enter().await?;
        retrying!(self.inner, self.inner.inspect(key))
    }

    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError> {
        let _open = self.inner.enter().await?;
        retrying!(self.inner, self.inner.list(&filter))
    }

    async fn search(&self, search: Search) -> Result<Found, StoreError> {
        if let Some(found) = crate::search::exactly(self, &search).await? {
            return Ok(found);
        }
        let _open = self.inner.enter().await?;
        retrying!(self.inner, self.inner.search(&search))
    }

    async fn stored(&self, key: &LookupKey) -> Result<Option<Outcome>, StoreError> {
        let _open = self.inner.enter().await?;
        let stored = retrying!(self.inner, self.inner.stored(key))?;
        stored.map(replay::outcome).transpose()
    }

    async fn export(&self, key: &LookupKey) -> Result<Option<Slot>, StoreError> {
        let _open = self.inner.enter().await?;
        retrying!(self.inner, self.inner.export(key))
    }

    async fn replace(
        &self,
        key: &LookupKey,
        replaces: u64,
        slot: Option<Slot>,
    ) -> Result<bool, StoreError> {
        let _open = self.inner.enter().await?;
        retrying!(self.inner, self.inner.replace(key, replaces, slot.as_ref()))
    }

    async fn resolve(&self, resolve: Resolve) -> Result<Resolved, StoreError> {
        let _open = self.inner.enter().await?;
        retrying!(self.inner, self.inner.resolve(&resolve))
    }

    async fn sweep(&self, limit: usize) -> Result<Swept, StoreError> {
        let _open = self.inner.enter().await?;
        retrying!(self.inner, async {
            let connection = self.inner.pool.get().await?;
            let counted = self.inner.quotas().any();
            let swept = sweep::sweep(&connection, limit, counted).await?;
            quota::carry(&connection).await?;
            if counted && swept.expired > 0 {
                quota::forget(&connection).await?;
            }
            Ok(swept)
        })
    }

    /// Counting begins in one transaction with a look at every record, once for all processes; it
    /// goes on until somebody ends it (`docs/operations.md`).
    async fn set_quotas(&self, quotas: Quotas) -> Result<(), StoreError> {
        let _open = self.inner.enter().await?;
        if quotas.any() {
            retrying!(self.inner, quota::count(&self.inner.pool))?;
        }
        self.inner.set_quotas(quotas);
        Ok(())
    }

    async fn ready(&self) -> Result<Usage, StoreError> {
        let _open = self.inner.enter().await?;
        self.inner.measure().await.map_err(|trouble| trouble.error)
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        Some(self)
    }

    async fn close(&self) {
        self.inner.waiters.close();
        // Calls that have begun finish first.
        *self.inner.open.write().await = false;
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.inner.pool.close();
    }
}

#[async_trait]
impl Transactions for Postgres {
    fn statements(&self) -> &Statements {
        &self.statements
    }

    fn primary(&self) -> Primary {
        self.inner.pool.primary()
    }

    async fn read_back(
        &self,
        key: &LookupKey,
        owner: Owner,
        fence: u64,
        begun_on: Primary,
    ) -> Result<ReadBack, StoreError> {
        let _open = self.inner.enter().await?;
        retrying!(
            self.inner,
            self.inner.read_back(key, owner, fence, begun_on)
        )
    }

    async fn wake(&self, keys: &[LookupKey]) {
        if let Ok(_open) = self.inner.enter().await {
            // Who is not woken looks again.
            let _ = self.inner.wake(keys).await;
        }
    }
}
