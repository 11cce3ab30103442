//! Work that is finished even when nobody waits for its result any more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio_util::task::TaskTracker;

/// A future that goes on in the background when it is dropped early.
///
/// A gateway that hangs up in the middle of a `complete` must not cancel the write of the record.
/// Spawning every call would give the same promise, but would cost every call; this costs only
/// the calls that are cut off.
pub(crate) struct Finish<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    future: Option<Pin<Box<F>>>,
    tracker: TaskTracker,
}

impl<F> Finish<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    pub(crate) fn new(future: F, tracker: &TaskTracker) -> Finish<F> {
        Finish {
            future: Some(Box::pin(future)),
            tracker: tracker.clone(),
        }
    }
}

impl<F> Future for Finish<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = self.future.as_mut() else {
            return Poll::Pending;
        };
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => {
                self.future = None;
                Poll::Ready(output)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<F> Drop for Finish<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                self.tracker.spawn_on(future, &runtime);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::{oneshot, Notify};

    #[tokio::test]
    async fn goes_on_after_a_drop() {
        let tracker = TaskTracker::new();
        let (done, seen) = oneshot::channel();
        let gate = Arc::new(Notify::new());
        let waiting = gate.clone();
        let mut work = Finish::new(
            async move {
                waiting.notified().await;
                let _ = done.send(7);
            },
            &tracker,
        );
        tokio::select! {
            biased;
            () = &mut work => panic!("finished too early"),
            () = std::future::ready(()) => {}
        }
        drop(work);
        gate.notify_one();
        assert_eq!(seen.await, Ok(7));
        tracker.close();
        tracker.wait().await;
    }

    #[tokio::test]
    async fn spawns_nothing_when_it_ends_in_time() {
        let tracker = TaskTracker::new();
        assert_eq!(Finish::new(async { 3 }, &tracker).await, 3);
        assert!(tracker.is_empty());
    }
}
