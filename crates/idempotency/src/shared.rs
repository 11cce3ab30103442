//! What all clones of a guard share: the store, the running executions, the work in the background.

use crate::counters::Counters;
use crate::operations;
use crate::outbox::Outbox;
use crate::renewal::Renewals;
use crate::wakes::Wakes;
use idempotency_protocol::{Operation, MAX_OPERATIONS};
use idempotency_store::Store;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Executions at a time, unless told otherwise.
const MAX_EXECUTIONS: usize = 10_000;

pub(crate) struct Shared {
    pub store: Arc<dyn Store>,
    pub renewals: Renewals,
    pub counters: Counters,
    /// Who holds a key, or asks for one.
    pub executions: TaskTracker,
    /// Whatever goes on without a caller: handlers, settlements.
    pub tasks: TaskTracker,
    /// Handlers and settlements in the background end now, finished or not.
    pub cut: CancellationToken,
    pub outbox: Outbox,
    pub wakes: Wakes,
    closing: AtomicBool,
    running: AtomicUsize,
    max_running: AtomicUsize,
}

impl Shared {
    pub fn new(store: Arc<dyn Store>) -> Arc<Shared> {
        Arc::new(Shared {
            store,
            renewals: Renewals::default(),
            counters: Counters::default(),
            executions: TaskTracker::new(),
            tasks: TaskTracker::new(),
            cut: CancellationToken::new(),
            outbox: Outbox::default(),
            wakes: Wakes::default(),
            closing: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            max_running: AtomicUsize::new(MAX_EXECUTIONS),
        })
    }

    pub fn set_max_running(&self, most: usize) {
        self.max_running.store(most, Ordering::Relaxed);
    }

    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// A place among the running executions; `None` if there is none left.
    pub fn enter(self: &Arc<Shared>) -> Option<RunningPlace> {
        let most = self.max_running.load(Ordering::Relaxed);
        let one_more = |running: usize| (running < most).then(|| running + 1);
        self.running
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(RunningPlace(Arc::clone(self)))
    }

    /// No new executions; the running ones get `longest`, and what is left then ends unknown. Whether
    /// nothing was left.
    pub async fn drain(self: &Arc<Shared>, longest: Duration) -> bool {
        /// For what was told to end.
        const GRACE: Duration = Duration::from_secs(5);
        self.closing.store(true, Ordering::Relaxed);
        self.executions.close();
        self.tasks.close();
        let all = async {
            self.executions.wait().await;
            self.tasks.wait().await;
        };
        if within(longest, all).await {
            return true;
        }
        self.cut.cancel();
        // Some are in the hands of the program's own tasks, which nobody can end. One that does end later
        // is still recorded: an owner may complete what is unknown.
        let left = self.renewals.take_all();
        let abandon = |(key, owner)| operations::abandon(Arc::unwrap_or_clone(key), owner);
        let left: Vec<Operation> = left.into_iter().map(abandon).collect();
        let rest = async {
            for batch in left.chunks(MAX_OPERATIONS) {
                self.store.apply(batch.to_vec()).await;
            }
            self.tasks.wait().await;
        };
        within(GRACE, rest).await;
        false
    }
}

async fn within(longest: Duration, work: impl std::future::Future) -> bool {
    tokio::time::timeout(longest, work).await.is_ok()
}

/// A running execution, as long as it lives.
pub(crate) struct RunningPlace(Arc<Shared>);

impl Drop for RunningPlace {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}
