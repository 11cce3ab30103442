//! The body of an answer, as the client gets it.

use super::observe::ResponseWatch;
use super::BoxError;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

pin_project! {
    /// The handler's body, or one that was made in its place.
    pub struct ResponseBody<B> {
        #[pin]
        kind: ResponseBodyKind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum ResponseBodyKind<B> {
        /// As it comes.
        Passed { #[pin] body: B },
        /// As it comes, and looked at.
        Watched { #[pin] body: B, watch: ResponseWatch },
        /// At hand.
        Whole { data: Bytes, trailers: Option<HeaderMap> },
        /// From the task that runs the handler.
        Stream { pieces: mpsc::Receiver<Piece>, left: Option<u64>, is_over: bool },
    }
}

impl<B> std::fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

/// What the task that runs the handler tells about its body.
#[derive(Debug)]
pub(super) enum Piece {
    Frame(Frame<Bytes>),
    /// It is whole, and recorded.
    End,
    /// It is cut.
    Cut(BoxError),
}

/// The answer was cut by this layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The execution ended before its answer did.
    Ended,
    /// The answer could not be recorded, and the rule says to withhold it.
    Withheld,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Cut::Ended => "the execution ended before its answer did",
            Cut::Withheld => "the outcome could not be recorded, so its end is withheld",
        })
    }
}

impl std::error::Error for Cut {}

impl<B> ResponseBody<B> {
    pub(super) fn passed(body: B) -> ResponseBody<B> {
        let kind = ResponseBodyKind::Passed { body };
        ResponseBody { kind }
    }

    pub(super) fn watched(body: B, watch: ResponseWatch) -> ResponseBody<B> {
        let kind = ResponseBodyKind::Watched { body, watch };
        ResponseBody { kind }
    }

    pub(super) fn whole(data: Bytes, trailers: Option<HeaderMap>) -> ResponseBody<B> {
        let kind = ResponseBodyKind::Whole { data, trailers };
        ResponseBody { kind }
    }

    /// `length`: of the whole body, where it is known.
    pub(super) fn stream(pieces: mpsc::Receiver<Piece>, length: Option<u64>) -> ResponseBody<B> {
        let kind = ResponseBodyKind::Stream {
            pieces,
            left: length,
            is_over: false,
        };
        ResponseBody { kind }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let into_box = |error: B::Error| error.into();
        match self.project().kind.project() {
            KindProjection::Passed { body } => {
                body.poll_frame(cx).map(|f| f.map(|f| f.map_err(into_box)))
            }
            KindProjection::Watched { mut body, watch } => {
                let polled = body.as_mut().poll_frame(cx);
                if let Poll::Ready(frame) = &polled {
                    let frame = frame.as_ref().map(Result::as_ref);
                    watch.saw(frame, body.is_end_stream());
                }
                polled.map(|f| f.map(|f| f.map_err(into_box)))
            }
            KindProjection::Whole { data, trailers } => {
                if !data.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))));
                }
                Poll::Ready(trailers.take().map(|t| Ok(Frame::trailers(t))))
            }
            KindProjection::Stream { is_over: true, .. } => Poll::Ready(None),
            KindProjection::Stream {
                pieces,
                left,
                is_over,
            } => {
                let Poll::Ready(piece) = pieces.poll_recv(cx) else {
                    return Poll::Pending;
                };
                // A task that has gone without a word did not come to the end.
                let piece = piece.unwrap_or(Piece::Cut(Cut::Ended.into()));
                Poll::Ready(match piece {
                    Piece::Frame(frame) => {
                        if let (Some(left), Some(data)) = (left, frame.data_ref()) {
                            *left = left.saturating_sub(data.len() as u64);
                        }
                        Some(Ok(frame))
                    }
                    Piece::End => {
                        *is_over = true;
                        None
                    }
                    Piece::Cut(error) => {
                        *is_over = true;
                        Some(Err(error))
                    }
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            ResponseBodyKind::Passed { body } | ResponseBodyKind::Watched { body, .. } => {
                body.is_end_stream()
            }
            ResponseBodyKind::Whole { data, trailers } => data.is_empty() && trailers.is_none(),
            ResponseBodyKind::Stream { is_over, .. } => *is_over,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            ResponseBodyKind::Passed { body } | ResponseBodyKind::Watched { body, .. } => {
                body.size_hint()
            }
            ResponseBodyKind::Whole { data, .. } => SizeHint::with_exact(data.len() as u64),
            ResponseBodyKind::Stream {
                left: Some(left), ..
            } => SizeHint::with_exact(*left),
            ResponseBodyKind::Stream { left: None, .. } => SizeHint::default(),
        }
    }
}
