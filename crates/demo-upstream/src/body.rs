//! The answer's body: pieces, pauses, trailers, and the cut when one is asked for.

use std::future::Future;
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::ledger::Ticket;

/// Largest piece that is produced at once.
const PIECE: usize = 16 * 1024;

/// How long a cut waits after the last byte that is to arrive: the HTTP library writes what it has
/// when the body pauses, and drops it when the body fails at once.
const FLUSH: Duration = Duration::from_millis(20);

/// The error that makes the HTTP library close the connection.
#[derive(Debug)]
pub(crate) struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut on request")
    }
}

impl std::error::Error for Cut {}

/// Where the octets come from.
#[derive(Debug)]
pub(crate) enum Source {
    Ready(Bytes),
    Random(fastrand::Rng, u64),
}

impl Source {
    fn left(&self) -> u64 {
        match self {
            Self::Ready(bytes) => bytes.len() as u64,
            Self::Random(_, left) => *left,
        }
    }

    fn take(&mut self, at_most: u64) -> Bytes {
        match self {
            Self::Ready(bytes) => {
                let size = usize::try_from(at_most)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                bytes.split_to(size)
            }
            Self::Random(rng, left) => {
                let size = at_most.min(*left).min(PIECE as u64);
                *left -= size;
                let mut piece = BytesMut::zeroed(usize::try_from(size).unwrap_or(PIECE));
                rng.fill(&mut piece);
                piece.freeze()
            }
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    source: Source,
    /// Told before the first piece; `None` for chunked answers.
    length: Option<u64>,
    piece: u64,
    pause: Option<Duration>,
    trailers: Option<HeaderMap>,
    /// The body fails when so many octets are left.
    cut_at: Option<u64>,
    waiting: Option<Pin<Box<Sleep>>>,
    waited: bool,
    ticket: Option<Ticket>,
}

impl AnswerBody {
    /// A body of known length.
    pub(crate) fn new(source: Source) -> Self {
        Self {
            length: Some(source.left()),
            source,
            piece: u64::MAX,
            pause: None,
            trailers: None,
            cut_at: None,
            waiting: None,
            waited: true,
            ticket: None,
        }
    }

    pub(crate) fn ready(bytes: impl Into<Bytes>) -> Self {
        Self::new(Source::Ready(bytes.into()))
    }

    /// Sends pieces without telling the length first.
    pub(crate) fn chunked(mut self, piece: Option<usize>, pause: Option<Duration>) -> Self {
        let quarter = self.source.left().div_ceil(4).clamp(1, PIECE as u64);
        self.piece = piece.map_or(quarter, |piece| piece as u64);
        self.pause = pause;
        self.length = None;
        self
    }

    pub(crate) fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(trailers);
        self.length = None;
        self
    }

    /// Fails after no, one or two halves of the body, once that part has been written out.
    pub(crate) fn cut_after(mut self, halves: u64) -> Self {
        let all = self.source.left();
        self.cut_at = Some(all - all * halves / 2);
        self
    }

    /// The ticket that is told whether the answer was taken whole.
    pub(crate) fn with_ticket(mut self, ticket: Ticket) -> Self {
        self.ticket = Some(ticket);
        self.settle();
        self
    }

    fn over(&self) -> bool {
        self.source.left() == 0 && self.trailers.is_none() && self.cut_at.is_none()
    }

    fn settle(&mut self) {
        if self.over() {
            if let Some(mut ticket) = self.ticket.take() {
                ticket.delivered();
            }
        }
    }

    /// Ready when the pause before the next piece is over.
    fn poll_pause(&mut self, pause: Duration, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waited {
            let waiting = self
                .waiting
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
            ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
            self.waited = true;
        }
        Poll::Ready(())
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = self.get_mut();
        let left = this.source.left();
        if this.cut_at == Some(left) {
            let Some(waiting) = &mut this.waiting else {
                // On a busy machine the time may be over when it is looked at first.
                this.waiting = Some(Box::pin(tokio::time::sleep(FLUSH)));
                cx.waker().wake_by_ref();
                return Poll::Pending;
            };
            ready!(waiting.as_mut().poll(cx));
            return Poll::Ready(Some(Err(Cut)));
        }
        if left > 0 {
            if let Some(pause) = this.pause {
                ready!(this.poll_pause(pause, cx));
            }
            let until_cut = this.cut_at.map_or(u64::MAX, |at| left.saturating_sub(at));
            let piece = this.source.take(this.piece.min(until_cut));
            this.waited = false;
            this.settle();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let trailers = this.trailers.take();
        this.settle();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.over()
    }

    fn size_hint(&self) -> SizeHint {
        // Only the first call matters to the HTTP library; it must see the whole length then.
        match self.length {
            Some(_) => SizeHint::with_exact(self.source.left()),
            None => SizeHint::default(),
        }
    }
}
