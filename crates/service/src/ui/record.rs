//! One record: what is known of it, its time line, its stored answer, and what can be done.

use super::change;
use super::format::{ago, moment, size, span};
use super::frame::{self, form_token, notice, state};
use super::visit::Visitor;
use crate::api::{model, App, KeyQuery, Problem};
use crate::audit::Entry;
use crate::census::{self, now_ms};
use crate::redact::log_id;
use crate::telemetry::store_time::StoreQuestion;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::Form;
use bytes::Bytes;
use http::StatusCode;
use idempotency_protocol::{AttemptKind, LookupKey, Origin, Outcome};
use idempotency_store::history::PastEnd;
use idempotency_store::{RecordState, RecordView, StoreError};
use maud::{html, Markup};
use serde::Deserialize;
use std::sync::Arc;

/// How much of a stored body is shown.
const SHOWN: usize = 64 * 1024;
/// How much of one that is no text.
const SHOWN_BYTES: usize = 4 * 1024;

/// Parts of the names of headers whose values may be secrets.
const SENSITIVE: [&str; 9] = [
    "cookie",
    "auth",
    "token",
    "secret",
    "key",
    "session",
    "signature",
    "password",
    "credential",
];

#[derive(Deserialize)]
pub(super) struct Asks {
    #[serde(flatten)]
    key: KeyQuery,
    done: Option<String>,
}

/// The page of a record.
pub(super) async fn page(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    asks: Result<Query<Asks>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let asks = match asks {
        Ok(Query(asks)) => asks,
        Err(wrong) => return wrong_address(&visitor, &wrong.body_text()),
    };
    let key = match asks.key.check() {
        Ok(key) => key,
        Err(problem) => return wrong_address(&visitor, problem.detail()),
    };
    let said = match asks.done.as_deref() {
        Some("completed") => {
            Some("Done: the record is completed now, and retries are answered from it.")
        }
        Some("failed") => Some("Done: the record says that nothing was done; a retry executes."),
        _ => None,
    };
    show(
        &app,
        &visitor,
        &key,
        said.map(|said| notice("good", said)),
        StatusCode::OK,
        None,
    )
    .await
}

fn wrong_address(visitor: &Visitor, detail: &str) -> Response {
    let content = html! { h1 { "This is no address of a record" } (notice("bad", detail)) };
    let page = frame::page(visitor, "Record", content);
    (StatusCode::BAD_REQUEST, page).into_response()
}

#[derive(Deserialize)]
pub(super) struct ShowBody {
    #[serde(flatten)]
    key: KeyQuery,
    #[serde(default)]
    form_token: String,
    #[serde(default)]
    reason: String,
}

/// The same page with the stored body, which is a look of its own in the audit log.
pub(super) async fn body(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Form(form): Form<ShowBody>,
) -> Response {
    if let Some(page) = visitor.refusal(&form.form_token) {
        return page;
    }
    let checked = model::reason(Some(form.reason.trim().to_owned())).and_then(|reason| {
        let reason = reason.ok_or_else(|| Problem::bad_request("A reason is needed."))?;
        Ok((form.key.check()?, reason))
    });
    let (key, reason) = match checked {
        Ok(checked) => checked,
        Err(problem) => return wrong_address(&visitor, problem.detail()),
    };
    show(&app, &visitor, &key, None, StatusCode::OK, Some(reason)).await
}

/// The page as it is now. With a reason, the stored body is part of it.
pub(super) async fn show(
    app: &App,
    visitor: &Visitor,
    key: &LookupKey,
    said: Option<Markup>,
    status: StatusCode,
    body_because: Option<String>,
) -> Response {
    let found = app.store.inspect(key);
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
    let asker = visitor.asker(body_because.clone());
    let entry = match body_because {
        Some(_) => Entry::answer(&asker, key),
        None => Entry::inspect(&asker, key),
    };
    app.audit.write(entry, result).await;
    let (status, content) = match found {
        Ok(Some(view)) => {
            let stored = match view.state {
                RecordState::Completed => {
                    let stored = app.store.stored(key);
                    Some(
                        app.metrics
                            .store
                            .measure(StoreQuestion::Stored, stored)
                            .await,
                    )
                }
                _ => None,
            };
            (
                status,
                record(visitor, &view, said, stored, body_because.is_some()),
            )
        }
        Ok(None) => (
            StatusCode::NOT_FOUND,
            html! {
                h1 { "No such record" }
                @if let Some(said) = said { (said) }
                p { "There is no record with this tenant, namespace, origin and key. It may have been forgotten: its time was over, or somebody deleted it." }
            },
        ),
        Err(error) => (
            StatusCode::SERVICE_UNAVAILABLE,
            html! { h1 { "The store cannot answer" } (notice("bad", &error.to_string())) },
        ),
    };
    (status, frame::page(visitor, "Record", content)).into_response()
}

type Stored = Result<Option<Outcome>, StoreError>;

fn record(
    visitor: &Visitor,
    view: &RecordView,
    said: Option<Markup>,
    stored: Option<Stored>,
    with_body: bool,
) -> Markup {
    let now = now_ms();
    html! {
        h1.key { (state(census::name(view.state))) " " bdi { (view.key.key) } }
        @if let Some(said) = said { (said) }
        @if view.state == RecordState::Unknown {
            (notice("warn", "Nobody knows whether this was done. Look at the upstream before you decide: a retry that executes twice is the one thing that must not happen."))
        }
        div.columns {
            div {
                section { h2 { "Record" } (facts(view, now)) }
                section { h2 { "Time line" } (time_line(view, now)) }
            }
            div {
                @if let Some(stored) = stored {
                    section { h2 { "Stored answer" } (answer(visitor, view, stored, with_body)) }
                }
                @if visitor.read_only {
                    section { h2 { "Actions" } p.muted { "This page is set to read only." } }
                } @else {
                    section { h2 { "Actions" } (change::forms(visitor, view)) }
                }
            }
        }
    }
}

/// Fields that say which record.
pub(super) fn key_fields(key: &LookupKey) -> Markup {
    html! {
        input type="hidden" name="tenant" value=(key.tenant);
        input type="hidden" name="namespace" value=(key.namespace);
        input type="hidden" name="origin" value=(origin(key));
        input type="hidden" name="key" value=(key.key);
    }
}

fn origin(key: &LookupKey) -> &'static str {
    match key.origin {
        Origin::Client => "client",
        Origin::Derived => "derived",
    }
}

fn facts(view: &RecordView, now: u64) -> Markup {
    let about = view.about.as_deref().cloned().unwrap_or_default();
    let told = [
        ("Rule", &about.rule),
        ("Gateway", &about.gateway),
        ("Client", &about.client),
        ("Request id", &about.request_id),
        ("Trace id", &about.trace_id),
    ];
    html! {
        dl.facts {
            dt { "Request" }
            dd {
                @if about.path.is_empty() { span.muted { "not said by the gateway" } }
                @else { bdi { (about.method) " " (about.path) } }
            }
            dt { "Tenant" }
            dd { @if view.key.tenant.is_empty() { span.muted { "(none)" } } @else { bdi { (view.key.tenant) } } }
            @if !view.key.namespace.is_empty() { dt { "Namespace" } dd { bdi { (view.key.namespace) } } }
            dt { "Key" } dd.mono { bdi { (view.key.key) } " " span.chip { "from the " @if view.key.origin == Origin::Client { "client" } @else { "gateway" } } }
            @for (name, value) in told {
                @if !value.is_empty() { dt { (name) } dd.mono { bdi { (value) } } }
            }
            dt { "Log id" } dd.mono { (log_id(&view.key)) }
            dt { "Fence" } dd.mono { (view.fence) }
            dt { "Version" } dd.mono { (view.version) }
            @if let Some(left) = view.lease_left_ms {
                dt { "Lease" }
                dd { @if left == 0 { "over; no outcome was reported" } @else { (span(left)) " left" } }
            }
            @if let Some(expires) = view.expires_at_ms {
                dt { "Forgotten" } dd title=(moment(expires)) { (ago(now, expires)) }
            }
        }
    }
}

fn kind(kind: AttemptKind) -> &'static str {
    match kind {
        AttemptKind::Gateway => "a gateway",
        AttemptKind::Guard => "a program",
        AttemptKind::Transaction => "a database transaction",
        AttemptKind::Relayed => "a gateway behind another gateway",
    }
}

fn at(ms: u64, now: u64) -> Markup {
    html! { time datetime=(moment(ms).replacen(' ', "T", 1) + "Z") { (moment(ms)) } " " span.muted { (ago(now, ms)) } }
}

fn time_line(view: &RecordView, now: u64) -> Markup {
    let forgotten = view.attempt as usize - view.attempts.len().min(view.attempt as usize);
    html! {
        ol.line {
            li { (at(view.created_at_ms, now)) p { "The key was granted for the first time." } }
            @if forgotten > 0 && !view.attempts.is_empty() {
                li { p.muted { "Some attempts are not remembered one by one (" (forgotten) ")." } }
            }
            @for attempt in &view.attempts {
                li {
                    (at(attempt.started_at_ms, now))
                    p {
                        "Attempt " b { (attempt.number) } " began, run by " (kind(attempt.kind))
                        @if let Some(owner) = view.owner.as_ref().filter(|_| attempt.number == view.attempt) {
                            ", owner " span.mono { (owner) } "…"
                        }
                        "."
                    }
                }
                @if let Some((end, ended_at)) = attempt.end {
                    li class={ @if end == PastEnd::Unknown { "unknown" } @else { "failed" } } {
                        (at(ended_at, now))
                        p {
                            "Attempt " (attempt.number) " ended: "
                            @match end {
                                PastEnd::Failed => "not done, or its answer may be retried.",
                                PastEnd::Unknown => "nobody knows whether it was done.",
                            }
                        }
                    }
                }
            }
            li.(census::name(view.state)) {
                (at(view.changed_at_ms, now))
                p {
                    @match view.state {
                        RecordState::Executing => "The execution runs.",
                        RecordState::Completed if view.tombstone => "Done. There is nothing to replay: retries are told that it was done.",
                        RecordState::Completed => "Done. Retries are answered with the stored answer.",
                        RecordState::Failed => "Not done. A retry executes.",
                        RecordState::Unknown => "Nobody knows whether it was done. Retries get 409.",
                    }
                    @if let Some(status) = view.status { " The upstream answered " b { (status) } "." }
                }
            }
        }
    }
}

/// Whether the value of a header may be a secret.
fn is_sensitive(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SENSITIVE.iter().any(|part| name.contains(part))
}

fn answer(visitor: &Visitor, view: &RecordView, stored: Stored, with_body: bool) -> Markup {
    let response = match stored {
        Err(error) => return notice("bad", &error.to_string()),
        // It has changed since it was looked at, or it was deleted.
        Ok(None) => return notice("warn", "It has just changed. Reload the page."),
        Ok(Some(Outcome::Tombstone(tombstone))) => {
            return html! { p { "Only that it was done, with status " b { (tombstone.status) } ". There are no headers and no body." } }
        }
        Ok(Some(Outcome::Response(response))) => response,
    };
    html! {
        p { "Status " b { (response.status) } ", " (size(response.body.len() as u64)) }
        @if !response.headers.is_empty() {
            div.scroll {
                table.headers {
                    tbody {
                        @for (name, value) in &response.headers {
                            @let name = String::from_utf8_lossy(name);
                            tr {
                                th scope="row" { bdi { (name) } }
                                td.mono {
                                    @if is_sensitive(&name) { span.muted { "masked, " (value.len()) " bytes" } }
                                    @else { bdi { (String::from_utf8_lossy(value)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
        @if response.body.is_empty() {
            p.muted { "The body is empty." }
        } @else if with_body {
            (shown(&response.body))
        } @else {
            form.inline action="body" method="post" {
                (key_fields(&view.key)) (form_token(visitor))
                label { span { "Reason, for the audit log" }
                    input type="text" name="reason" required maxlength="200" autocomplete="off"; }
                button type="submit" { "Show the body" }
            }
        }
    }
}

fn shown(body: &Bytes) -> Markup {
    let text = match std::str::from_utf8(body) {
        Ok(text) => {
            let end = (0..=SHOWN.min(text.len()))
                .rev()
                .find(|end| text.is_char_boundary(*end));
            text.get(..end.unwrap_or(0)).unwrap_or("").to_owned()
        }
        Err(_) => {
            let lines = body.chunks(16).take(SHOWN_BYTES / 16);
            lines.map(|line| hex::encode(line) + "\n").collect()
        }
    };
    let is_text = std::str::from_utf8(body).is_ok();
    let cut = if is_text {
        body.len() > SHOWN
    } else {
        body.len() > SHOWN_BYTES
    };
    html! {
        pre.body tabindex="0" { (text) }
        @if !is_text { p.muted { "It is no text: this is hexadecimal." } }
        @if cut { p.muted { "Only its beginning is shown." } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_may_be_secrets_are_masked() {
        for name in [
            "Set-Cookie",
            "www-authenticate",
            "X-Api-Key",
            "x-session-id",
        ] {
            assert!(is_sensitive(name), "{name}");
        }
        for name in ["content-type", "location", "x-request-id"] {
            assert!(!is_sensitive(name), "{name}");
        }
    }

    #[test]
    fn long_bodies_are_cut_between_characters() {
        let text = "ü".repeat(SHOWN);
        let page = shown(&Bytes::from(text)).into_string();
        assert!(page.contains("Only its beginning") && page.len() < 2 * SHOWN);
        let page = shown(&Bytes::from_static(b"\xff\x00<")).into_string();
        assert!(
            page.contains("ff003c") && !page.contains("beginning"),
            "{page}"
        );
    }
}
