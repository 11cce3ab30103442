//! What all handlers share.

use crate::audit::Audit;
use crate::auth::{Authority, Caller, Denied, Role};
use crate::config::{Config, Limits};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::repeats::Repeats;
use crate::waits::{Caps, Waits};
use http::HeaderMap;
use idempotency_store::Store;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The state of one server.
pub(crate) struct App {
    pub store: Arc<dyn Store>,
    pub limits: Limits,
    pub metrics: Metrics,
    pub audit: Audit,
    /// What the store refused lately, for the log.
    pub faults: Repeats,
    pub waits: Arc<Waits>,
    /// Room for request bodies, in KiB.
    pub buffered: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    settling: Arc<Semaphore>,
    authority: RwLock<Authority>,
    /// Cancelled when the server begins to stop.
    pub stopping: CancellationToken,
    /// Calls whose client has left.
    pub background: TaskTracker,
}

impl App {
    pub(crate) fn new(
        config: &Config,
        store: Arc<dyn Store>,
        audit: Audit,
        stopping: CancellationToken,
    ) -> App {
        let limits = config.limits.clone();
        App {
            store,
            metrics: Metrics::new(),
            audit,
            faults: Repeats::default(),
            waits: Waits::new(Caps {
                process: limits.max_waiters,
                tenant: limits.max_waiters_per_tenant,
                key: limits.max_waiters_per_key,
            }),
            buffered: Arc::new(Semaphore::new(limits.max_buffered_bytes.div_ceil(1024))),
            calls: Arc::new(Semaphore::new(limits.max_concurrent_calls)),
            settling: Arc::new(Semaphore::new(limits.max_concurrent_calls.div_ceil(4))),
            authority: RwLock::new(Authority::new(
                config.tokens.clone(),
                config.insecure_no_auth,
            )),
            limits,
            stopping,
            background: TaskTracker::new(),
        }
    }

    /// Whether the caller has the role.
    pub(crate) fn check(
        &self,
        role: Role,
        headers: &HeaderMap,
        local: bool,
    ) -> Result<Caller, Denied> {
        self.authority
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .check(role, headers, local)
    }

    /// Replaces the tokens.
    pub(crate) fn set_authority(&self, authority: Authority) {
        *self
            .authority
            .write()
            .unwrap_or_else(PoisonError::into_inner) = authority;
    }

    /// A place for one call in the store. Calls that settle executions have a reserve of their
    /// own: a flood of acquires must not keep granted executions from being completed.
    pub(crate) fn call_permit(&self, settles: bool) -> Option<OwnedSemaphorePermit> {
        let permit = self.calls.clone().try_acquire_owned().ok();
        match permit {
            None if settles => self.settling.clone().try_acquire_owned().ok(),
            permit => permit,
        }
    }
}
