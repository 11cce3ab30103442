//! The page for operators: a few HTML pages on a listener of their own (`--ui-listen`), off by default.
//!
//! Every page is made here and works without a script; the script only refreshes what is live. All links and
//! redirects are relative, and the cookie has no path of its own, so the pages work behind any path prefix that a
//! proxy takes away. Whatever comes out of a record is text that clients chose: `maud` escapes it, and the
//! content security policy lets nothing run or load but the two files of this directory.

mod change;
mod format;
mod frame;
mod overview;
mod record;
mod search;
mod visit;

use crate::api::{App, Arrival, Problem};
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::Router;
use http::{header, HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use std::sync::Arc;

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/script.js");
const ICON: &str = include_str!("assets/icon.svg");

/// Nothing runs, loads, is framed or is sent anywhere but to and from this service.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What the pages are set to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// Nothing can be changed.
    pub read_only: bool,
}

/// The pages.
pub(crate) fn router(app: Arc<App>) -> Router {
    let pages = Router::new()
        .route("/ui/", get(overview::page))
        .route("/ui/live", get(overview::live))
        .route("/ui/count", post(overview::count))
        .route("/ui/search", get(search::page))
        .route("/ui/record", get(record::page))
        .route("/ui/body", post(record::body))
        .route("/ui/change", post(change::change))
        .route("/ui/login", get(visit::form).post(visit::login))
        .route("/ui/logout", post(visit::logout))
        .route(
            "/ui/style.css",
            get(|| asset("text/css; charset=utf-8", STYLE)),
        )
        .route(
            "/ui/script.js",
            get(|| asset("text/javascript; charset=utf-8", SCRIPT)),
        )
        .route("/ui/icon.svg", get(|| asset("image/svg+xml", ICON)));
    pages
        .route("/", get(|| async { go_to("ui/") }))
        .route("/ui", get(|| async { go_to("ui/") }))
        .fallback(|| async { Problem::not_found() })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

async fn asset(kind: &'static str, text: &'static str) -> Response {
    let kind = HeaderValue::from_static(kind);
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// A redirect that is relative to the address that the browser sees.
fn go_to(place: &str) -> Response {
    // A place that is no header's value goes to the first page; ours are percent-encoded.
    let place = HeaderValue::from_str(place).unwrap_or(HeaderValue::from_static("./"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response()
}

/// Looks at each request before its page, and puts the headers on each answer.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let foreign = match request.extensions().get::<Arrival>() {
        Some(arrival) => app.expects(&request, arrival).err(),
        None => return Problem::internal("the request came from nowhere").into_response(),
    };
    let mut response = match foreign {
        Some(_) if is_followed_link(&request) => bounce(),
        Some(foreign) => {
            app.metrics.refusals.foreign(foreign);
            Problem::from(foreign).into_response()
        }
        None => next.run(request).await,
    };
    harden(response.headers_mut());
    response
}

/// Somebody follows a link on a page of another site, for instance in a message or on a dashboard. The browser sends
/// no cookie along then.
fn is_followed_link(request: &Request) -> bool {
    let is = |name: &str, value: &str| request.headers().get(name).is_some_and(|v| v == value);
    request.method() == Method::GET
        && is("sec-fetch-site", "cross-site")
        && is("sec-fetch-mode", "navigate")
        && is("sec-fetch-dest", "document")
        && !request.headers().contains_key(header::ORIGIN)
}

/// A page without any content that loads the same address again, now as a page of this site.
fn bounce() -> Response {
    frame::bounce().into_response()
}

fn harden(headers: &mut HeaderMap) {
    let constant: [(HeaderName, &'static str); 7] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // Without any, browsers would send `Origin: null` with our own forms.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in constant {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
