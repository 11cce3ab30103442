//! Operators change records: compare-and-set on the version, and audited.

use super::app::App;
use super::body;
use super::guard::{Operator, Params};
use super::model::{self, Deleted, KeyQuery, Record, ResolveRequest, ResolveTo};
use super::problem::Problem;
use super::refusals::{NoRecord, Unaccepted, Unchanged};
use crate::audit::{Asker, Entry};
use crate::telemetry::store_time::StoreQuestion;
use crate::validate;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::Json;
use bytes::Bytes;
use idempotency_protocol::{Outcome, StoredResponse, Tombstone, TombstoneReason};
use idempotency_store::{RecordView, Resolution, Resolve, Resolved, StoreError};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

/// Headers that a replay must not carry, whatever stored them.
const NEVER_STORED: [&str; 14] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "date",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Sets a record to completed or failed.
#[utoipa::path(post, path = "/v1/record/resolve", tag = "operators",
    request_body = ResolveRequest,
    responses(
        (status = 200, description = "The record as it is now", body = Record),
        Unaccepted,
        NoRecord,
        Unchanged))]
pub(crate) async fn resolve(
    Shared(app): Shared<Arc<App>>,
    Operator(caller, from): Operator,
    request: Body,
) -> Result<Json<Record>, Problem> {
    let body = body::read(&app, request, app.limits.max_body_bytes).await?;
    let mut source = serde_json::Deserializer::from_slice(&body.bytes);
    let request: ResolveRequest = serde_path_to_error::deserialize(&mut source)
        .map_err(|e| Problem::bad_request(e.to_string()))?;
    source
        .end()
        .map_err(|e| Problem::bad_request(e.to_string()))?;
    let reason = model::reason(request.reason.clone())?;
    let (key, version, to, force) = request.split();
    let resolve = Resolve {
        key: key.check()?,
        version,
        to: resolution(to)?,
        force,
    };
    let asker = Asker {
        who: caller.name,
        from,
        reason,
    };
    match changed(change(&app, &asker, resolve).await?)? {
        Some(view) => Ok(Json(view.into())),
        None => Err(Problem::internal("the store did not return the record")),
    }
}

/// Which record to delete.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeleteQuery {
    #[serde(flatten)]
    #[param(ignore)]
    key: KeyQuery,
    /// The version that the operator saw.
    version: u64,
    /// Also while an execution holds a live lease.
    #[serde(default)]
    #[param(default = false)]
    force: bool,
    /// Why, for the audit log.
    #[param(max_length = 200)]
    reason: Option<String>,
}

/// Forgets a record: the next request with this key executes.
#[utoipa::path(delete, path = "/v1/record", tag = "operators", params(KeyQuery, DeleteQuery),
    responses(
        (status = 200, description = "Forgotten", body = Deleted),
        Unaccepted,
        NoRecord,
        Unchanged))]
pub(crate) async fn delete(
    Shared(app): Shared<Arc<App>>,
    Operator(caller, from): Operator,
    Params(query): Params<DeleteQuery>,
) -> Result<Json<Deleted>, Problem> {
    let asker = Asker {
        who: caller.name,
        from,
        reason: model::reason(query.reason)?,
    };
    let resolve = Resolve {
        key: query.key.check()?,
        version: query.version,
        to: Resolution::Deleted,
        force: query.force,
    };
    changed(change(&app, &asker, resolve).await?)?;
    Ok(Json(Deleted { deleted: true }))
}

/// What a change sets the record to, within the bounds of the store.
pub(crate) fn resolution(to: ResolveTo) -> Result<Resolution, Problem> {
    let outcome = match to {
        ResolveTo::Failed {} => return Ok(Resolution::Failed),
        ResolveTo::Completed {
            headers,
            body,
            tombstone: true,
            ..
        } if !headers.is_empty() || !body.is_empty() => {
            return Err(Problem::bad_request(
                "to: a tombstone has no headers and no body",
            ));
        }
        ResolveTo::Completed {
            status,
            tombstone: true,
            ..
        } => Outcome::Tombstone(Tombstone {
            status,
            reason: TombstoneReason::NotStorable,
        }),
        ResolveTo::Completed {
            status,
            headers,
            body,
            tombstone: false,
        } => {
            let mut stored = Vec::with_capacity(headers.len());
            for (name, value) in headers {
                let name = name.to_ascii_lowercase();
                if NEVER_STORED.contains(&name.as_str()) {
                    let detail = format!("to.headers: `{name}` is never stored");
                    return Err(Problem::bad_request(detail));
                }
                stored.push((Bytes::from(name), Bytes::from(value)));
            }
            Outcome::Response(StoredResponse {
                status,
                headers: stored,
                body: body.into(),
            })
        }
    };
    validate::outcome(&outcome).map_err(|e| Problem::bad_request(format!("to: {e}")))?;
    Ok(Resolution::Completed(outcome))
}

/// Makes the change, and writes down who wanted it and what became of it.
pub(crate) async fn change(
    app: &App,
    asker: &Asker,
    resolve: Resolve,
) -> Result<Resolved, StoreError> {
    app.metrics.operator_changes.inc();
    let entry = Entry::change(asker, &resolve);
    let resolved = app.store.resolve(resolve);
    let resolved = app
        .metrics
        .store
        .measure(StoreQuestion::Resolve, resolved)
        .await;
    let result = match &resolved {
        Ok(Resolved::Done(_)) => "done",
        Ok(Resolved::NoSuchKey) => "no-such-key",
        Ok(Resolved::VersionChanged(_)) => "version-changed",
        Ok(Resolved::Executing(_)) => "executing",
        Err(_) => "store-error",
    };
    app.audit.write(entry, result).await;
    resolved
}

/// The record as it is after a change.
fn changed(resolved: Resolved) -> Result<Option<RecordView>, Problem> {
    match resolved {
        Resolved::Done(view) => Ok(view),
        Resolved::NoSuchKey => Err(Problem::no_such_key()),
        Resolved::VersionChanged(view) => Err(Problem::version_changed(json(view))),
        Resolved::Executing(view) => Err(Problem::executing(json(view))),
    }
}

fn json(view: RecordView) -> serde_json::Value {
    serde_json::to_value(Record::from(view)).unwrap_or_default()
}
