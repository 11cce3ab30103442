//! Answers on their way: what they hold is held until the socket has taken their last byte.

use super::strangers::Guest;
use super::watch::Request;
use crate::budget::Room;
use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};

/// What a request and its answer hold; given back on drop.
pub(super) struct HeldByAnswer {
    pub _request: Request,
    /// Of the common budget.
    pub _room: Option<Room>,
    /// Of the account of strangers.
    pub _charged: Option<Charged>,
}

/// Bytes charged to a stranger.
pub(super) struct Charged {
    guest: Arc<Guest>,
    bytes: usize,
}

impl Charged {
    pub(super) fn new(guest: Arc<Guest>, bytes: usize) -> Charged {
        guest.charge(bytes);
        Charged { guest, bytes }
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.guest.charge(bytes);
        self.bytes += bytes;
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.guest.discharge(self.bytes);
    }
}

/// The body of an answer. The HTTP library takes it in whole long before it is sent, so every
/// piece of it carries what is held.
pub(super) struct Delivered {
    body: Body,
    held: Arc<HeldByAnswer>,
}

impl Delivered {
    pub(super) fn new(body: Body, held: HeldByAnswer) -> Delivered {
        Delivered {
            body,
            held: Arc::new(held),
        }
    }
}

struct Piece {
    bytes: Bytes,
    _held: Arc<HeldByAnswer>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl http_body::Body for Delivered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let held = &self.held;
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|bytes| {
                    Bytes::from_owner(Piece {
                        bytes,
                        _held: held.clone(),
                    })
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
