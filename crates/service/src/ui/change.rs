//! Changing a record: what is asked for is said back first, with what it leads to, and done when it was confirmed.

use super::format::{record_link, span};
use super::frame::{self, form_token, notice, state};
use super::go_to;
use super::record::{self, key_fields};
use super::visit::Visitor;
use crate::api::{self, model, App, KeyQuery, Problem, ResolveTo};
use crate::census;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::Form;
use http::StatusCode;
use idempotency_protocol::LookupKey;
use idempotency_store::{RecordState, RecordView, Resolution, Resolve, Resolved};
use maud::{html, Markup};
use serde::Deserialize;
use std::sync::Arc;

/// What an operator fills in.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ChangeForm {
    #[serde(flatten)]
    key: KeyQuery,
    #[serde(default)]
    form_token: String,
    version: String,
    to: ChangeChoice,
    #[serde(default)]
    reason: String,
    /// Of a checkbox: absent if it is not checked.
    #[serde(default)]
    force: Option<String>,
    #[serde(default)]
    status: String,
    #[serde(default)]
    content_type: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    confirmed: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChangeChoice {
    /// It was done; replay this.
    Completed,
    /// It was done; there is nothing to replay.
    Tombstone,
    Failed,
    Deleted,
}

impl ChangeChoice {
    fn name(self) -> &'static str {
        match self {
            ChangeChoice::Completed => "completed",
            ChangeChoice::Tombstone => "tombstone",
            ChangeChoice::Failed => "failed",
            ChangeChoice::Deleted => "deleted",
        }
    }

    /// What happens, and whether something may run again.
    fn consequence(self) -> (&'static str, bool) {
        match self {
            ChangeChoice::Completed => (
                "The record becomes completed. Every retry is answered with what you have entered. Nothing runs again.",
                false,
            ),
            ChangeChoice::Tombstone => (
                "The record becomes completed, without an answer to replay. Every retry is told that it was done. \
                 Nothing runs again.",
                false,
            ),
            ChangeChoice::Failed => (
                "The record says that nothing was done. The next retry EXECUTES AGAIN. If the upstream has done it \
                 after all, it is done twice.",
                true,
            ),
            ChangeChoice::Deleted => (
                "The record is forgotten. The next request with this key EXECUTES, whatever was done before and \
                 whatever its body says. If the upstream has done it after all, it is done twice.",
                true,
            ),
        }
    }
}

/// The forms on the page of a record.
pub(super) fn forms(visitor: &Visitor, view: &RecordView) -> Markup {
    let form = |to: ChangeChoice, fields: Markup, button: &str| {
        html! {
            form action="change" method="post" {
                (key_fields(&view.key)) (form_token(visitor))
                input type="hidden" name="version" value=(view.version);
                input type="hidden" name="to" value=(to.name());
                (fields)
                @if view.state == RecordState::Executing {
                    label.check { input type="checkbox" name="force" value="yes";
                        span { "Also while the execution holds its lease"
                            @if let Some(left) = view.lease_left_ms { " (" (span(left)) " left)" }
                            ". I know that it is dead." } }
                }
                label { span { "Reason, for the audit log" }
                    input type="text" name="reason" required maxlength="200" autocomplete="off"; }
                button type="submit" { (button) }
            }
        }
    };
    let status = html! {
        label { span { "Status" } input type="number" name="status" value="200" min="200" max="599" required; }
    };
    let whole = html! {
        (status)
        label { span { "Content type" } input type="text" name="content_type" value="application/json" autocomplete="off"; }
        label { span { "Body" } textarea name="body" rows="4" spellcheck="false" {} }
    };
    html! {
        details.action {
            summary { "It was done" }
            p.muted { "Retries are told so. Nothing runs again." }
            (form(ChangeChoice::Tombstone, status.clone(), "It was done: say so to retries"))
        }
        details.action {
            summary { "It was done, and this is the answer" }
            p.muted { "Retries are answered with it. Nothing runs again." }
            (form(ChangeChoice::Completed, whole, "It was done: replay this"))
        }
        details.action.risky {
            summary { "It was not done" }
            p.muted { "The next retry executes." }
            (form(ChangeChoice::Failed, html! {}, "It was not done: let a retry execute"))
        }
        details.action.risky {
            summary { "Delete the record" }
            p.muted { "The next request with this key executes, whatever it says." }
            (form(ChangeChoice::Deleted, html! {}, "Delete"))
        }
    }
}

/// Says what would happen, or does it.
pub(super) async fn change(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    wanted: Result<Form<ChangeForm>, axum::extract::rejection::FormRejection>,
) -> Response {
    let wanted = match wanted {
        Ok(Form(wanted)) => wanted,
        Err(wrong) => return refused(&visitor, &wrong.body_text(), StatusCode::BAD_REQUEST),
    };
    if let Some(page) = visitor.refusal(&wanted.form_token) {
        return page;
    }
    if visitor.read_only {
        let wrong = "This page is set to read only.";
        return refused(&visitor, wrong, StatusCode::FORBIDDEN);
    }
    let (resolve, reason) = match wanted.check() {
        Ok(checked) => checked,
        Err(problem) => return refused(&visitor, problem.detail(), problem.status()),
    };
    if wanted.confirmed.is_none() {
        return confirm(&app, &visitor, &wanted, &resolve.key).await;
    }
    let key = resolve.key.clone();
    let asker = visitor.asker(Some(reason));
    match api::change(&app, &asker, resolve).await {
        Ok(Resolved::Done(_)) if wanted.to == ChangeChoice::Deleted => go_to("./?done=deleted"),
        Ok(Resolved::Done(_)) => {
            let done = if wanted.to == ChangeChoice::Failed {
                "failed"
            } else {
                "completed"
            };
            go_to(&format!("{}&done={done}", record_link(&key)))
        }
        Ok(Resolved::VersionChanged(_)) => {
            let said = format!(
                "Nothing was changed: the record has changed since you looked at it (version {}). This is how it is \
                 now; look at it and decide anew.",
                wanted.version
            );
            let said = Some(notice("bad", &said));
            record::show(
                &app,
                &visitor,
                &key,
                said,
                StatusCode::PRECONDITION_FAILED,
                None,
            )
            .await
        }
        Ok(Resolved::Executing(_)) => {
            let said =
                "Nothing was changed: an execution holds the key, and its lease is not over.";
            let said = Some(notice("bad", said));
            record::show(&app, &visitor, &key, said, StatusCode::CONFLICT, None).await
        }
        Ok(Resolved::NoSuchKey) => {
            record::show(&app, &visitor, &key, None, StatusCode::NOT_FOUND, None).await
        }
        Err(error) => refused(
            &visitor,
            &error.to_string(),
            StatusCode::SERVICE_UNAVAILABLE,
        ),
    }
}

fn refused(visitor: &Visitor, why: &str, status: StatusCode) -> Response {
    let content = html! {
        h1 { "Nothing was changed" }
        (notice("bad", why))
        p { "Go back, and try again." }
    };
    (status, frame::page(visitor, "Not changed", content)).into_response()
}

impl ChangeForm {
    fn check(&self) -> Result<(Resolve, String), Problem> {
        let reason = model::reason(Some(self.reason.trim().to_owned()))?;
        let reason = reason.ok_or_else(|| Problem::bad_request("A reason is needed."))?;
        let version = self.version.parse();
        let version = version.map_err(|_| Problem::bad_request("The version is not a number."))?;
        let status = || {
            let status = self.status.trim().parse();
            status.map_err(|_| Problem::bad_request("The status is not a number."))
        };
        let to = match self.to {
            ChangeChoice::Deleted => Resolution::Deleted,
            ChangeChoice::Failed => api::resolution(ResolveTo::Failed {})?,
            ChangeChoice::Tombstone => api::resolution(ResolveTo::Completed {
                status: status()?,
                headers: Vec::new(),
                body: String::new(),
                tombstone: true,
            })?,
            ChangeChoice::Completed => {
                let kind = self.content_type.trim();
                let kind = (!kind.is_empty()).then(|| ("content-type".to_owned(), kind.to_owned()));
                api::resolution(ResolveTo::Completed {
                    status: status()?,
                    headers: kind.into_iter().collect(),
                    // Browsers send the lines of forms with two characters at their ends.
                    body: self.body.replace("\r\n", "\n"),
                    tombstone: false,
                })?
            }
        };
        let resolve = Resolve {
            key: self.key.clone().check()?,
            version,
            to,
            force: self.force.is_some(),
        };
        Ok((resolve, reason))
    }
}

/// Says back what was asked for. The version is the one that the operator has seen: what has changed since then is
/// found out by the change itself.
async fn confirm(app: &App, visitor: &Visitor, wanted: &ChangeForm, key: &LookupKey) -> Response {
    let view = match app.store.inspect(key).await {
        Ok(Some(view)) => view,
        Ok(None) => {
            return record::show(app, visitor, key, None, StatusCode::NOT_FOUND, None).await
        }
        Err(error) => return refused(visitor, &error.to_string(), StatusCode::SERVICE_UNAVAILABLE),
    };
    let (consequence, runs_again) = wanted.to.consequence();
    let kept = [
        ("version", wanted.version.as_str()),
        ("to", wanted.to.name()),
        ("reason", wanted.reason.as_str()),
        ("status", wanted.status.as_str()),
        ("content_type", wanted.content_type.as_str()),
        ("confirmed", "yes"),
    ];
    let content = html! {
        h1 { "Is this what you want?" }
        dl.facts {
            dt { "Record" } dd { (state(census::name(view.state))) " " bdi { (view.key.key) } }
            dt { "Tenant" } dd { @if key.tenant.is_empty() { span.muted { "(none)" } } @else { bdi { (key.tenant) } } }
            @if let Some(about) = view.about.as_deref() {
                dt { "Request" } dd { bdi { (about.method) " " (about.path) } }
            }
            dt { "Set to" } dd { b { (wanted.to.name()) } }
            @if matches!(wanted.to, ChangeChoice::Completed | ChangeChoice::Tombstone) { dt { "Status" } dd { (wanted.status) } }
            @if wanted.to == ChangeChoice::Completed {
                dt { "Content type" } dd { bdi { (wanted.content_type) } }
                dt { "Body" } dd { pre.body { (wanted.body) } }
            }
            dt { "Reason" } dd { bdi { (wanted.reason) } }
        }
        (notice(if runs_again { "warn" } else { "good" }, consequence))
        @if wanted.force.is_some() {
            (notice("warn", "An execution holds the key. It may still take effect after this change."))
        }
        form.buttons action="change" method="post" {
            (key_fields(key)) (form_token(visitor))
            @for (name, value) in kept { input type="hidden" name=(name) value=(value); }
            @if wanted.force.is_some() { input type="hidden" name="force" value="yes"; }
            // A line break at the beginning of a text area is not part of it.
            textarea name="body" hidden { "\n" (wanted.body) }
            button.primary.danger[runs_again] type="submit" { "Yes, do it" }
            a.button href=(record_link(key)) { "No, go back" }
        }
    };
    frame::page(visitor, "Confirm", content).into_response()
}
