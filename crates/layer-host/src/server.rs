//! Listeners, and what stands in front of the handler.

use crate::config::{self, Config};
use crate::counted::Counted;
use crate::proxy::{self, Broken};
use crate::stats;
use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use idempotency::http::{BoxError, IdempotencyLayer};
use idempotency::Guard;
use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::atomic::AtomicU64;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{signal, SignalKind};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};

type Body = UnsyncBoxBody<Bytes, BoxError>;
type Handler = BoxCloneSyncService<Request<Incoming>, Response<Body>, Broken>;

/// How long executions may go on when the host is told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Serves until it is told to stop.
pub async fn run(config: Config) -> io::Result<()> {
    let config = Arc::new(config);
    let log = Arc::new(stats::access_log(&config)?);
    let (guard, out) = config.filter.as_deref().map(guard).unzip();
    let handler = handler(&config, guard.as_ref());
    let listener = TcpListener::bind(config.listen).await?;
    let admin = TcpListener::bind(config.admin).await?;
    tokio::spawn(stats::serve(admin, guard.clone().zip(out)));
    let mut stop = signal(SignalKind::terminate())?;
    let connections = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            _ = stop.recv() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = stream else {
            // A connection that died in the queue, or no room for another one.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (handler, config, log) = (handler.clone(), config.clone(), log.clone());
        let service = service_fn(move |request| {
            answer(handler.clone(), config.clone(), log.clone(), request)
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new());
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection.into_owned());
        tokio::spawn(async move {
            // Its errors are clients that left, and cuts.
            let _ = connection.await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN, connections.shutdown()).await;
    if let Some(guard) = guard {
        guard.drain(DRAIN).await;
    }
    Ok(())
}

/// The guard, and how many of its calls are out.
fn guard(text: &str) -> (Guard, Arc<AtomicU64>) {
    let (store, timeout) = config::store(text);
    let (store, out) = Counted::new(store);
    let guard = Guard::new(Arc::new(store)).timeout(timeout);
    (guard.program("layer-host"), out)
}

/// The handler, behind the layer if there is one.
fn handler(config: &Arc<Config>, guard: Option<&Guard>) -> Handler {
    let Some((guard, text)) = guard.zip(config.filter.as_deref()) else {
        let config = Arc::clone(config);
        let bare = tower::service_fn(move |request: Request<Incoming>| {
            proxy::pass_on(config.clone(), request)
        });
        return BoxCloneSyncService::new(bare.map_response(|r| r.map(proxy::any)));
    };
    let layer = IdempotencyLayer::with_rules(guard.clone(), text);
    let config = Arc::clone(config);
    let asks = tower::service_fn(move |request: Request<_>| {
        proxy::pass_on(config.clone(), request.map(proxy::any))
    });
    BoxCloneSyncService::new(layer.layer(asks).map_response(|r| r.map(proxy::any)))
}

async fn answer(
    handler: Handler,
    config: Arc<Config>,
    log: Arc<std::fs::File>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let key = request.headers().get("idempotency-key");
    let key = key.map_or(&b"-"[..], |key| key.as_bytes());
    let mut logged = Logged {
        log,
        line: format!("\"{} {}\"", request.method(), request.uri()),
        key: String::from_utf8_lossy(key).into_owned(),
        status: 0,
    };
    if let Some((from, to)) = &config.identity {
        vouch(request.headers_mut(), from, to);
    }
    let answer = match handler.oneshot(request).await {
        Ok(answer) => answer,
        Err(Broken(status)) => {
            let mut answer = Response::new(proxy::any(Empty::new()));
            *answer.status_mut() = status;
            answer
        }
    };
    logged.status = answer.status().as_u16();
    Ok(answer)
}

/// A line of the access log, also for a client that left without an answer.
struct Logged {
    log: Arc<std::fs::File>,
    line: String,
    key: String,
    /// 0: there was none.
    status: u16,
}

impl Drop for Logged {
    fn drop(&mut self) {
        let Logged {
            log,
            line,
            key,
            status,
        } = self;
        // A log that cannot be written is the test's affair, which reads it.
        let _ = writeln!(&**log, "{line} {status} key={key}");
    }
}

/// What an authentication does: the value of one field becomes that of the other.
fn vouch(headers: &mut HeaderMap, from: &str, to: &str) {
    let value = headers.get(from).cloned();
    headers.remove(to);
    if let (Some(value), Ok(to)) = (value, HeaderName::from_bytes(to.as_bytes())) {
        headers.insert(to, value);
    }
}
