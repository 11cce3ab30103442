//! Opens the listeners, serves, and stops in order.

mod accept;
mod bind;
mod connection;
mod delivery;
mod handshake;
mod io;
mod ready;
mod strangers;
mod watch;

use crate::api::{App, Dispatch};
use crate::audit::Audit;
use crate::auth::{Role, Way};
use crate::backend::OpenError;
use crate::config::{Config, Listen};
use crate::telemetry::rates;
use crate::telemetry::traces::Traces;
use crate::tls::ClientAuth;
use crate::{census, sweeper, tls};
use accept::Acceptor;
use bind::Listener;
use idempotency_store::{Store, StoreError};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The encryption keys cannot be read.
    #[error("the encryption keys cannot be used: {0}")]
    Keys(String),
    /// The store cannot go on, and only another start can help it. Told in the log already.
    #[error("the store cannot go on: {0}")]
    Broken(StoreError),
    /// Traces cannot be exported.
    #[error("otlp_endpoint: {0}")]
    Traces(String),
    /// The audit log or the ready file cannot be written.
    #[error("{what} cannot be written: {source}")]
    File {
        /// Which one.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// A server whose listeners are open.
pub struct Server {
    config: Config,
    app: Arc<App>,
    listeners: Vec<Listener>,
    pages: Vec<Listener>,
}

/// Opens the store that the configuration names, serves until `shutdown` is ready, and stops
/// gracefully.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    let store = config.open_store().await?;
    Server::bind(config, store).await?.run(shutdown).await
}

impl Server {
    /// Opens the listeners in front of a store. Nothing is accepted before [`Server::run`].
    pub async fn bind(config: Config, store: Arc<dyn Store>) -> Result<Server, ServerError> {
        let audit =
            Audit::open(config.audit_log.as_deref()).map_err(|source| ServerError::File {
                what: "the audit log",
                source,
            })?;
        let listeners = open(&config.listen, config.socket_mode).await?;
        let pages = open(&config.ui_listen, config.socket_mode).await?;
        let mut app = App::new(&config, store, audit, CancellationToken::new());
        if let Some(target) = &config.traces {
            let traces = Traces::start(target, &app.metrics.register());
            app.traces = Some(Arc::new(traces.map_err(ServerError::Traces)?));
        }
        let app = Arc::new(app);
        Ok(Server {
            config,
            app,
            listeners,
            pages,
        })
    }

    /// Where the operators' page is served.
    pub fn ui_addresses(&self) -> Vec<Listen> {
        self.pages.iter().map(|l| l.address().clone()).collect()
    }

    /// Where the server listens, with the ports that it really has.
    pub fn addresses(&self) -> Vec<Listen> {
        self.listeners.iter().map(|l| l.address().clone()).collect()
    }

    /// Replaces the tokens of a running server; see [`Reloader::reload`].
    pub fn reloader(&self) -> Reloader {
        Reloader {
            app: self.app.clone(),
            config: self.config.clone(),
        }
    }

    /// Serves until `shutdown` is ready, then stops: no new connections, waiters told, calls in
    /// flight finished, the store closed; within the configured time. A store that cannot go on ends
    /// it as well, with an error and without delay.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServerError> {
        let (addresses, pages_at) = (self.addresses(), self.ui_addresses());
        let Server {
            config,
            app,
            listeners,
            pages,
        } = self;
        warn_about_open_roles(&config, &addresses);
        let connections = TaskTracker::new();
        let dispatch = Dispatch::new(app.clone());
        let cut = CancellationToken::new();
        let listening = TaskTracker::new();
        if !pages.is_empty() {
            app.background.spawn(look_at_rates(app.clone()));
        }
        let listeners = listeners.into_iter().map(|listener| (listener, false));
        let pages = pages.into_iter().map(|listener| (listener, true));
        for (listener, page) in listeners.chain(pages) {
            let (app, dispatch) = (app.clone(), dispatch.clone());
            let acceptor = Acceptor::new(app, dispatch, connections.clone(), cut.clone());
            listening.spawn(acceptor.accept(listener, page));
        }
        drop(dispatch);
        let sweeping = tokio::spawn(sweeper::run(
            app.clone(),
            config.sweep_interval,
            config.sweep_batch,
        ));
        if app.tls.is_some() {
            app.background.spawn(tls::watch(app.clone()));
        }
        if let Some(keys) = config.keys.clone() {
            app.background.spawn(keys.run(app.stopping.clone()));
        }
        if let Some(interval) = config.census_interval {
            app.background.spawn(census::run(app.clone(), interval));
        }
        for address in &addresses {
            let tls = app.tls.is_some() && matches!(address, Listen::Tcp(_));
            tracing::info!(%address, tls, "listening");
        }
        if app
            .tls
            .as_ref()
            .is_some_and(|tls| tls.current().has_ended())
        {
            tracing::error!(
                "the certificate of tls_cert has expired: no client that looks will connect"
            );
        }
        for address in &pages_at {
            tracing::info!(%address, "the operators' page is at /ui/");
            if address.way() == Way::Network && app.tls.is_none() {
                tracing::warn!(
                    %address,
                    "the operators' page can be reached from other machines: let it be through a proxy with TLS alone"
                );
            }
        }
        if let Some(path) = &config.ready_file {
            if let Err(source) = ready::write(path, &addresses, &pages_at) {
                app.stopping.cancel();
                app.store.close().await;
                return Err(ServerError::File {
                    what: "the ready file",
                    source,
                });
            }
        }

        let broken = tokio::select! {
            () = shutdown => None,
            error = app.store.broken() => Some(error),
        };
        let patience = match &broken {
            None => config.shutdown_timeout,
            Some(error) => {
                tracing::error!(%error, "the store cannot go on; ending, so that a new start can");
                config.shutdown_timeout.min(BROKEN_TIMEOUT)
            }
        };
        tracing::info!("stopping");
        // Tells acceptors, connections, waiters and the sweeper.
        app.stopping.cancel();
        let tracker = [&listening, &connections, &app.background];
        let drained = tokio::time::timeout(patience, drain(tracker, sweeping)).await;
        if drained.is_err() {
            let open = connections.len();
            tracing::warn!(
                open,
                "not everything ended in time; closing the store anyway"
            );
            cut.cancel();
        }
        let closed = tokio::time::timeout(CLOSE_TIMEOUT, app.store.close()).await;
        if closed.is_err() {
            tracing::error!("the store did not close in time");
        }
        if let Some(traces) = &app.traces {
            traces.close().await;
        }
        if let Some(path) = &config.ready_file {
            ready::remove(path);
        }
        tracing::info!("stopped");
        broken.map_or(Ok(()), |error| Err(ServerError::Broken(error)))
    }
}

async fn open(addresses: &[Listen], socket_mode: u32) -> Result<Vec<Listener>, ServerError> {
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        let listener = bind::open(address, socket_mode).await;
        listeners.push(listener.map_err(|source| ServerError::Listen {
            address: address.to_string(),
            source,
        })?);
    }
    Ok(listeners)
}

/// Looks at the counters for the operators' page, until the server stops.
async fn look_at_rates(app: Arc<App>) {
    let mut steps = tokio::time::interval(rates::STEP);
    loop {
        tokio::select! {
            () = app.stopping.cancelled() => return,
            _ = steps.tick() => app.rates.look(Instant::now(), app.metrics.totals()),
        }
    }
}

/// What is in flight is answered by a broken store at once.
const BROKEN_TIMEOUT: Duration = Duration::from_secs(2);

/// A store that cannot make its last writes durable in this time will not.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

async fn drain(trackers: [&TaskTracker; 3], sweeping: tokio::task::JoinHandle<()>) {
    // In this order: acceptors spawn connections, connections leave background work.
    for tracker in trackers {
        tracker.close();
        tracker.wait().await;
    }
    let _ = sweeping.await;
}

/// Reads the files of tokens and certificates again, and has the encryption keys read again.
pub struct Reloader {
    app: Arc<App>,
    config: Config,
}

impl Reloader {
    /// Puts the tokens of the files in force, next to those from flags and environment. On any
    /// error the old tokens stay.
    pub fn reload(&self) -> Result<(), Vec<String>> {
        // They are read by a task of their own, which also tells what came of it.
        if let Some(keys) = &self.config.keys {
            keys.ask_again();
        }
        let mut tokens = self.config.inline_tokens.clone();
        let errors = tokens.add_files(&self.config.token_files);
        if !errors.is_empty() {
            return Err(errors
                .into_iter()
                .map(|(f, m)| format!("{f}: {m}"))
                .collect());
        }
        self.app.set_tokens(tokens);
        Ok(())
    }

    /// Puts what the files of certificates, keys and roles hold in force, and logs what became of it. On any error
    /// what was in force stays.
    pub fn reload_certificates(&self) -> Result<(), Vec<String>> {
        tls::reload(&self.app, true)
    }
}

fn warn_about_open_roles(config: &Config, addresses: &[Listen]) {
    let authority = config.authority();
    for role in [Role::Gateway, Role::Upstream, Role::Operator] {
        for address in addresses {
            let needs_certificate = matches!(address, Listen::Tcp(_))
                && config.tls.as_ref().is_some_and(|(options, _)| {
                    options.client_ca.is_some() && options.client_auth == ClientAuth::Required
                });
            if !needs_certificate && authority.is_open(role, address.way()) {
                tracing::warn!(
                    %address,
                    role = role.name(),
                    "NO TOKEN IS NEEDED for this role on this address; configure one"
                );
            }
        }
    }
}
