//! Is it alive, is it ready, what has it done. No token needed.

use super::app::App;
use super::problem::Problem;
use crate::telemetry::metrics::Now;
use crate::telemetry::store_time::StoreQuestion;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use idempotency_store::{StoreError, Usage};
use std::sync::Arc;
use std::time::Duration;

/// A store that takes longer to say whether it is ready is not.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) async fn usage(app: &App) -> Result<Usage, StoreError> {
    let ready = app
        .metrics
        .store
        .measure(StoreQuestion::Ready, app.store.ready());
    tokio::time::timeout(PATIENCE, ready)
        .await
        .unwrap_or_else(|_| Err(StoreError::Transient("no answer in time".into())))
}

/// The process is alive.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()),
    responses((status = 200, description = "Alive", body = str, content_type = "text/plain")))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// The service can do its work now. A store above its high-water mark is ready: it refuses new
/// keys, but what was granted must still get through.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses(
        (status = 200, description = "Ready", body = str, content_type = "text/plain"),
        (status = 503, description = "Not ready; the detail says why",
            body = super::model::ProblemDocument, content_type = "application/problem+json")))]
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, Problem> {
    if app.stopping.is_cancelled() {
        return Err(Problem::unavailable("The service is stopping."));
    }
    match usage(&app).await {
        Ok(_) => Ok("ready\n"),
        // Also what will not pass by itself: it is mended elsewhere, and then passes.
        Err(error) => Err(Problem::unavailable(error.to_string())),
    }
}

/// Counters in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "health", security(()),
    responses((status = 200, description = "Metrics", body = str, content_type = "text/plain")))]
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let usage = usage(&app).await.ok();
    let census = app.census.newest();
    let loaded = app
        .tls
        .as_ref()
        .map(|tls| (tls.current(), tls.is_refusing()));
    let text = app.metrics.render(&Now {
        waits: app.store.waits(),
        held: app.budget.used(),
        usage: usage.as_ref(),
        census: census.as_deref(),
        keys: app.keys(),
        certificates: loaded
            .as_ref()
            .map(|(loaded, refusing)| (&**loaded, *refusing)),
    });
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response()
}
