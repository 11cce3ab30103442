//! Reading a request's body: once, into one piece, within bounds of size, time and memory.

use super::app::App;
use super::problem::Problem;
use crate::budget::{Budget, Room, REQUEST_BYTES};
use bytes::Bytes;
use http_body_util::BodyExt;
use std::sync::Arc;

/// A body, and the room that its request takes in the budget until it is dropped.
pub(crate) struct Buffered {
    pub bytes: Bytes,
    pub room: Room,
}

/// Reads the body, at most `max` bytes.
pub(crate) async fn read<B>(app: &App, body: B, max: usize) -> Result<Buffered, Problem>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    match tokio::time::timeout(app.limits.body_timeout, collect(&app.budget, body, max)).await {
        Ok(result) => result,
        Err(_) => Err(Problem::body_timeout()),
    }
}

async fn collect<B>(budget: &Arc<Budget>, mut body: B, max: usize) -> Result<Buffered, Problem>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let too_large = || Problem::too_large(format!("The body is over {max} bytes."));
    let full = || Problem::overloaded("Too many requests and answers at once.");
    let announced = body.size_hint().lower();
    if announced > max as u64 {
        return Err(too_large());
    }
    let announced = usize::try_from(announced).unwrap_or(max);
    // The announced size is reserved at once, so that many slow bodies cannot promise more
    // memory than there is.
    let mut room = budget.take(REQUEST_BYTES + announced).ok_or_else(full)?;
    let mut whole = Bytes::new();
    let mut parts = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::bad_request("The body was cut off."))?;
        // Trailers mean nothing here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let total = parts.len().saturating_add(data.len());
        if total > max {
            return Err(too_large());
        }
        if parts.is_empty() && body.is_end_stream() {
            if !room.cover(REQUEST_BYTES + total) {
                return Err(full());
            }
            whole = data;
            continue;
        }
        // A part is copied: it may hold on to a whole buffer of the connection's, which is more
        // than was reserved, for as long as the rest takes to come.
        if total > parts.capacity() {
            let roomy = (2 * total).clamp(announced, max.max(announced));
            let capacity = if room.cover(REQUEST_BYTES + roomy) {
                roomy
            } else if room.cover(REQUEST_BYTES + total) {
                total
            } else {
                return Err(full());
            };
            parts.reserve_exact(capacity - parts.len());
        }
        parts.extend_from_slice(&data);
    }
    Ok(Buffered {
        bytes: if parts.is_empty() {
            whole
        } else {
            parts.into()
        },
        room,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{Full, StreamBody};

    fn chunks(
        sizes: &[usize],
    ) -> impl http_body::Body<Data = Bytes, Error = std::convert::Infallible> + Unpin {
        let frames: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(i, n)| Ok(http_body::Frame::data(Bytes::from(vec![i as u8; *n]))))
            .collect();
        StreamBody::new(Frames(frames.into_iter()))
    }

    struct Frames<I>(I);

    impl<I: Iterator + Unpin> futures_core::Stream for Frames<I> {
        type Item = I::Item;

        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<I::Item>> {
            std::task::Poll::Ready(self.0.next())
        }
    }

    #[tokio::test]
    async fn joins_chunks_and_holds_room() {
        let budget = Budget::new(1 << 20);
        let body = collect(&budget, chunks(&[50 * 1024, 0, 50 * 1024]), 1 << 20).await;
        let body = body.unwrap_or_else(|p| panic!("{p:?}"));
        assert_eq!(body.bytes.len(), 100 * 1024);
        assert_eq!((body.bytes[0], body.bytes[100 * 1024 - 1]), (0, 2));
        assert!(budget.used() >= REQUEST_BYTES + 100 * 1024);
        drop(body);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn what_is_held_is_not_more_than_its_room() {
        for sizes in [&[1, 1, 1][..], &[1000, 1, 70_000, 5], &[3, 0], &[0, 7]] {
            let budget = Budget::new(1 << 20);
            let body = collect(&budget, chunks(sizes), 200_000).await;
            let body = body.unwrap_or_else(|p| panic!("{p:?}"));
            assert_eq!(body.bytes.len(), sizes.iter().sum::<usize>());
            let held = Vec::from(body.bytes).capacity();
            assert!(budget.used() >= REQUEST_BYTES + held, "{sizes:?}: {held}");
        }
    }

    #[tokio::test]
    async fn bounds() {
        let budget = Budget::new(100 * 1024);
        let status = |result: Result<Buffered, Problem>| result.err().map(|p| p.status().as_u16());
        let full = |n: usize| Full::new(Bytes::from(vec![0; n]));
        assert_eq!(status(collect(&budget, full(11), 10).await), Some(413));
        assert_eq!(
            status(collect(&budget, chunks(&[6, 6]), 10).await),
            Some(413)
        );
        assert_eq!(status(collect(&budget, full(10), 10).await), None);
        assert_eq!(
            status(collect(&budget, full(90 * 1024), 1 << 20).await),
            Some(503)
        );
        assert_eq!(
            status(collect(&budget, chunks(&[70 << 10, 20 << 10]), 1 << 20).await),
            Some(503)
        );
        let held = budget.take_anyway(98 * 1024);
        assert_eq!(
            status(collect(&budget, full(1), 10).await),
            Some(503),
            "the request itself needs room"
        );
        drop(held);
        assert_eq!(budget.used(), 0);
    }
}
