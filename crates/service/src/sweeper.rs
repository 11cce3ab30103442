//! Forgets what is over, a bounded batch at a time.

use crate::api::App;
use crate::telemetry::store_time::StoreQuestion;
use idempotency_store::Swept;
use std::sync::Arc;
use std::time::Duration;

/// Sweeps until the server stops.
pub(crate) async fn run(app: Arc<App>, interval: Duration, batch: usize) {
    loop {
        let sweep = app
            .metrics
            .store
            .measure(StoreQuestion::Sweep, app.store.sweep(batch));
        let more = match sweep.await {
            Ok(swept) => {
                app.metrics.swept(&swept);
                let Swept {
                    expired,
                    lapsed,
                    slots,
                    ..
                } = swept;
                if slots > 0 {
                    tracing::debug!(expired, lapsed, slots, "swept");
                }
                swept.again()
            }
            Err(error) => {
                app.metrics.sweep_errors.inc();
                tracing::warn!(%error, "sweep failed");
                false
            }
        };
        if more {
            if app.stopping.is_cancelled() {
                return;
            }
            // Requests first.
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            () = app.stopping.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
    }
}
