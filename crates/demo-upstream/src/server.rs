//! Connections and the special paths.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::body::{AnswerBody, Cut};
use crate::charge::{charge, plain, typed};
use crate::ledger::Ledger;

/// Serves connections until the listener fails for good; drop the future to stop accepting.
pub async fn serve(listener: TcpListener, ledger: Ledger) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, ledger.clone()));
            }
            // A connection that died in the queue, or no descriptor left for now: let others end.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn connection(stream: TcpStream, ledger: Ledger) {
    // Failing to set it costs latency and nothing else.
    let _ = stream.set_nodelay(true);
    let resets = Arc::new(AtomicBool::new(false));
    let io = Connection {
        stream,
        resets: resets.clone(),
    };
    let service = service_fn(move |request| {
        // A task of its own: a charge goes on when the client's connection is gone.
        let task = tokio::spawn(route(ledger.clone(), request));
        let resets = resets.clone();
        async move {
            let answer = task.await.unwrap_or(Err(Cut));
            if answer.is_err() {
                resets.store(true, Ordering::Relaxed);
            }
            answer
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // A gateway that does not know the limit yet may send more, and have the rest refused.
    builder.http2().max_concurrent_streams(10_000);
    // Its errors are clients that left and cuts that were asked for.
    let _ = builder.serve_connection(TokioIo::new(io), service).await;
}

async fn route(ledger: Ledger, request: Request<Incoming>) -> Result<Response<AnswerBody>, Cut> {
    let (parts, body) = request.into_parts();
    let get = parts.method == Method::GET || parts.method == Method::HEAD;
    match parts.uri.path() {
        "/" | "/healthz" if get => Ok(plain(StatusCode::OK, "ok\n")),
        "/executions" if get => Ok(json(&ledger.counts())),
        "/executions/log" if get => {
            let (log, dropped) = ledger.log();
            let mut answer = json(&log);
            let name = HeaderName::from_static("x-log-dropped");
            answer
                .headers_mut()
                .insert(name, HeaderValue::from(dropped));
            Ok(answer)
        }
        "/reset" if parts.method == Method::POST => {
            ledger.reset();
            Ok(plain(StatusCode::NO_CONTENT, ""))
        }
        _ => charge(&ledger, parts, body).await,
    }
}

fn json(value: &impl serde::Serialize) -> Response<AnswerBody> {
    match serde_json::to_vec(value) {
        Ok(text) => typed(StatusCode::OK, "application/json", AnswerBody::ready(text)),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// A TCP connection that ends with a reset instead of an orderly close once it is told to.
struct Connection {
    stream: TcpStream,
    resets: Arc<AtomicBool>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.resets.load(Ordering::Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
