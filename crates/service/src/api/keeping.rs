//! How the records are kept: sealing them anew, and having what was deleted leave the files.

use super::app::App;
use super::guard::{Operator, Params};
use super::model;
use super::problem::Problem;
use super::refusals::Unaccepted;
use crate::audit::{Asker, Entry};
use axum::extract::State;
use axum::Json;
use idempotency_store::search::NO_PLACE;
use idempotency_store::{Rewrap, StoreError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Records of one batch, unless another number is asked for.
const BATCH: usize = 200;
const MAX_BATCH: usize = 1_000;

/// One batch of a rewrap.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RewrapQuery {
    /// Where the previous batch ended: its `next`.
    after: Option<String>,
    /// Most records that are looked at.
    #[param(minimum = 1, maximum = 1000, default = 200)]
    limit: Option<usize>,
    /// Why, for the audit log.
    #[param(max_length = 200)]
    reason: Option<String>,
}

/// What a batch of a rewrap did.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RewrapAnswer {
    /// Records that were looked at.
    pub looked_at: usize,
    /// Records that are sealed with the newest key now, and were not before.
    pub rewrapped: usize,
    /// How many of them were in clear.
    pub in_clear: usize,
    /// Records that changed meanwhile, or that a transaction holds: for another pass.
    pub busy: usize,
    /// Records that cannot be opened: their key is missing, or they are damaged.
    pub unreadable: usize,
    /// Pass as `after` to go on; absent: the pass is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Seals a batch of records with the newest key: those of older keys, and those in clear.
#[utoipa::path(post, path = "/v1/records/rewrap", tag = "operators", params(RewrapQuery),
    responses(
        (status = 200, description = "What was done", body = RewrapAnswer),
        Unaccepted))]
pub(crate) async fn rewrap(
    State(app): State<Arc<App>>,
    Operator(caller, from): Operator,
    Params(query): Params<RewrapQuery>,
) -> Result<Json<RewrapAnswer>, Problem> {
    let limit = query.limit.unwrap_or(BATCH);
    if !(1..=MAX_BATCH).contains(&limit) {
        return Err(Problem::bad_request("`limit` is between 1 and 1000"));
    }
    if !app.is_encrypted() {
        return Err(Problem::bad_request("the records are not encrypted"));
    }
    let after = query.after.as_deref().map(hex::decode).transpose();
    let after = after.map_err(|_| Problem::bad_request("`after` is no place in a pass"))?;
    let asker = Asker {
        who: caller.name,
        from,
        reason: model::reason(query.reason)?,
    };
    // One line for each pass.
    let entry = after.is_none().then(|| Entry::rewrap(&asker));
    let rewrapped = app.store.rewrap(Rewrap { after, limit }).await;
    if let Some(entry) = entry {
        let result = if rewrapped.is_ok() {
            "begun"
        } else {
            "store-error"
        };
        app.audit.write(entry, result).await;
    }
    let done = rewrapped.map_err(|error| match &error {
        StoreError::Permanent(message) if message.starts_with(NO_PLACE) => {
            Problem::bad_request("`after` is no place in a pass")
        }
        _ => error.into(),
    })?;
    Ok(Json(RewrapAnswer {
        looked_at: done.looked_at,
        rewrapped: done.rewrapped,
        in_clear: done.in_clear,
        busy: done.busy,
        unreadable: done.unreadable,
        next: done.next.map(hex::encode),
    }))
}

/// Why the files are to be compacted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ScrubQuery {
    /// Why, for the audit log.
    #[param(max_length = 200)]
    reason: Option<String>,
}

/// Whether the files were compacted.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ScrubAnswer {
    /// True: what was deleted is in no file of the store any more. False: the files are another server's, which has
    /// its own ways and times.
    pub scrubbed: bool,
}

/// Has what was deleted leave the files of an embedded store.
#[utoipa::path(post, path = "/v1/records/scrub", tag = "operators", params(ScrubQuery),
    responses(
        (status = 200, description = "Done, or not the service's to do", body = ScrubAnswer),
        Unaccepted))]
pub(crate) async fn scrub(
    State(app): State<Arc<App>>,
    Operator(caller, from): Operator,
    Params(query): Params<ScrubQuery>,
) -> Result<Json<ScrubAnswer>, Problem> {
    let asker = Asker {
        who: caller.name,
        from,
        reason: model::reason(query.reason)?,
    };
    let scrubbed = app.store.scrub().await;
    let result = match &scrubbed {
        Ok(true) => "done",
        Ok(false) => "not-ours",
        Err(_) => "store-error",
    };
    app.audit.write(Entry::scrub(&asker), result).await;
    Ok(Json(ScrubAnswer {
        scrubbed: scrubbed?,
    }))
}
