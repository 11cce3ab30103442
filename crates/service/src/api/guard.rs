//! Extractors of the JSON endpoints: who calls, and parameters whose errors are problems.

use super::app::App;
use super::problem::Problem;
use super::router::Local;
use crate::auth::{Caller, Role};
use axum::extract::{FromRequestParts, Query};
use http::request::Parts;
use serde::de::DeserializeOwned;
use std::sync::Arc;

fn check(role: Role, parts: &Parts, app: &App) -> Result<Caller, Problem> {
    // A request that did not come through a listener is not local.
    let local = parts.extensions.get::<Local>().is_some_and(|l| l.0);
    Ok(app.check(role, &parts.headers, local)?)
}

/// The caller is an operator.
pub(crate) struct Operator(pub Caller);

impl FromRequestParts<Arc<App>> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Operator, Problem> {
        check(Role::Operator, parts, app).map(Operator)
    }
}

/// The caller is an upstream.
pub(crate) struct Upstream;

impl FromRequestParts<Arc<App>> for Upstream {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Upstream, Problem> {
        check(Role::Upstream, parts, app).map(|_| Upstream)
    }
}

/// Query parameters.
pub(crate) struct Params<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<App>> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Params<T>, Problem> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(params)| Params(params))
            .map_err(|e| Problem::bad_request(e.body_text()))
    }
}
