//! Accepting connections, within the budget of their listener.

use super::bind::Listener;
use super::connection::{ConnectionContext, Http};
use super::handshake;
use super::strangers::Strangers;
use super::watch::Watch;
use crate::api::{App, Dispatch};
use crate::auth::{Shown, Way};
use crate::config::Listen;
use crate::peer::Address;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Accepting fails for lack of file descriptors, mostly; then a pause helps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts the connections of one listener.
pub(super) struct Acceptor {
    pub app: Arc<App>,
    pub dispatch: Dispatch,
    pub connections: TaskTracker,
    /// Cancelled when connections have had their time to end by themselves.
    pub cut: CancellationToken,
    /// Of this listener alone: what comes through another one cannot use it up.
    places: Arc<Semaphore>,
    /// The listener is one of the operators' page.
    page: bool,
    /// The listener speaks TLS.
    tls: bool,
    strangers: Arc<Strangers>,
}

impl Acceptor {
    pub(super) fn new(
        app: Arc<App>,
        dispatch: Dispatch,
        connections: TaskTracker,
        cut: CancellationToken,
    ) -> Acceptor {
        Acceptor {
            places: Arc::new(Semaphore::new(app.limits.max_connections)),
            strangers: Strangers::new(app.limits.max_stranger_bytes),
            page: false,
            tls: false,
            app,
            dispatch,
            connections,
            cut,
        }
    }

    /// Accepts until the server stops.
    pub(super) async fn accept(mut self, listener: Listener, page: bool) {
        self.page = page;
        self.tls = self.app.tls.is_some() && matches!(listener.address(), Listen::Tcp(_));
        let way = listener.address().way();
        while !self.app.stopping.is_cancelled() {
            tokio::select! {
                biased;
                () = self.app.stopping.cancelled() => return,
                accepted = self.accept_one(&listener, way) => {
                    if let Err(error) = accepted {
                        tracing::warn!(%error, address = %listener.address(), "accept failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Accepts one connection, and serves it once there is a place for it; meanwhile further ones
    /// wait in the listener's queue.
    async fn accept_one(&self, listener: &Listener, way: Way) -> std::io::Result<()> {
        match listener {
            Listener::Tcp(listener, _) => {
                let (stream, from) = listener.accept().await?;
                no_delay(&stream);
                self.place_and_spawn(Accepted::Tcp(stream), way, Address::Tcp(from))
                    .await;
            }
            Listener::Unix(listener, _, _) => {
                let (stream, _) = listener.accept().await?;
                self.place_and_spawn(Accepted::Unix(stream), way, Address::Unix)
                    .await;
            }
        }
        Ok(())
    }

    async fn place_and_spawn(&self, stream: Accepted, way: Way, from: Address) {
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                // One that has shown no token makes place; where all have, this one waits.
                self.strangers.send_one_away();
                match self.places.clone().acquire_owned().await {
                    Ok(place) => place,
                    // It is never closed.
                    Err(_) => return,
                }
            }
        };
        let guest = self.strangers.enter(from.peer()).await;
        let connection = ConnectionContext {
            app: self.app.clone(),
            dispatch: self.dispatch.clone(),
            way,
            page: self.page,
            tls: self.tls,
            shown: Shown::NotAsked,
            from,
            watch: Watch::new(),
            guest: Arc::new(guest),
        };
        self.spawn(stream, connection, place);
    }

    fn spawn(&self, stream: Accepted, connection: ConnectionContext, place: OwnedSemaphorePermit) {
        let (app, cut) = (self.app.clone(), self.cut.clone());
        app.metrics.accepted.inc();
        app.metrics.connections.inc();
        let open = OpenConnection { app, _place: place };
        self.connections.spawn(async move {
            tokio::select! {
                biased;
                () = serve(connection, stream) => {}
                () = cut.cancelled() => {}
            }
            drop(open);
        });
    }
}

/// A connection of whatever kind of listener.
enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn serve(connection: ConnectionContext, stream: Accepted) {
    match stream {
        Accepted::Tcp(stream) if connection.tls => handshake::serve(connection, stream).await,
        Accepted::Tcp(stream) => connection.serve(stream, Http::Any).await,
        Accepted::Unix(stream) => connection.serve(stream, Http::Any).await,
    }
}

/// An open connection, counted until it is dropped.
struct OpenConnection {
    app: Arc<App>,
    _place: OwnedSemaphorePermit,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.app.metrics.connections.dec();
    }
}

fn no_delay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY cannot be set");
    }
}
