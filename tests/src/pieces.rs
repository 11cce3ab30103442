//! A request body in pieces, each sent when somebody has it. (`http_body_util::channel` loses the last piece if
//! its sender goes just then, version 0.1.5: it asks for a piece, finds none, and then finds the sender gone.)

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

use crate::connection::Error;

/// The body.
pub(crate) struct Pieces {
    frames: mpsc::Receiver<Frame<Bytes>>,
    cut: Arc<AtomicBool>,
}

/// Where its pieces come from. The body ends when this goes.
pub(crate) struct Feed {
    frames: mpsc::Sender<Frame<Bytes>>,
    cut: Arc<AtomicBool>,
}

/// A body, and where to put its pieces: one waits until the one before it was taken.
pub(crate) fn pieces() -> (Feed, Pieces) {
    let (feed, frames) = mpsc::channel(1);
    let cut = Arc::new(AtomicBool::new(false));
    let feed = Feed {
        frames: feed,
        cut: Arc::clone(&cut),
    };
    (feed, Pieces { frames, cut })
}

impl Feed {
    /// Adds a piece, or trailers; whether anybody still wants it.
    pub(crate) async fn send(&self, frame: Frame<Bytes>) -> bool {
        self.frames.send(frame).await.is_ok()
    }

    /// Cuts the body behind what was sent, instead of ending it.
    pub(crate) fn cut(self) {
        self.cut.store(true, Ordering::SeqCst);
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.frames.poll_recv(context).map(|frame| match frame {
            None if self.cut.load(Ordering::SeqCst) => Some(Err("the request is given up".into())),
            frame => frame.map(Ok),
        })
    }
}
