//! Extractors of the JSON endpoints: who calls and from where, and parameters whose errors are problems.

use super::app::App;
use super::arrival::Arrival;
use super::problem::Problem;
use crate::auth::{Caller, Role};
use crate::peer::Address;
use axum::extract::{FromRequestParts, Query};
use http::request::Parts;
use serde::de::DeserializeOwned;
use std::sync::Arc;

fn check(role: Role, parts: &Parts, app: &App) -> Result<(Caller, Address), Problem> {
    // Every request that came through a listener has one.
    let Some(arrival) = parts.extensions.get::<Arrival>() else {
        return Err(Problem::internal("the request came from nowhere"));
    };
    Ok((app.check(role, arrival)?, arrival.from))
}

/// The caller is an operator; and where the request comes from.
pub(crate) struct Operator(pub Caller, pub Address);

impl FromRequestParts<Arc<App>> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Operator, Problem> {
        check(Role::Operator, parts, app).map(|(caller, from)| Operator(caller, from))
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
