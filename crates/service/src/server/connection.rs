//! Accepting and serving connections.

use super::bind::Listener;
use super::watchdog::{Progress, Watched};
use crate::api::{App, Dispatch};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Streams of one HTTP/2 connection. Waits and calls share it, so it is well above what one
/// gateway worker keeps in flight; a worker that does not know the limit yet may send more, and
/// have the rest refused.
const HTTP2_STREAMS: u32 = 8192;
/// Streams of one HTTP/2 connection that its client has reset before we took them up; one more ends
/// the connection, and every call on it. A gateway resets what has timed out, so after a moment
/// in which the service stood still there may be as many of them as of streams. (The library's
/// limit, 20, is for clients that nobody knows.)
const HTTP2_RESET_STREAMS: usize = HTTP2_STREAMS as usize;
/// Pings find HTTP/2 peers that are gone without a word.
const HTTP2_PING: Duration = Duration::from_secs(20);
/// Accepting fails for lack of file descriptors, mostly; then a pause helps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts the connections of all listeners.
#[derive(Clone)]
pub(super) struct Acceptor {
    pub app: Arc<App>,
    pub dispatch: Dispatch,
    pub places: Arc<Semaphore>,
    pub connections: TaskTracker,
    /// Cancelled when connections have had their time to end by themselves.
    pub cut: CancellationToken,
}

impl Acceptor {
    /// Accepts until the server stops.
    pub(super) async fn accept(self, listener: Listener) {
        let local = listener.address().is_local();
        while !self.app.stopping.is_cancelled() {
            tokio::select! {
                biased;
                () = self.app.stopping.cancelled() => return,
                accepted = self.accept_one(&listener, local) => {
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
    async fn accept_one(&self, listener: &Listener, local: bool) -> std::io::Result<()> {
        match listener {
            Listener::Tcp(listener, _) => {
                let (stream, _) = listener.accept().await?;
                no_delay(&stream);
                self.place_and_spawn(stream, local).await;
            }
            Listener::Unix(listener, _, _) => {
                let (stream, _) = listener.accept().await?;
                self.place_and_spawn(stream, local).await;
            }
        }
        Ok(())
    }

    async fn place_and_spawn<S>(&self, stream: S, local: bool)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        // The semaphore is never closed.
        if let Ok(place) = self.places.clone().acquire_owned().await {
            self.spawn(stream, local, place);
        }
    }

    fn spawn<S>(&self, stream: S, local: bool, place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (app, dispatch) = (self.app.clone(), self.dispatch.clone());
        let cut = self.cut.clone();
        app.metrics.accepted.fetch_add(1, Relaxed);
        app.metrics.connections.fetch_add(1, Relaxed);
        self.connections.spawn(async move {
            let open = Open {
                app: app.clone(),
                _place: place,
            };
            tokio::select! {
                biased;
                () = serve(stream, app, dispatch, local) => {}
                () = cut.cancelled() => {}
            }
            drop(open);
        });
    }
}

/// An open connection, counted until it is dropped.
struct Open {
    app: Arc<App>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.app.metrics.connections.fetch_sub(1, Relaxed);
    }
}

fn no_delay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY cannot be set");
    }
}

async fn serve<S>(stream: S, app: Arc<App>, dispatch: Dispatch, local: bool)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let progress = Progress::new();
    let stream = TokioIo::new(Watched::new(stream, progress.clone()));
    let watched = progress.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let busy = watched.begin();
        let dispatch = dispatch.clone();
        async move {
            let response = dispatch.answer(request, local).await;
            drop(busy);
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_pending_accept_reset_streams(HTTP2_RESET_STREAMS)
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PING);
    let connection = builder.serve_connection(stream, service);
    tokio::pin!(connection);
    let limit = app.limits.header_timeout;
    let mut look = tokio::time::interval(limit.div_f64(4.0).max(Duration::from_millis(5)));
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = app.stopping.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = look.tick() => {
                if progress.too_slow(limit) {
                    app.metrics.slow_heads.fetch_add(1, Relaxed);
                    tracing::debug!("a request head took too long");
                    return;
                }
            }
        }
    }
}
