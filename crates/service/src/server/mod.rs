//! Opens the listeners, serves, and stops in order.

mod accept;
mod bind;
mod connection;
mod delivery;
mod io;
mod ready;
mod strangers;
mod watch;

use crate::api::{App, Dispatch};
use crate::audit::Audit;
use crate::auth::{Authority, Role};
use crate::backend::OpenError;
use crate::config::{Config, Listen};
use crate::sweeper;
use accept::Acceptor;
use bind::Listener;
use idempotency_store::{Store, StoreError};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
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
    /// The store cannot go on, and only another start can help it. Told in the log already.
    #[error("the store cannot go on: {0}")]
    Broken(StoreError),
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
}

/// Opens the store that the configuration names, serves until `shutdown` is ready, and stops
/// gracefully.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    let store = config.store.open(&config.limits).await?;
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
        let mut listeners = Vec::with_capacity(config.listen.len());
        for address in &config.listen {
            let listener = bind::open(address, config.socket_mode)
                .await
                .map_err(|source| ServerError::Listen {
                    address: address.to_string(),
                    source,
                })?;
            listeners.push(listener);
        }
        let app = Arc::new(App::new(&config, store, audit, CancellationToken::new()));
        Ok(Server {
            config,
            app,
            listeners,
        })
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
        let addresses = self.addresses();
        let Server {
            config,
            app,
            listeners,
        } = self;
        warn_about_open_roles(&config, &addresses);
        let connections = TaskTracker::new();
        let dispatch = Dispatch::new(app.clone());
        let cut = CancellationToken::new();
        let listening = TaskTracker::new();
        for listener in listeners {
            let (app, dispatch) = (app.clone(), dispatch.clone());
            let acceptor = Acceptor::new(app, dispatch, connections.clone(), cut.clone());
            listening.spawn(acceptor.accept(listener));
        }
        drop(dispatch);
        let sweeping = tokio::spawn(sweeper::run(
            app.clone(),
            config.sweep_interval,
            config.sweep_batch,
        ));
        for address in &addresses {
            tracing::info!(%address, "listening");
        }
        if let Some(path) = &config.ready_file {
            if let Err(source) = ready::write(path, &addresses) {
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
        if let Some(path) = &config.ready_file {
            ready::remove(path);
        }
        tracing::info!("stopped");
        broken.map_or(Ok(()), |error| Err(ServerError::Broken(error)))
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

/// Reads token files again.
pub struct Reloader {
    app: Arc<App>,
    config: Config,
}

impl Reloader {
    /// Puts the tokens of the files in force, next to those from flags and environment. On any
    /// error the old tokens stay.
    pub fn reload(&self) -> Result<(), Vec<String>> {
        let mut tokens = self.config.inline_tokens.clone();
        let errors = tokens.add_files(&self.config.token_files);
        if !errors.is_empty() {
            return Err(errors
                .into_iter()
                .map(|(f, m)| format!("{f}: {m}"))
                .collect());
        }
        self.app
            .set_authority(Authority::new(tokens, self.config.insecure_no_auth));
        Ok(())
    }
}

fn warn_about_open_roles(config: &Config, addresses: &[Listen]) {
    let authority = Authority::new(config.tokens.clone(), config.insecure_no_auth);
    for role in [Role::Gateway, Role::Upstream, Role::Operator] {
        for address in addresses {
            if authority.is_open(role, address.way()) {
                tracing::warn!(
                    %address,
                    role = role.name(),
                    "NO TOKEN IS NEEDED for this role on this address; configure one"
                );
            }
        }
    }
}
