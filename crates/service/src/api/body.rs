//! Reading a request's body: once, into one piece, within bounds of size, time and memory.

use super::app::App;
use super::problem::Problem;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies up to this size take nothing from the common budget: the number of connections bounds
/// them well enough, and nearly every call is smaller.
const FREE_BYTES: usize = 64 * 1024;

/// A body, and the room that it takes in the budget until it is dropped.
pub(crate) struct Buffered {
    pub bytes: Bytes,
    pub room: Option<OwnedSemaphorePermit>,
}

/// Reads the body, at most `max` bytes.
pub(crate) async fn read<B>(app: &App, body: B, max: usize) -> Result<Buffered, Problem>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    match tokio::time::timeout(app.limits.body_timeout, collect(&app.buffered, body, max)).await {
        Ok(result) => result,
        Err(_) => Err(Problem::body_timeout()),
    }
}

async fn collect<B>(budget: &Arc<Semaphore>, mut body: B, max: usize) -> Result<Buffered, Problem>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let too_large = || Problem::too_large(format!("The body is over {max} bytes."));
    let announced = body.size_hint().lower();
    if announced > max as u64 {
        return Err(too_large());
    }
    // The announced size is reserved at once, so that many slow bodies cannot promise more
    // memory than there is.
    let mut room = None;
    reserve(budget, &mut room, usize::try_from(announced).unwrap_or(max))?;
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::bad_request("The body was cut off."))?;
        // Trailers mean nothing here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let held = rest.as_ref().map_or(first.len(), BytesMut::len);
        let total = held.saturating_add(data.len());
        if total > max {
            return Err(too_large());
        }
        reserve(budget, &mut room, total)?;
        match &mut rest {
            Some(rest) => rest.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let hint = usize::try_from(announced).unwrap_or(max);
                let mut joined = BytesMut::with_capacity(hint.max(total));
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&data);
                rest = Some(joined);
            }
        }
    }
    Ok(Buffered {
        bytes: rest.map_or(first, BytesMut::freeze),
        room,
    })
}

/// Makes `room` cover `bytes`.
fn reserve(
    budget: &Arc<Semaphore>,
    room: &mut Option<OwnedSemaphorePermit>,
    bytes: usize,
) -> Result<(), Problem> {
    if bytes <= FREE_BYTES {
        return Ok(());
    }
    let held = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let missing = bytes.div_ceil(1024).saturating_sub(held);
    if missing == 0 {
        return Ok(());
    }
    let full = || Problem::overloaded("Too many large bodies at once.");
    let missing = u32::try_from(missing).map_err(|_| full())?;
    let more = budget
        .clone()
        .try_acquire_many_owned(missing)
        .map_err(|_| full())?;
    match room {
        Some(room) => room.merge(more),
        None => *room = Some(more),
    }
    Ok(())
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
        let budget = Arc::new(Semaphore::new(200));
        let body = collect(&budget, chunks(&[50 * 1024, 0, 50 * 1024]), 1 << 20).await;
        let body = body.unwrap_or_else(|p| panic!("{p:?}"));
        assert_eq!(body.bytes.len(), 100 * 1024);
        assert_eq!((body.bytes[0], body.bytes[100 * 1024 - 1]), (0, 2));
        assert_eq!(budget.available_permits(), 100);
        drop(body);
        assert_eq!(budget.available_permits(), 200);
    }

    #[tokio::test]
    async fn bounds() {
        let budget = Arc::new(Semaphore::new(80));
        let status = |result: Result<Buffered, Problem>| result.err().map(|p| p.status().as_u16());
        let full = |n: usize| Full::new(Bytes::from(vec![0; n]));
        assert_eq!(status(collect(&budget, full(11), 10).await), Some(413));
        assert_eq!(
            status(collect(&budget, chunks(&[6, 6]), 10).await),
            Some(413)
        );
        assert_eq!(status(collect(&budget, full(10), 10).await), None);
        assert_eq!(
            status(collect(&budget, full(81 * 1024), 1 << 20).await),
            Some(503)
        );
        assert_eq!(
            status(collect(&budget, chunks(&[70 << 10, 20 << 10]), 1 << 20).await),
            Some(503)
        );
        assert_eq!(budget.available_permits(), 80);
    }
}
