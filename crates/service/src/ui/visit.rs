//! Who looks: signing in with an operator's token, and out.

use super::frame::{self, notice};
use super::go_to;
use crate::api::{App, Arrival, Problem};
use crate::audit::Asker;
use crate::auth::{Denied, Session, SESSION_LIFETIME};
use crate::census::now_ms;
use crate::peer::Address;
use crate::telemetry::refusals::AuthFailure;
use axum::extract::{FromRequestParts, Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Form};
use http::request::Parts;
use http::{header, HeaderMap, HeaderValue, Method, StatusCode};
use maud::{html, Markup};
use serde::Deserialize;
use std::sync::Arc;

const COOKIE: &str = "idempotencyd-operator";

/// An operator who has signed in.
pub(crate) struct Visitor {
    pub session: Session,
    /// Nothing can be changed through this page.
    pub read_only: bool,
    from: Address,
}

impl Visitor {
    /// The same, for the audit log.
    pub(super) fn asker(&self, reason: Option<String>) -> Asker {
        Asker {
            who: Arc::clone(&self.session.name),
            from: self.from,
            reason,
        }
    }

    /// What is answered to a form that did not come from a page of this session; `None` if it did.
    pub(super) fn refusal(&self, form_token: &str) -> Option<Response> {
        use subtle::ConstantTimeEq;
        let own = self.session.form_token.as_bytes();
        if bool::from(own.ct_eq(form_token.as_bytes())) {
            return None;
        }
        let page = frame::page(
            self,
            "Not done",
            html! {
                h1 { "Nothing was done" }
                (notice("bad", "The form did not come from a page of this session. Go back, reload, and try again."))
            },
        );
        Some((StatusCode::FORBIDDEN, page).into_response())
    }
}

/// Every value of our cookie; proxies and other services on the host may have set one of that name.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(header::COOKIE).into_iter();
    let pairs = all.filter_map(|value| value.to_str().ok());
    pairs
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value)
}

impl FromRequestParts<Arc<App>> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Visitor, Response> {
        let session = cookies(&parts.headers).find_map(|cookie| app.session(cookie, now_ms()));
        let arrival = parts.extensions.get::<Arrival>();
        match (session, arrival) {
            (Some(session), Some(arrival)) => Ok(Visitor {
                session,
                read_only: app.ui.read_only,
                from: arrival.from,
            }),
            _ if parts.method == Method::GET => Err(go_to(&to_login(parts))),
            _ => Err(go_to("login")),
        }
    }
}

/// The form, which leads back to the page that was asked for.
fn to_login(parts: &Parts) -> String {
    let asked = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let asked = asked.strip_prefix("/ui/").unwrap_or("");
    if asked.is_empty() || !is_ours(asked) {
        return "login".to_owned();
    }
    let mut query = form_urlencoded::Serializer::new(String::new());
    format!("login?{}", query.append_pair("next", asked).finish())
}

/// Whether a place is one of the pages that one may be sent on to; never one of another site.
fn is_ours(place: &str) -> bool {
    let page = place.split('?').next();
    page.is_some_and(|page| ["search", "record"].contains(&page))
}

#[derive(Default, Deserialize)]
pub(super) struct Next {
    #[serde(default)]
    next: String,
}

fn sign_in(next: &str, wrong: Option<&str>) -> Markup {
    frame::bare(
        "Sign in",
        html! {
            h1 { "Idempotency Gateway" }
            p { "For operators. Sign in with a token of the operator role; its name is what the audit log shows." }
            @if let Some(wrong) = wrong { (notice("bad", wrong)) }
            form.card action="login" method="post" {
                input type="hidden" name="next" value=(next);
                label for="token" { "Operator token" }
                input #token type="password" name="token" required autofocus autocomplete="current-password"
                    spellcheck="false";
                button.primary type="submit" { "Sign in" }
            }
        },
    )
}

/// The form for the token.
pub(super) async fn form(Query(Next { next }): Query<Next>) -> Markup {
    sign_in(&next, None)
}

#[derive(Deserialize)]
pub(super) struct Login {
    token: String,
    #[serde(default)]
    next: String,
}

/// Begins a session.
pub(super) async fn login(
    State(app): State<Arc<App>>,
    Extension(arrival): Extension<Arrival>,
    headers: HeaderMap,
    Form(login): Form<Login>,
) -> Response {
    let (failure, wrong) = match app.begin_session(&login.token, now_ms()) {
        Ok(cookie) => {
            let next = if is_ours(&login.next) {
                login.next.as_str()
            } else {
                "./"
            };
            let who = app.session(&cookie, now_ms()).map(|session| session.name);
            let who = who.as_deref().unwrap_or_default();
            tracing::info!(target: "audit", who, address = %arrival.from, action = "sign-in", "operator");
            let seconds = SESSION_LIFETIME.as_secs();
            return set_cookie(go_to(next), &arrival, &headers, &cookie, seconds);
        }
        Err(Denied::WrongRole(_)) => (
            AuthFailure::WrongRole,
            "This is a token of another role. The page needs one of the operator role.",
        ),
        Err(_) => (
            AuthFailure::UnknownToken,
            "Nobody has configured this token.",
        ),
    };
    app.refuse(&arrival, "/ui/login", failure).await;
    let page = sign_in(&login.next, Some(wrong));
    (StatusCode::FORBIDDEN, page).into_response()
}

/// Without a path of its own, a cookie belongs to the directory of the page that set it, as the browser sees it.
fn set_cookie(
    mut response: Response,
    arrival: &Arrival,
    headers: &HeaderMap,
    value: &str,
    seconds: u64,
) -> Response {
    let forwarded = headers.get("x-forwarded-proto");
    let is_https = arrival.tls || forwarded.is_some_and(|scheme| scheme == "https");
    let secure = if is_https { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={value}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    match HeaderValue::from_str(&cookie) {
        Ok(cookie) => {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
            response
        }
        Err(_) => Problem::internal("the cookie cannot be written").into_response(),
    }
}

#[derive(Deserialize)]
pub(super) struct Logout {
    #[serde(default)]
    form_token: String,
}

/// Takes the cookie away.
pub(super) async fn logout(
    visitor: Visitor,
    Extension(arrival): Extension<Arrival>,
    headers: HeaderMap,
    Form(form): Form<Logout>,
) -> Response {
    match visitor.refusal(&form.form_token) {
        None => set_cookie(go_to("login"), &arrival, &headers, "", 0),
        Some(page) => page,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_sent_on_to_pages_of_this_service_only() {
        for ours in ["search", "search?text=a", "record?key=http://x"] {
            assert!(is_ours(ours), "{ours}");
        }
        for foreign in [
            "",
            "//evil.example",
            "https://evil.example/search",
            "/search",
            "change",
        ] {
            assert!(!is_ours(foreign), "{foreign}");
        }
    }

    #[test]
    fn all_cookies_of_that_name_are_looked_at() {
        let mut headers = HeaderMap::new();
        for line in [
            "a=b; idempotencyd-operator=1:x:2",
            "idempotencyd-operator=3",
        ] {
            headers.append(header::COOKIE, line.parse().unwrap());
        }
        assert_eq!(cookies(&headers).collect::<Vec<_>>(), ["1:x:2", "3"]);
    }
}
