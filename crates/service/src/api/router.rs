//! Routes, their description, and the short way to the hot ones.

use super::app::App;
use super::arrival::Arrival;
use super::model::ProblemDocument;
use super::problem::Problem;
use super::rest::{self, Lent};
use super::{health, operations, records, resolve, settle, wait};
use crate::auth::Presented;
use crate::telemetry::refusals::AuthFailure;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use http::{header, HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use idempotency_protocol::{OPERATIONS_PATH, WAIT_PATH};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;
use tower_service::Service;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Idempotency service",
        description = "Locks idempotency keys, keeps and replays the outcomes of executions. \
            Gateways speak a binary protocol (`application/vnd.idempotency-gateway.v1`), which \
            the crate `idempotency-protocol` defines; upstreams and operators speak plain HTTP \
            and JSON. Errors are RFC 9457 problem documents. A request without a valid token is \
            answered only if it names a host that the service expects (else 421) and was not \
            sent by a page of another origin (else 403); health and metrics are exempt.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    tags(
        (name = "gateways", description = "Role `gateway`"),
        (name = "upstreams", description = "Role `upstream`"),
        (name = "operators", description = "Role `operator`"),
        (name = "health", description = "No token needed")
    ),
    security(("bearer" = [])),
    modifiers(&Bearer)
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "One of the tokens of the role that the operation's tag names.",
            ))
            .build();
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(call_operations))
        .routes(routes!(call_wait))
        .routes(routes!(settle::settle))
        .routes(routes!(records::inspect, resolve::delete))
        .routes(routes!(records::list))
        .routes(routes!(resolve::resolve))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}

/// The OpenAPI document, as pretty JSON with a final newline.
pub fn openapi() -> String {
    let document = routes().into_openapi();
    // Serialising this document cannot fail: its maps have text keys.
    let mut text = document.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// Sends one or more operations; each is answered on its own.
#[utoipa::path(post, path = "/v1/operations", tag = "gateways",
    request_body(content = Vec<u8>, content_type = "application/vnd.idempotency-gateway.v1",
        description = "Version, count, operations: acquire, complete, fail, abandon, extend. \
            Settle needs the upstream role, which may use this endpoint for nothing else."),
    responses(
        (status = 200, description = "One answer per operation, in order. In an answer to \
            several operations, replays that together exceed 1 MiB are `ask_alone`: ask for them \
            again in calls of their own.", body = Vec<u8>,
            content_type = "application/vnd.idempotency-gateway.v1"),
        (status = 400, description = "Not a protocol message", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 401, description = "No valid token", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 403, description = "A token of another role", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 413, description = "Body too large, or too many operations",
            body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "Another content type", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 503, description = "Too many calls at once", body = ProblemDocument,
            content_type = "application/problem+json")))]
async fn call_operations(
    State(app): State<Arc<App>>,
    Extension(arrival): Extension<Arrival>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    operations::call(&app, &headers, &arrival, body).await
}

/// Waits until the execution that an acquire met in flight has ended. Ends early when the client
/// leaves; never ends in a grant.
#[utoipa::path(post, path = "/v1/wait", tag = "gateways",
    request_body(content = Vec<u8>, content_type = "application/vnd.idempotency-gateway.v1",
        description = "Version, key, fingerprint, fence, longest wait."),
    responses(
        (status = 200, description = "One answer: stored, changed, timed out or fault",
            body = Vec<u8>, content_type = "application/vnd.idempotency-gateway.v1"),
        (status = 400, description = "Not a protocol message", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 401, description = "No valid token", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 403, description = "A token of another role", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 413, description = "Body too large", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 415, description = "Another content type", body = ProblemDocument,
            content_type = "application/problem+json")))]
async fn call_wait(
    State(app): State<Arc<App>>,
    Extension(arrival): Extension<Arrival>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    wait::call(&app, &headers, &arrival, body).await
}

/// Answers requests: the two binary endpoints directly, everything else through the router.
#[derive(Clone)]
pub(crate) struct Dispatch {
    app: Arc<App>,
    router: Router,
}

impl Dispatch {
    pub(crate) fn new(app: Arc<App>) -> Dispatch {
        let (router, _) = routes().split_for_parts();
        let router = router
            .fallback(|| async { Problem::not_found() })
            .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
            .with_state(app.clone());
        Dispatch { app, router }
    }

    /// Answers one request.
    pub(crate) async fn answer(&self, request: Request<Incoming>, arrival: Arrival) -> Response {
        let (request, rest) = rest::lend(request);
        let route = name(request.uri().path());
        let is_valid = arrival.presented.is_valid();
        if !is_valid && !OPEN_TO_PROBES.contains(&route) {
            if let Err(foreign) = self.app.expects(&request, &arrival) {
                drop(request);
                self.app.metrics.refusals.foreign(foreign);
                let response = self.finish(route, Err(foreign.into()));
                rest.discard(response.status()).await;
                return response;
            }
        }
        let response = self.look(request, &arrival).await;
        rest.discard(response.status()).await;
        match response.status() {
            StatusCode::FORBIDDEN if is_valid => self
                .app
                .metrics
                .refusals
                .auth_failed(AuthFailure::WrongRole),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !is_valid => {
                self.slow_down(&arrival, route).await;
            }
            _ => {}
        }
        response
    }

    /// A request without a valid token was refused. Its body is gone by now; only the refusal
    /// waits.
    async fn slow_down(&self, arrival: &Arrival, route: &'static str) {
        let failure = match arrival.presented {
            Presented::Nothing => AuthFailure::NoToken,
            _ => AuthFailure::UnknownToken,
        };
        self.app.metrics.refusals.auth_failed(failure);
        let verdict = self.app.throttle.failed(arrival.from, Instant::now());
        if let Some(not_logged) = verdict.log {
            tracing::warn!(
                from = %arrival.from,
                route,
                reason = failure.name(),
                not_logged,
                "authentication failed"
            );
        }
        if !verdict.delay.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(verdict.delay) => {}
                () = self.app.stopping.cancelled() => {}
            }
        }
    }

    async fn look(&self, request: Request<Lent>, arrival: &Arrival) -> Response {
        let path = request.uri().path();
        if request.method() == Method::POST && path == OPERATIONS_PATH {
            let (parts, body) = request.into_parts();
            let result = operations::call(&self.app, &parts.headers, arrival, body).await;
            return self.finish(OPERATIONS_PATH, result);
        }
        if request.method() == Method::POST && path == WAIT_PATH {
            let (parts, body) = request.into_parts();
            let result = wait::call(&self.app, &parts.headers, arrival, body).await;
            return self.finish(WAIT_PATH, result);
        }
        let route = name(path);
        let response = self.route(request, arrival.clone()).await;
        self.app.metrics.answered(route, response.status().as_u16());
        response
    }

    async fn route(&self, request: Request<Lent>, arrival: Arrival) -> Response {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(arrival);
        let mut router = self.router.clone();
        let answered: Result<Response, Infallible> =
            Service::<Request<Body>>::call(&mut router, request).await;
        let mut response = match answered {
            Ok(response) => response,
            Err(never) => match never {},
        };
        // A gateway that meets an answer without a length may lose its body; say it also where
        // the length is zero.
        let length = response.body().size_hint().exact();
        if let (Some(length), None) = (length, response.headers().get(header::CONTENT_LENGTH)) {
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        response
    }

    fn finish(&self, route: &'static str, result: Result<Response, Problem>) -> Response {
        match result {
            Ok(response) => {
                // Answers to operations are counted by the histogram of calls.
                if route != OPERATIONS_PATH {
                    self.app.metrics.answered(route, response.status().as_u16());
                }
                response
            }
            Err(problem) => {
                self.app.metrics.answered(route, problem.status().as_u16());
                tracing::debug!(route, problem = problem.name(), "refused");
                problem.into_response()
            }
        }
    }
}

/// Probes ask by the address of a pod, and show no token.
const OPEN_TO_PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The route's name in metrics: a closed set, whatever clients ask for.
fn name(path: &str) -> &'static str {
    const NAMES: [&str; 9] = [
        OPERATIONS_PATH,
        WAIT_PATH,
        "/v1/settle",
        "/v1/record",
        "/v1/records",
        "/v1/record/resolve",
        "/healthz",
        "/readyz",
        "/metrics",
    ];
    NAMES.into_iter().find(|n| *n == path).unwrap_or("other")
}
