//! `POST /v1/wait`: waits for the end of somebody else's execution.

use super::app::App;
use super::arrival::Arrival;
use super::body;
use super::operations::{is_message, message};
use super::problem::Problem;
use crate::auth::Role;
use crate::telemetry::traces::OperationTrace;
use crate::validate;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;
use idempotency_protocol::{Answer, Wait};
use std::sync::Arc;
use std::time::Duration;

/// Largest message: a key and its scope, generously.
const MAX_BYTES: usize = 256 * 1024;
/// How much longer than asked the store may take before the service answers in its place.
const GRACE: Duration = Duration::from_secs(1);

/// Answers a wait. When the client leaves, the server drops this future, and the wait with it.
///
/// Over a cap, which the store keeps, or when the server stops, the answer is `TimedOut` at once: for the client that
/// is a 409 with `Retry-After`. An HTTP error could be taken for a failure of the store, which a
/// gateway may be told to ignore.
pub(crate) async fn call<B>(
    app: &Arc<App>,
    headers: &HeaderMap,
    arrival: &Arrival,
    request: B,
) -> Result<Response, Problem>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    is_message(headers)?;
    app.check(Role::Gateway, arrival)?;
    let body = body::read(app, request, MAX_BYTES).await?;
    let (revision, mut wait) =
        Wait::decode(body.bytes).map_err(|e| Problem::bad_message(e.to_string()))?;
    validate::key(&wait.key).map_err(Problem::bad_message)?;
    let max = u64::try_from(app.limits.max_wait.as_millis()).unwrap_or(u64::MAX);
    wait.wait_ms = wait.wait_ms.min(max);
    let trace = match &app.traces {
        None => None,
        Some(_) => OperationTrace::begin(headers, "wait", &wait.key),
    };
    let longest = Duration::from_millis(wait.wait_ms) + GRACE;
    let answer = tokio::select! {
        biased;
        () = app.stopping.cancelled() => Answer::TimedOut,
        answer = tokio::time::timeout(longest, app.store.wait(wait)) => {
            answer.unwrap_or(Answer::TimedOut)
        }
    };
    app.metrics.wait(&answer);
    if let Some(trace) = trace {
        trace.end(app, None, &answer, None);
    }
    Ok(message(vec![answer], revision))
}
