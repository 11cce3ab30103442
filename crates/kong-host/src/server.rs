//! Listeners and workers: each worker is a thread with a VM of its own, as each of nginx's worker
//! processes has one.

use std::cell::Cell;
use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{spawn_local, LocalSet};

use crate::config::Config;
use crate::exchange;
use crate::metrics::Metrics;
use crate::vm::Vm;

/// Tasks of a connection stay on its worker.
#[derive(Clone, Copy, Debug)]
struct Local;

impl<F: std::future::Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(async move {
            future.await;
        });
    }
}

/// A worker.
pub struct Worker {
    /// The settings.
    pub config: Arc<Config>,
    /// Its VM.
    pub vm: Rc<Vm>,
    log: std::fs::File,
    requests: Cell<u64>,
    index: usize,
}

impl Worker {
    /// `$request_id`: 32 hexadecimal digits.
    pub fn request_id(&self) -> String {
        let number = self.requests.get() + 1;
        self.requests.set(number);
        format!("{:016x}{number:016x}", self.index)
    }

    /// A line of the access log.
    pub fn log_access(&self, line: &str) {
        // A log that cannot be written is the test's affair, which reads it.
        let _ = writeln!(&self.log, "{line}");
    }
}

/// Runs the host until a worker fails.
///
/// # Errors
///
/// If it cannot listen, or its log cannot be written.
pub fn run(config: Config) -> io::Result<()> {
    let config = Arc::new(config);
    let metrics = Arc::new(Metrics::default());
    // All of them before the first request: the one who waits for us asks the admin.
    let listeners: io::Result<Vec<_>> = (0..config.workers.max(1))
        .map(|_| listen(config.listen))
        .collect();
    let mut threads = Vec::new();
    for (index, listener) in listeners?.into_iter().enumerate() {
        let (config, metrics) = (config.clone(), metrics.clone());
        threads.push(std::thread::spawn(move || {
            on_this_thread(worker(index, listener, config, metrics))
        }));
    }
    let admin = listen(config.admin)?;
    on_this_thread(tell_metrics(admin, metrics))?;
    for thread in threads {
        if let Ok(ended) = thread.join() {
            ended?;
        }
    }
    Ok(())
}

fn on_this_thread(future: impl std::future::Future<Output = io::Result<()>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, future)
}

/// A listener that others may share the port with.
fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

async fn worker(
    index: usize,
    listener: std::net::TcpListener,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&config.access_log)?;
    let worker = Rc::new(Worker {
        vm: Vm::start(config.filter.as_deref(), metrics, config.tick_resolver),
        config,
        log,
        requests: Cell::new(0),
        index,
    });
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // A connection that died in the queue.
            tokio::task::yield_now().await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let worker = worker.clone();
        spawn_local(async move {
            let service = service_fn(move |request| answer(worker.clone(), request));
            let mut builder = auto::Builder::new(Local);
            // A client that closed its side for writing still gets its answer, as from nginx with
            // `proxy_ignore_client_abort on`.
            builder.http1().half_close(true);
            // Its errors are clients that left, and cuts.
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    worker: Rc<Worker>,
    request: Request<Incoming>,
) -> Result<Response<exchange::ReplyBody>, exchange::Cut> {
    let (sender, answer) = oneshot::channel();
    // A task of its own: it goes on when the client has gone.
    spawn_local(exchange::run(worker, request, sender));
    answer.await.map_err(|_| exchange::Cut)
}

async fn tell_metrics(listener: std::net::TcpListener, metrics: Arc<Metrics>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let metrics = metrics.clone();
        spawn_local(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let text = match request.uri().path() {
                    "/metrics" => metrics.page(),
                    _ => metrics.text(),
                };
                async move { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text))) }
            });
            let _ = auto::Builder::new(Local)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
