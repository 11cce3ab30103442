//! What all handlers share.

use super::arrival::Arrival;
use super::door::{self, Foreign, Hosts};
use crate::audit::Audit;
use crate::auth::{Authority, Caller, Denied, Presented, Role, Throttle, Way};
use crate::budget::Budget;
use crate::config::{Config, Limits};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::repeats::Repeats;
use http::HeaderMap;
use idempotency_protocol::{OPERATIONS_PATH, WAIT_PATH};
use idempotency_store::Store;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
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
    /// Room for requests and answers of callers that are known.
    pub budget: Arc<Budget>,
    /// By which names callers that are not known may call us.
    pub hosts: Hosts,
    /// Failed authentications of late.
    pub throttle: Throttle,
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
            budget: Budget::new(limits.max_buffered_bytes),
            hosts: config.hosts.clone(),
            throttle: Throttle::new(),
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

    /// What the headers show of their sender.
    pub(crate) fn presented(&self, headers: &HeaderMap) -> Presented {
        self.authority().presented(headers)
    }

    /// Whether the caller has the role.
    pub(crate) fn check(&self, role: Role, arrival: &Arrival) -> Result<Caller, Denied> {
        self.authority()
            .check(role, &arrival.presented, arrival.way)
    }

    /// Whether the sender is one of ours: it shows a valid token, or asks for what is open to
    /// everybody on its way.
    pub(crate) fn knows<B>(&self, request: &http::Request<B>, arrival: &Arrival) -> bool {
        let asks_as_gateway = || {
            [OPERATIONS_PATH, WAIT_PATH].contains(&request.uri().path())
                && self.authority().is_open(Role::Gateway, arrival.way)
                && self.expects(request, arrival).is_ok()
        };
        arrival.presented.is_valid() || asks_as_gateway()
    }

    /// Whether a request without a valid token may be looked at.
    pub(crate) fn expects<B>(
        &self,
        request: &http::Request<B>,
        arrival: &Arrival,
    ) -> Result<(), Foreign> {
        let over_tcp = arrival.way != Way::Unix;
        door::check(&self.hosts, request.uri(), request.headers(), over_tcp)
    }

    fn authority(&self) -> RwLockReadGuard<'_, Authority> {
        self.authority
            .read()
            .unwrap_or_else(PoisonError::into_inner)
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
