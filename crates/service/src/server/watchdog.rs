//! Closes connections whose request head takes too long.
//!
//! The HTTP library has such a timeout too, but it also runs while a connection is idle between
//! two requests, and a gateway that re-uses a pooled connection at that moment meets a reset.
//! Idle connections stay; a head that has begun must come to its end.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the watchdog knows of a connection.
pub(super) struct Progress {
    opened: Instant,
    /// Milliseconds after `opened` at which bytes of a head first came; `NOTHING`: none have.
    head_since: AtomicU64,
    /// Requests that are being answered.
    busy: AtomicUsize,
    /// Many requests share an HTTP/2 connection, and its frames are no heads; it is kept in order
    /// by pings instead.
    http2: AtomicBool,
    seen: AtomicBool,
}

const NOTHING: u64 = u64::MAX;

impl Progress {
    pub(super) fn new() -> Arc<Progress> {
        Arc::new(Progress {
            opened: Instant::now(),
            // A connection that never says anything is slow from the start.
            head_since: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            http2: AtomicBool::new(false),
            seen: AtomicBool::new(false),
        })
    }

    fn read(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if !self.seen.swap(true, Relaxed) {
            // The preface of HTTP/2; no method of HTTP/1.1 begins so.
            self.http2.store(bytes.starts_with(b"PRI"), Relaxed);
        }
        let first = self.busy.load(Relaxed) == 0 && self.head_since.load(Relaxed) == NOTHING;
        if first && !self.http2.load(Relaxed) {
            self.head_since.store(self.now(), Relaxed);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(NOTHING - 1)
    }

    /// A head is complete; hold the result while the request is answered.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.head_since.store(NOTHING, Relaxed);
        self.busy.fetch_add(1, Relaxed);
        Busy(self.clone())
    }

    /// The head that has begun is older than `limit`.
    pub(super) fn too_slow(&self, limit: Duration) -> bool {
        let since = self.head_since.load(Relaxed);
        let limit = u64::try_from(limit.as_millis()).unwrap_or(NOTHING);
        since != NOTHING && !self.http2.load(Relaxed) && self.now().saturating_sub(since) >= limit
    }
}

/// A request that is being answered.
pub(super) struct Busy(Arc<Progress>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

/// A stream that notes when bytes come.
pub(super) struct Watched<S> {
    stream: S,
    progress: Arc<Progress>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, progress: Arc<Progress>) -> Watched<S> {
        Watched { stream, progress }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Some(new) = buffer.filled().get(before..) {
            self.progress.read(new);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn only_a_begun_head_is_slow() {
        let progress = Progress::new();
        assert!(progress.too_slow(NOW), "silent from the start");
        let busy = progress.begin();
        assert!(!progress.too_slow(NOW), "answering");
        progress.read(b"more of the body");
        assert!(!progress.too_slow(NOW), "bytes of a body are no head");
        drop(busy);
        assert!(!progress.too_slow(NOW), "idle");
        progress.read(b"POS");
        assert!(progress.too_slow(NOW), "a head has begun");
        assert!(!progress.too_slow(Duration::from_secs(60)));
    }

    #[test]
    fn http2_is_not_watched() {
        let progress = Progress::new();
        progress.read(b"PRI * HTTP/2.0");
        assert!(!progress.too_slow(NOW));
        drop(progress.begin());
        progress.read(b"POS");
        assert!(!progress.too_slow(NOW));
    }
}
