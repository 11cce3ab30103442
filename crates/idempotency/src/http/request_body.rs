//! The body of a request, as the handler gets it.

use super::head;
use super::observe::RequestWatch;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use idempotency_core::fingerprint::Hasher;
use pin_project_lite::pin_project;
use std::pin::{pin, Pin};
use std::task::{Context, Poll};

pin_project! {
    /// The client's body: as it comes where nothing is protected, read before where it is.
    pub struct RequestBody<B> {
        #[pin]
        kind: RequestBodyKind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum RequestBodyKind<B> {
        /// As it comes.
        Passed { #[pin] body: B },
        /// As it comes, and looked at.
        Watched { #[pin] body: B, watch: RequestWatch },
        /// Read before.
        Whole { data: Bytes, trailers: Option<HeaderMap> },
    }
}

impl<B> std::fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestBody").finish_non_exhaustive()
    }
}

impl<B> RequestBody<B> {
    pub(super) fn passed(body: B) -> RequestBody<B> {
        RequestBody {
            kind: RequestBodyKind::Passed { body },
        }
    }

    pub(super) fn watched(body: B, watch: RequestWatch) -> RequestBody<B> {
        RequestBody {
            kind: RequestBodyKind::Watched { body, watch },
        }
    }

    pub(super) fn whole(whole: Whole) -> RequestBody<B> {
        let Whole { data, trailers } = whole;
        RequestBody {
            kind: RequestBodyKind::Whole { data, trailers },
        }
    }
}

impl<B: Body<Data = Bytes>> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Passed { body } => body.poll_frame(cx).map(without_ours),
            KindProjection::Watched { mut body, watch } => {
                let polled = body.as_mut().poll_frame(cx);
                if let Poll::Ready(frame) = &polled {
                    let frame = frame.as_ref().map(Result::as_ref);
                    watch.saw(frame, body.is_end_stream());
                }
                polled.map(without_ours)
            }
            KindProjection::Whole { data, trailers } => {
                if !data.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))));
                }
                Poll::Ready(trailers.take().map(|t| Ok(Frame::trailers(t))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            RequestBodyKind::Passed { body } | RequestBodyKind::Watched { body, .. } => {
                body.is_end_stream()
            }
            RequestBodyKind::Whole { data, trailers } => data.is_empty() && trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            RequestBodyKind::Passed { body } | RequestBodyKind::Watched { body, .. } => {
                body.size_hint()
            }
            RequestBodyKind::Whole { data, .. } => SizeHint::with_exact(data.len() as u64),
        }
    }
}

/// Trailers without the fields that only we send: some services merge trailers into the headers.
fn without_ours<E>(frame: Option<Result<Frame<Bytes>, E>>) -> Option<Result<Frame<Bytes>, E>> {
    frame.map(|frame| {
        frame.map(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                head::strip_ours(trailers);
            }
            frame
        })
    })
}

/// A body that was read to its end.
#[derive(Debug, Default)]
pub(super) struct Whole {
    pub data: Bytes,
    pub trailers: Option<HeaderMap>,
}

/// Why a body was not read to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is over the cap.
    TooLarge,
    /// The client, or the connection, failed.
    Broken,
}

/// Reads a body, hashing it on the way.
pub(super) async fn read<B: Body<Data = Bytes>>(
    body: B,
    hasher: &mut Hasher,
    cap: usize,
) -> Result<Whole, Unread> {
    let mut body = pin!(body);
    let mut pieces = Pieces::default();
    let mut trailers = None;
    while !body.is_end_stream() {
        let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await else {
            break;
        };
        match frame.map_err(|_| Unread::Broken)?.into_data() {
            Ok(data) => {
                if pieces.len().saturating_add(data.len()) > cap {
                    return Err(Unread::TooLarge);
                }
                hasher.update(&data);
                pieces.push(data);
            }
            Err(other) => {
                trailers = other.into_trailers().ok();
                if let Some(trailers) = &mut trailers {
                    head::strip_ours(trailers);
                }
            }
        }
    }
    let data = pieces.join();
    Ok(Whole { data, trailers })
}

/// Pieces of a body. One piece stays as it is; several become one, however small they are, so that they
/// do not hold much larger buffers.
#[derive(Default)]
pub(super) struct Pieces {
    one: Bytes,
    several: BytesMut,
}

impl Pieces {
    pub fn len(&self) -> usize {
        self.one.len() + self.several.len()
    }

    pub fn push(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.one = data;
            return;
        }
        if self.several.is_empty() {
            self.several
                .extend_from_slice(&std::mem::take(&mut self.one));
        }
        self.several.extend_from_slice(&data);
    }

    pub fn join(self) -> Bytes {
        match self.several.is_empty() {
            true => self.one,
            false => self.several.freeze(),
        }
    }
}
