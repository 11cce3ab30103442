//! One connection to a gateway, and how it ends.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::workload::Http;

/// A request's body, which may never come to its end.
#[derive(Debug)]
pub(super) struct Upload {
    piece: Option<Bytes>,
    whole: bool,
}

impl Upload {
    pub fn whole(piece: Bytes) -> Self {
        Self {
            piece: Some(piece),
            whole: true,
        }
    }

    pub fn unfinished(piece: Bytes) -> Self {
        Self {
            piece: Some(piece),
            whole: false,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.piece.take() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None if self.whole => Poll::Ready(None),
            // The client leaves before there is more.
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.whole && self.piece.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.piece {
            Some(piece) if self.whole => SizeHint::with_exact(piece.len() as u64),
            _ => SizeHint::default(),
        }
    }
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Upload>),
    Two(http2::SendRequest<Upload>),
}

/// A connection with at most one request on it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: Sender,
    driver: AbortHandle,
    resets: Arc<AtomicBool>,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr, http: Http) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let resets = Arc::new(AtomicBool::new(false));
        let io = TokioIo::new(Stream {
            stream,
            resets: resets.clone(),
        });
        let (sender, driver) = match http {
            Http::One => {
                let (sender, connection) = http1::handshake(io).await?;
                (
                    Sender::One(sender),
                    tokio::spawn(async { drop(connection.await) }),
                )
            }
            Http::Two => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                (
                    Sender::Two(sender),
                    tokio::spawn(async { drop(connection.await) }),
                )
            }
        };
        Ok(Self {
            sender,
            driver: driver.abort_handle(),
            resets,
        })
    }

    /// Sends a request; the answer's head.
    pub async fn send(
        &mut self,
        request: http::Request<Upload>,
    ) -> Result<http::Response<Incoming>, hyper::Error> {
        match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// Whether it can take another request.
    pub fn is_open(&self) -> bool {
        match &self.sender {
            Sender::One(sender) => !sender.is_closed(),
            Sender::Two(sender) => !sender.is_closed(),
        }
    }

    /// Ends it, with a reset or in order.
    pub fn leave(self, reset: bool) {
        self.resets.store(reset, Ordering::Relaxed);
        self.driver.abort();
    }
}

/// A TCP connection that ends with a reset once it is told to.
struct Stream {
    stream: TcpStream,
    resets: Arc<AtomicBool>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.resets.load(Ordering::Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
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
}
