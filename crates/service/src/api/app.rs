//! What all handlers share.

use super::arrival::Arrival;
use super::door::{self, Foreign, Hosts};
use crate::audit::Audit;
use crate::auth::{
    Authority, Caller, Denied, Presented, Role, Session, Shown, Throttle, Tokens, Way,
};
use crate::budget::Budget;
use crate::census::Counted;
use crate::config::{Config, Limits};
use crate::encryption::KeyKeeper;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::rates::Rates;
use crate::telemetry::refusals::AuthFailure;
use crate::telemetry::repeats::Repeats;
use crate::telemetry::traces::Traces;
use crate::tls::{Roles, Tls};
use crate::ui;
use http::HeaderMap;
use idempotency_protocol::{OPERATIONS_PATH, WAIT_PATH};
use idempotency_store::Store;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The state of one server.
pub(crate) struct App {
    pub store: Arc<dyn Store>,
    pub limits: Limits,
    pub metrics: Metrics,
    pub audit: Audit,
    /// Traces, where they are on.
    pub traces: Option<Arc<Traces>>,
    keys: Option<Arc<KeyKeeper>>,
    /// The records by state, counted now and then.
    pub census: Counted,
    /// What the store refused lately, for the log.
    pub faults: Repeats,
    /// Who was refused lately, and why, for the log.
    pub refused: Repeats,
    /// Handshakes that failed lately, for the log.
    pub handshakes: Repeats,
    /// Certificates, where listeners speak TLS.
    pub tls: Option<Tls>,
    /// Where the records are, for the log: without a name, a password or settings.
    pub store_address: String,
    /// Room for requests and answers of callers that are known.
    pub budget: Arc<Budget>,
    /// What the operators' page is set to.
    pub ui: ui::Options,
    /// What happened of late, where there is such a page.
    pub rates: Rates,
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
            traces: None,
            audit,
            keys: config.keys.clone(),
            census: Counted::default(),
            faults: Repeats::default(),
            refused: Repeats::default(),
            handshakes: Repeats::default(),
            tls: config
                .tls
                .clone()
                .map(|(options, loaded)| Tls::new(options, loaded)),
            store_address: config.store.address(),
            budget: Budget::new(limits.max_buffered_bytes),
            ui: ui::Options {
                read_only: config.ui_read_only,
            },
            rates: Rates::default(),
            hosts: config.hosts.clone(),
            throttle: Throttle::new(),
            calls: Arc::new(Semaphore::new(limits.max_concurrent_calls)),
            settling: Arc::new(Semaphore::new(limits.max_concurrent_calls.div_ceil(4))),
            authority: RwLock::new(config.authority()),
            limits,
            stopping,
            background: TaskTracker::new(),
        }
    }

    /// What a connection and the headers of a request show of their sender.
    pub(crate) fn presented(&self, shown: &Shown, headers: &HeaderMap) -> Presented {
        self.authority().presented(shown, headers)
    }

    /// The keys of encryption at rest.
    pub(crate) fn keys(&self) -> Option<&KeyKeeper> {
        self.keys.as_deref()
    }

    /// Whether the records are encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.keys.is_some()
    }

    /// Whether the caller has the role.
    pub(crate) fn check(&self, role: Role, arrival: &Arrival) -> Result<Caller, Denied> {
        self.authority()
            .check(role, &arrival.presented, arrival.way)
    }

    /// Whether the sender is one of ours: it shows a valid token or certificate, or asks for what is
    /// open to everybody on its way.
    pub(crate) fn knows<B>(&self, request: &http::Request<B>, arrival: &Arrival) -> bool {
        let asks_as_gateway = || {
            [OPERATIONS_PATH, WAIT_PATH].contains(&request.uri().path())
                && self.check(Role::Gateway, arrival).is_ok()
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

    /// Begins a session of the operators' page: the value of its cookie.
    pub(crate) fn begin_session(&self, token: &str, now_ms: u64) -> Result<String, Denied> {
        self.authority().begin_session(token, now_ms)
    }

    /// The session of a cookie, if it is in force.
    pub(crate) fn session(&self, cookie: &str, now_ms: u64) -> Option<Session> {
        self.authority().session(cookie, now_ms)
    }

    /// A caller was refused: it is counted, logged and, after many, made to wait.
    pub(crate) async fn refuse(&self, arrival: &Arrival, route: &str, failure: AuthFailure) {
        self.metrics.refusals.auth_failed(failure);
        let verdict = self.throttle.failed(arrival.from, Instant::now());
        if let Some(not_logged) = verdict.log {
            let certificate = match &arrival.presented {
                Presented::Ended(name) | Presented::NoRole(name) => Some(&**name),
                _ => None,
            };
            tracing::warn!(
                from = %arrival.from,
                route,
                reason = failure.name(),
                certificate,
                not_logged,
                "authentication failed"
            );
        }
        if !verdict.delay.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(verdict.delay) => {}
                () = self.stopping.cancelled() => {}
            }
        }
    }

    fn authority(&self) -> RwLockReadGuard<'_, Authority> {
        self.authority
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn change_authority(&self, change: impl FnOnce(&mut Authority)) {
        let authority = self.authority.write();
        change(&mut authority.unwrap_or_else(PoisonError::into_inner));
    }

    /// Replaces the tokens.
    pub(crate) fn set_tokens(&self, tokens: Tokens) {
        self.change_authority(|authority| authority.set_tokens(tokens));
    }

    /// Replaces what certificates may do; what is connected already is concerned as well.
    pub(crate) fn set_roles(&self, roles: Option<Roles>) {
        self.change_authority(|authority| authority.set_roles(roles));
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
