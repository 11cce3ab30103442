//! `POST /v1/settle`: an upstream says how its own execution ended.

use super::app::App;
use super::body;
use super::guard::{Params, Upstream};
use super::model::{KeyQuery, ProblemDocument, Settled, State};
use super::problem::Problem;
use super::refusals::Unaccepted;
use crate::finish::Finish;
use crate::redact::log_id;
use crate::telemetry::labels::OpIndex;
use crate::telemetry::store_time::StoreQuestion;
use crate::telemetry::traces::OperationTrace;
use crate::validate;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::Json;
use bytes::Bytes;
use http::HeaderMap;
use idempotency_protocol::{
    Answer, Fault, FaultCode, Operation, Outcome, Settle, Settlement, StoredResponse,
};
use serde::Deserialize;
use std::sync::Arc;
use std::time::SystemTime;
use utoipa::{IntoParams, ToSchema};

/// Request headers that become headers of the stored response. The list is short on purpose:
/// everything else in the request is about this call, not about the answer to the client.
const STORED_HEADERS: [&str; 10] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-location",
    "content-type",
    "etag",
    "link",
    "location",
    "vary",
];

/// How an execution ended.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    /// It is done.
    Completed,
    /// It was provably not done.
    Failed,
}

/// Which execution, and how it ended.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SettleQuery {
    #[serde(flatten)]
    #[param(ignore)]
    key: KeyQuery,
    /// The fence that came with the execution.
    fence: u64,
    /// How it ended.
    #[param(inline)]
    outcome: Ended,
    /// Status to replay; needed with `completed`, meaningless with `failed`.
    #[param(minimum = 200, maximum = 599)]
    status: Option<u16>,
}

/// Settles an execution.
///
/// With `outcome=completed` the request's body is the body to replay, byte for byte, and these of
/// its headers are stored with it: cache-control, content-disposition, content-encoding,
/// content-language, content-location, content-type, etag, link, location, vary. With
/// `outcome=failed` a body is ignored. Settling twice with the same outcome gives the same answer.
#[utoipa::path(post, path = "/v1/settle", tag = "upstreams", params(KeyQuery, SettleQuery),
    request_body(content = Vec<u8>, content_type = "*/*",
        description = "The body to replay"),
    responses(
        (status = 200, description = "Settled", body = Settled),
        Unaccepted,
        (status = 409, description = "Not this execution's to settle (any more), or settled \
            otherwise before", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 413, description = "Body too large", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 503, description = "The store cannot answer; try again", body = ProblemDocument,
            content_type = "application/problem+json")))]
pub(crate) async fn settle(
    Shared(app): Shared<Arc<App>>,
    _: Upstream,
    Params(query): Params<SettleQuery>,
    headers: HeaderMap,
    request: Body,
) -> Result<Json<Settled>, Problem> {
    let body = body::read(&app, request, app.limits.max_body_bytes).await?;
    let settlement = match (query.outcome, query.status) {
        (Ended::Completed, Some(status)) => {
            Settlement::Completed(Outcome::Response(StoredResponse {
                status,
                headers: stored_headers(&headers),
                body: body.bytes,
            }))
        }
        (Ended::Completed, None) => {
            return Err(Problem::bad_request(
                "`status` is needed with outcome=completed",
            ))
        }
        (Ended::Failed, Some(_)) => {
            return Err(Problem::bad_request(
                "`status` means nothing with outcome=failed",
            ))
        }
        (Ended::Failed, None) => Settlement::Failed,
    };
    let operation = Operation::Settle(Settle {
        key: query.key.check()?,
        fence: query.fence,
        settlement,
    });
    validate::operation(&operation).map_err(Problem::bad_request)?;
    let permit = app
        .call_permit(true)
        .ok_or_else(|| Problem::overloaded("Too many calls at once."))?;
    let (index, id) = (OpIndex::of(&operation), log_id(operation.key()));
    let trace = match &app.traces {
        None => None,
        Some(_) => OperationTrace::begin(&headers, "settle", operation.key()),
    };
    let asked_at = trace.is_some().then(SystemTime::now);
    let (store, times) = (app.store.clone(), app.clone());
    let work = async move {
        let asked = StoreQuestion::Operation(index);
        let answers = times
            .metrics
            .store
            .measure(asked, store.apply(vec![operation]));
        let answers = answers.await;
        drop((permit, body.room));
        answers
    };
    let answer = Finish::new(work, &app.background)
        .await
        .pop()
        .unwrap_or_else(|| {
            let detail = "the store gave no answer".to_owned();
            Answer::Fault(Fault {
                code: FaultCode::Internal,
                detail,
            })
        });
    app.metrics.operation(index, &answer);
    if let Some(trace) = trace {
        let store_time = asked_at.map(|at| (at, SystemTime::now()));
        trace.end(&app, store_time, &answer, None);
    }
    tracing::debug!(key = %id, operation = "settle", answer = answer.name(), "operation");
    outcome(answer).map(Json)
}

fn stored_headers(headers: &HeaderMap) -> Vec<(Bytes, Bytes)> {
    headers
        .iter()
        .filter(|(name, _)| STORED_HEADERS.contains(&name.as_str()))
        .map(|(name, value)| {
            let name = Bytes::copy_from_slice(name.as_str().as_bytes());
            (name, Bytes::copy_from_slice(value.as_bytes()))
        })
        .collect()
}

fn outcome(answer: Answer) -> Result<Settled, Problem> {
    match answer {
        Answer::Completed { expires_at_ms } => Ok(Settled {
            state: State::Completed,
            expires_at_ms: Some(expires_at_ms),
        }),
        Answer::Failed => Ok(Settled {
            state: State::Failed,
            expires_at_ms: None,
        }),
        // This attempt was not done, but an earlier one may have been.
        Answer::Abandoned => Ok(Settled {
            state: State::Unknown,
            expires_at_ms: None,
        }),
        Answer::Differs => Err(Problem::conflict(
            "differs",
            "Settled otherwise before",
            "This execution has already stored another outcome; the first one stays.",
        )),
        Answer::Lost => Err(Problem::conflict(
            "lost",
            "Not this execution's to settle",
            "There is no record, or a newer execution holds the key.",
        )),
        Answer::Refused => Err(Problem::conflict(
            "refused",
            "Settled otherwise before",
            "The execution was already settled in another way.",
        )),
        Answer::Fault(fault) => Err(fault.into()),
        other => Err(Problem::internal(format!(
            "unexpected answer `{}`",
            other.name()
        ))),
    }
}
