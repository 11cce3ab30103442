//! Operators read records.

use super::app::App;
use super::guard::{Operator, Params};
use super::model::{self, KeyQuery, ProblemDocument, Record, Records, State};
use super::problem::Problem;
use crate::audit::{Asker, Entry};
use axum::extract::State as Shared;
use axum::Json;
use idempotency_store::ListFilter;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

/// Longest page.
const MAX_PAGE: usize = 1000;

/// Which record to read.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct InspectQuery {
    #[serde(flatten)]
    #[param(ignore)]
    key: KeyQuery,
    /// Why, for the audit log.
    #[param(max_length = 200)]
    reason: Option<String>,
}

/// Reads one record. The stored body is not part of it.
#[utoipa::path(get, path = "/v1/record", tag = "operators", params(KeyQuery, InspectQuery),
    responses(
        (status = 200, description = "The record", body = Record),
        (status = 400, description = "Bad parameters", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 401, description = "No valid token", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 403, description = "A token of another role", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 404, description = "No such key", body = ProblemDocument,
            content_type = "application/problem+json")))]
pub(crate) async fn inspect(
    Shared(app): Shared<Arc<App>>,
    Operator(caller, from): Operator,
    Params(query): Params<InspectQuery>,
) -> Result<Json<Record>, Problem> {
    let asker = Asker {
        who: caller.name,
        from,
        reason: model::reason(query.reason)?,
    };
    let key = query.key.check()?;
    let found = app.store.inspect(&key).await;
    let result = match &found {
        Ok(Some(_)) => "done",
        Ok(None) => "no-such-key",
        Err(_) => "store-error",
    };
    app.audit.write(Entry::inspect(&asker, &key), result).await;
    match found? {
        Some(view) => Ok(Json(view.into())),
        None => Err(Problem::no_such_key()),
    }
}

/// What to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only this tenant.
    tenant: Option<String>,
    /// Only this namespace.
    namespace: Option<String>,
    /// Only this state.
    #[param(inline)]
    state: Option<State>,
    /// Longest page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
    /// Where the previous page ended: its `next`.
    after: Option<String>,
    /// Why, for the audit log.
    #[param(max_length = 200)]
    reason: Option<String>,
}

/// Lists records, in key order, page by page.
#[utoipa::path(get, path = "/v1/records", tag = "operators", params(ListQuery),
    responses(
        (status = 200, description = "One page", body = Records),
        (status = 400, description = "Bad parameters", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 401, description = "No valid token", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 403, description = "A token of another role", body = ProblemDocument,
            content_type = "application/problem+json")))]
pub(crate) async fn list(
    Shared(app): Shared<Arc<App>>,
    Operator(caller, from): Operator,
    Params(query): Params<ListQuery>,
) -> Result<Json<Records>, Problem> {
    let asker = Asker {
        who: caller.name,
        from,
        reason: model::reason(query.reason)?,
    };
    let limit = query.limit.unwrap_or(100);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::bad_request(format!(
            "`limit` is between 1 and {MAX_PAGE}"
        )));
    }
    let after = query
        .after
        .map(hex::decode)
        .transpose()
        .map_err(|_| Problem::bad_request("`after` is not the `next` of a page"))?;
    let filter = ListFilter {
        tenant: query.tenant,
        namespace: query.namespace,
        state: query.state.map(Into::into),
        after,
        limit,
    };
    let entry = Entry::list(&asker, filter.tenant.as_deref());
    let page = app.store.list(filter).await;
    let result = if page.is_ok() { "done" } else { "store-error" };
    app.audit.write(entry, result).await;
    let page = page?;
    Ok(Json(Records {
        records: page.records.into_iter().map(Record::from).collect(),
        next: page.next.map(hex::encode),
    }))
}
