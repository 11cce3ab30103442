//! Operators read records.

use super::app::App;
use super::guard::{Operator, Params};
use super::model::{self, KeyQuery, Record, Records, State, StoredAnswer};
use super::problem::Problem;
use super::refusals::{NoRecord, Unaccepted};
use crate::audit::{Asker, Entry};
use crate::telemetry::store_time::StoreQuestion;
use axum::extract::State as Shared;
use axum::Json;
use idempotency_store::search::{self, Search};
use idempotency_store::{ListFilter, StoreError};
use serde::Deserialize;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use utoipa::{IntoParams, ToSchema};

/// Length of a page that nobody asked otherwise.
const DEFAULT_PAGE: usize = 100;

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
        Unaccepted,
        NoRecord))]
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
    let found = app.store.inspect(&key);
    let found = app
        .metrics
        .store
        .measure(StoreQuestion::Inspect, found)
        .await;
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

/// What to list. A record is listed if it has everything that is given.
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
    /// Exactly this key; over all tenants, if none is given.
    key: Option<String>,
    /// Keys that begin like this.
    key_prefix: Option<String>,
    /// The id by which logs name the key: twelve hexadecimal digits.
    log_id: Option<String>,
    /// The id of the request of the newest execution.
    request_id: Option<String>,
    /// The trace id of the newest execution.
    trace_id: Option<String>,
    /// One of: the beginning of the key, its log id, its request id, or its trace id.
    q: Option<String>,
    /// The path of the newest execution; with a `*` at its end, paths that begin like this.
    path: Option<String>,
    /// The rule of the newest execution.
    rule: Option<String>,
    /// At least so long in its state, in milliseconds, by the service's clock.
    min_age_ms: Option<u64>,
    /// At most so long in its state, in milliseconds, by the service's clock.
    max_age_ms: Option<u64>,
    /// In its state since this time or earlier, milliseconds since the Unix epoch.
    changed_until_ms: Option<u64>,
    /// In its state since this time or later, milliseconds since the Unix epoch.
    changed_from_ms: Option<u64>,
    /// By the time since when it is in its state. Looks at up to 200,000 records before it answers.
    #[param(inline)]
    sort: Option<Sort>,
    /// Longest page. It may be shorter, even empty, although there is more: see `next`.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
    /// Where the previous page ended: its `next`, with everything else as it was then.
    after: Option<String>,
    /// Why, for the audit log.
    #[param(max_length = 200)]
    reason: Option<String>,
}

/// An order of records.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sort {
    /// The longest in its state first.
    Oldest,
    /// The shortest in its state first.
    Newest,
}

/// Most records that a sorted list looks at.
const MAX_SORTED: usize = 200_000;

impl ListQuery {
    /// By what is looked for, for the audit log. Of what was given only the names: it may be a secret.
    fn by(&self) -> Vec<&'static str> {
        let given = [
            ("namespace", self.namespace.is_some()),
            ("state", self.state.is_some()),
            ("key", self.key.is_some()),
            ("key_prefix", self.key_prefix.is_some()),
            ("log_id", self.log_id.is_some()),
            ("request_id", self.request_id.is_some()),
            ("trace_id", self.trace_id.is_some()),
            ("q", self.q.is_some()),
            ("path", self.path.is_some()),
            ("rule", self.rule.is_some()),
            ("min_age_ms", self.min_age_ms.is_some()),
            ("max_age_ms", self.max_age_ms.is_some()),
            ("changed_until_ms", self.changed_until_ms.is_some()),
            ("changed_from_ms", self.changed_from_ms.is_some()),
        ];
        let given = given.into_iter();
        given.filter(|(_, is)| *is).map(|(name, _)| name).collect()
    }

    /// Without what only a search understands: the list of the first releases, in the order of the keys.
    fn is_plain(&self) -> bool {
        self.sort.is_none()
            && self
                .by()
                .iter()
                .all(|by| ["namespace", "state"].contains(by))
    }

    fn search(self, after: Option<Vec<u8>>, limit: usize) -> Search {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        let ago = |age_ms| now.saturating_sub(age_ms);
        Search {
            tenant: self.tenant,
            namespace: self.namespace,
            key: self.key,
            key_prefix: self.key_prefix,
            log_id: self.log_id.map(|id| id.to_ascii_lowercase()),
            request_id: self.request_id,
            trace_id: self.trace_id,
            text: self.q,
            state: self.state.map(Into::into),
            path: self.path,
            rule: self.rule,
            changed_until_ms: self.min_age_ms.map(ago).or(self.changed_until_ms),
            changed_from_ms: self.max_age_ms.map(ago).or(self.changed_from_ms),
            after,
            limit,
        }
    }
}

async fn find(app: &App, query: ListQuery, after: Option<Vec<u8>>) -> Result<Records, StoreError> {
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    let views = |records: Vec<_>| records.into_iter().map(Record::from).collect();
    if query.is_plain() {
        let filter = ListFilter {
            tenant: query.tenant,
            namespace: query.namespace,
            state: query.state.map(Into::into),
            after,
            limit,
        };
        let page = app.store.list(filter);
        let page = app.metrics.store.measure(StoreQuestion::List, page).await?;
        return Ok(Records {
            records: views(page.records),
            next: page.next.map(hex::encode),
            looked_at: None,
            incomplete: false,
        });
    }
    let sort = query.sort;
    let search = query.search(after, limit);
    let store = app.store.as_ref();
    let times = &app.metrics.store;
    let found = match sort {
        None => {
            let found = times
                .measure(StoreQuestion::Search, store.search(search))
                .await?;
            return Ok(Records {
                records: views(found.records),
                next: found.next.map(hex::encode),
                looked_at: Some(found.looked_at),
                incomplete: false,
            });
        }
        Some(Sort::Oldest) => {
            let found = search::oldest_first(store, search, MAX_SORTED);
            times.measure(StoreQuestion::Search, found).await?
        }
        Some(Sort::Newest) => {
            let found = search::newest_first(store, search, MAX_SORTED);
            times.measure(StoreQuestion::Search, found).await?
        }
    };
    Ok(Records {
        records: views(found.records),
        next: found.next.map(hex::encode),
        looked_at: Some(found.looked_at),
        incomplete: !found.is_complete,
    })
}

/// Lists records page by page, and searches them. In the order of their keys; where more is asked for than a
/// tenant, a namespace and a state, in the order in which the store goes through them.
#[utoipa::path(get, path = "/v1/records", tag = "operators", params(ListQuery),
    responses(
        (status = 200, description = "One page", body = Records),
        Unaccepted))]
pub(crate) async fn list(
    Shared(app): Shared<Arc<App>>,
    Operator(caller, from): Operator,
    Params(query): Params<ListQuery>,
) -> Result<Json<Records>, Problem> {
    let asker = Asker {
        who: caller.name,
        from,
        reason: model::reason(query.reason.clone())?,
    };
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::bad_request(format!(
            "`limit` is between 1 and {MAX_PAGE}"
        )));
    }
    let senseless = || Problem::bad_request("`after` is not the `next` of a page");
    let after = query.after.as_deref().map(hex::decode).transpose();
    let after = after.map_err(|_| senseless())?;
    let entry = Entry::list(&asker, query.tenant.as_deref(), &query.by());
    let has_place = after.is_some();
    let page = find(&app, query, after).await;
    let result = if page.is_ok() { "done" } else { "store-error" };
    app.audit.write(entry, result).await;
    match page {
        // What was handed in is no place of this search.
        Err(StoreError::Permanent(why)) if has_place && why.starts_with(search::NO_PLACE) => {
            Err(senseless())
        }
        page => Ok(Json(page?)),
    }
}

/// Which stored answer to read.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AnswerQuery {
    #[serde(flatten)]
    #[param(ignore)]
    key: KeyQuery,
    /// Why, for the audit log.
    #[param(max_length = 200)]
    reason: Option<String>,
}

/// Reads the stored answer of a completed record, which is replayed: it may hold a customer's data.
#[utoipa::path(get, path = "/v1/record/answer", tag = "operators", params(KeyQuery, AnswerQuery),
    responses(
        (status = 200, description = "What is replayed", body = StoredAnswer),
        Unaccepted,
        NoRecord))]
pub(crate) async fn answer(
    Shared(app): Shared<Arc<App>>,
    Operator(caller, from): Operator,
    Params(query): Params<AnswerQuery>,
) -> Result<Json<StoredAnswer>, Problem> {
    let asker = Asker {
        who: caller.name,
        from,
        reason: model::reason(query.reason)?,
    };
    let key = query.key.check()?;
    let found = app.store.stored(&key);
    let found = app
        .metrics
        .store
        .measure(StoreQuestion::Stored, found)
        .await;
    let result = match &found {
        Ok(Some(_)) => "done",
        Ok(None) => "nothing-stored",
        Err(_) => "store-error",
    };
    app.audit.write(Entry::answer(&asker, &key), result).await;
    match found? {
        Some(outcome) => Ok(Json(outcome.into())),
        None => Err(Problem::nothing_stored()),
    }
}
