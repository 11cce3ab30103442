//! Futures that are mostly ready at once: what ends them early is made only when they have to wait.

use std::future::{poll_fn, Future};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{sleep, sleep_until, Instant};
use tokio_util::sync::CancellationToken;

/// The output of a future that waits no longer than this; `None`: it does.
pub(crate) async fn within<F: Future>(longest: Duration, future: F) -> Option<F::Output> {
    before(future, || sleep(longest)).await
}

/// The output of a future that is ready by then; `None`: it is not.
pub(crate) async fn until<F: Future>(end: Instant, future: F) -> Option<F::Output> {
    before(future, || sleep_until(end)).await
}

/// The output of a future that ends before the token is cancelled; `None`: it does not.
pub(crate) async fn unless_cut<F: Future>(cut: &CancellationToken, future: F) -> Option<F::Output> {
    if cut.is_cancelled() {
        return None;
    }
    before(future, || cut.cancelled()).await
}

/// The output of the first future, unless the other one, which is made when the first one waits, is ready before.
async fn before<F, E>(future: F, end: impl FnOnce() -> E) -> Option<F::Output>
where
    F: Future,
    E: Future<Output = ()>,
{
    let mut future = pin!(future);
    let (mut make, mut end) = (Some(end), pin!(None));
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if let Some(make) = make.take() {
            end.set(Some(make()));
        }
        match end.as_mut().as_pin_mut() {
            Some(end) => end.poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}
