//! Routes, their description, and the short way to the hot ones.

use super::app::App;
use super::arrival::Arrival;
use super::model::ProblemDocument;
use super::problem::Problem;
use super::rest::{self, Lent};
use super::{health, keeping, operations, records, resolve, settle, wait};
use crate::auth::Presented;
use crate::telemetry::refusals::AuthFailure;
use crate::ui;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use http::{header, HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use idempotency_protocol::{OPERATIONS_PATH, WAIT_PATH};
use std::convert::Infallible;
use std::sync::Arc;
use tower_service::Service;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

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
    paths(
        call_operations,
        call_wait,
        settle::settle,
        records::inspect,
        records::list,
        records::answer,
        resolve::delete,
        resolve::resolve,
        keeping::rewrap,
        keeping::scrub,
        health::healthz,
        health::readyz,
        health::metrics,
    ),
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

/// What [`Description`] describes.
fn routes() -> Router<Arc<App>> {
    Router::new()
        .route(OPERATIONS_PATH, post(call_operations))
        .route(WAIT_PATH, post(call_wait))
        .route("/v1/settle", post(settle::settle))
        .route("/v1/record", get(records::inspect).delete(resolve::delete))
        .route("/v1/records", get(records::list))
        .route("/v1/record/answer", get(records::answer))
        .route("/v1/record/resolve", post(resolve::resolve))
        .route("/v1/records/rewrap", post(keeping::rewrap))
        .route("/v1/records/scrub", post(keeping::scrub))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
}

/// The OpenAPI document, as pretty JSON with a final newline.
pub fn openapi() -> String {
    // Serialising this document cannot fail: its maps have text keys.
    let mut text = Description::openapi().to_pretty_json().unwrap_or_default();
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
    /// The operators' page.
    page: Router,
}

impl Dispatch {
    pub(crate) fn new(app: Arc<App>) -> Dispatch {
        let router = routes()
            .fallback(|| async { Problem::not_found() })
            .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
            .with_state(app.clone());
        Dispatch {
            page: ui::router(app.clone()),
            app,
            router,
        }
    }

    /// Answers one request.
    pub(crate) async fn answer(&self, request: Request<Incoming>, arrival: Arrival) -> Response {
        let (request, rest) = rest::lend(request);
        if arrival.page {
            let response = through(&self.page, request, arrival).await;
            self.app.metrics.answered("/ui", response.status().as_u16());
            rest.discard(response.status()).await;
            return response;
        }
        let route = name(request.uri().path());
        let is_valid = arrival.presented.is_valid();
        // What may do nothing in any case is told why.
        let is_stranger = !is_valid && !arrival.presented.is_hopeless();
        if is_stranger && !OPEN_TO_PROBES.contains(&route) {
            if let Err(foreign) = self.app.expects(&request, &arrival) {
                drop(request);
                self.app.metrics.refusals.foreign(foreign);
                let response = self.finish(&arrival, route, Err(foreign.into()));
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
            Presented::Unknown | Presented::Known(..) => AuthFailure::UnknownToken,
            Presented::NoCertificate => AuthFailure::NoCertificate,
            Presented::Ended(_) => AuthFailure::CertificateExpired,
            Presented::NoRole(_) => AuthFailure::CertificateWithoutRole,
            Presented::Mixed { .. } => AuthFailure::CertificateAndToken,
        };
        self.app.refuse(arrival, route, failure).await;
    }

    async fn look(&self, request: Request<Lent>, arrival: &Arrival) -> Response {
        let path = request.uri().path();
        if request.method() == Method::POST && path == OPERATIONS_PATH {
            let (parts, body) = request.into_parts();
            let result = operations::call(&self.app, &parts.headers, arrival, body).await;
            return self.finish(arrival, OPERATIONS_PATH, result);
        }
        if request.method() == Method::POST && path == WAIT_PATH {
            let (parts, body) = request.into_parts();
            let result = wait::call(&self.app, &parts.headers, arrival, body).await;
            return self.finish(arrival, WAIT_PATH, result);
        }
        let route = name(path);
        let response = through(&self.router, request, arrival.clone()).await;
        self.app.metrics.answered(route, response.status().as_u16());
        if response.status() == StatusCode::FORBIDDEN {
            self.refused(arrival, route, "forbidden");
        }
        response
    }

    /// One line about a request that was not done, with its peer; what repeats is folded.
    fn refused(&self, arrival: &Arrival, route: &'static str, problem: &'static str) {
        let from = arrival.from;
        if let Some(unsaid) = self.app.refused.say(problem) {
            tracing::info!(%from, route, problem, unsaid, "refused");
        }
    }

    fn finish(
        &self,
        arrival: &Arrival,
        route: &'static str,
        result: Result<Response, Problem>,
    ) -> Response {
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
                // Who shows no valid token is told of where it is slowed down.
                if problem.status() != StatusCode::UNAUTHORIZED {
                    self.refused(arrival, route, problem.name());
                }
                problem.into_response()
            }
        }
    }
}

/// Has a router answer.
async fn through(router: &Router, request: Request<Lent>, arrival: Arrival) -> Response {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(arrival);
    let mut router = router.clone();
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

/// Probes ask by the address of a pod, and show no token.
const OPEN_TO_PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The route's name in metrics: a closed set, whatever clients ask for.
fn name(path: &str) -> &'static str {
    const NAMES: [&str; 12] = [
        OPERATIONS_PATH,
        WAIT_PATH,
        "/v1/settle",
        "/v1/record",
        "/v1/records",
        "/v1/record/resolve",
        "/v1/record/answer",
        "/v1/records/rewrap",
        "/v1/records/scrub",
        "/healthz",
        "/readyz",
        "/metrics",
    ];
    NAMES.into_iter().find(|n| *n == path).unwrap_or("other")
}
