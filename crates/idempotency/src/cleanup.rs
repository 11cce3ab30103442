//! Forgetting what is over.

use crate::guard::Guard;
use idempotency_store::{Store, Swept};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most records that one call to the store looks after.
const BATCH: usize = 1_000;

impl Guard {
    /// [`cleanup_job`] for this guard's store.
    pub fn cleanup_job(
        &self,
        interval: Duration,
        stop: impl Future + Send,
    ) -> impl Future<Output = ()> + Send {
        cleanup_job(Arc::clone(self.store()), interval, stop)
    }
}

/// Forgets records whose TTL is over, and turns executions whose lease is over into *unknown*, until `stop`
/// ends: spawn it. Each round works in batches of 1,000 until nothing is due, lets other work go first in
/// between, and writes one line with its counts. Rounds begin `interval` apart, give or take a tenth, so
/// that many processes do not all begin at once.
///
/// Results do not depend on it: what is over is over, swept or not. It frees space. Redis forgets by itself,
/// and a service (`remote`) sweeps its own store; there it does nothing.
///
/// ```
/// use idempotency::Guard;
/// use idempotency_store::Memory;
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let idem = Guard::new(Arc::new(Memory::default()));
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let job = tokio::spawn(idem.cleanup_job(Duration::from_secs(60), stopped));
/// // … at the end of the program:
/// drop(stop);
/// job.await.unwrap();
/// # }
/// ```
pub async fn cleanup_job(store: Arc<dyn Store>, interval: Duration, stop: impl Future + Send) {
    let rounds = async {
        loop {
            round(store.as_ref()).await;
            tokio::time::sleep(jittered(interval)).await;
        }
    };
    tokio::select! {
        biased;
        _ = stop => {}
        () = rounds => {}
    }
}

async fn round(store: &dyn Store) {
    let started = Instant::now();
    let mut total = Swept::default();
    let mut batches = 0_u64;
    let failed = loop {
        match store.sweep(BATCH).await {
            Ok(swept) => {
                batches += 1;
                total.expired += swept.expired;
                total.lapsed += swept.lapsed;
                // A batch that did nothing and still promises more would spin.
                if !swept.more || swept.expired + swept.lapsed == 0 {
                    break None;
                }
            }
            Err(error) => break Some(error),
        }
        tokio::task::yield_now().await;
    };
    let (expired, lapsed) = (total.expired, total.lapsed);
    let elapsed_ms = crate::operations::millis(started.elapsed());
    match failed {
        Some(error) => {
            tracing::warn!(expired, lapsed, batches, elapsed_ms, %error, "cleanup stopped early");
        }
        None if expired + lapsed > 0 => {
            tracing::info!(expired, lapsed, batches, elapsed_ms, "cleanup");
        }
        None => tracing::debug!(expired, lapsed, batches, elapsed_ms, "cleanup"),
    }
}

/// Between nine and eleven tenths.
fn jittered(interval: Duration) -> Duration {
    let mut byte = [128];
    // Without randomness, without jitter.
    let _ = getrandom::fill(&mut byte);
    let [byte] = byte;
    interval.mul_f64(0.9 + 0.2 * f64::from(byte) / 255.0)
}
