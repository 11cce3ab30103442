//! What the layer counts, for whoever asks the admin's port.

use crate::config::Config;
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use idempotency::Guard;
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use tokio::net::TcpListener;

/// `idempotency_name: value` per line.
pub async fn serve(
    listener: TcpListener,
    guard: Option<(Guard, Arc<AtomicU64>)>,
) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let guard = guard.clone();
        tokio::spawn(async move {
            let service = service_fn(|_| {
                let counts = guard.as_ref().map(|(guard, _)| guard.counts());
                let counts = counts.unwrap_or_default();
                let lines = counts
                    .iter()
                    .map(|(n, v)| format!("idempotency_{n}: {v}\n"));
                let mut text: String = lines.collect();
                if let Some((_, out)) = &guard {
                    let out = out.load(Ordering::Relaxed);
                    text.push_str(&format!("host_calls_out: {out}\n"));
                }
                async move { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text))) }
            });
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Opens the access log.
pub fn access_log(config: &Config) -> io::Result<std::fs::File> {
    std::fs::File::options()
        .create(true)
        .append(true)
        .open(&config.access_log)
}
