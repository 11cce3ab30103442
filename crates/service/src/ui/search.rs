//! Finding records.

use super::format::{ago, count as digits, moment, record_link};
use super::frame::{self, notice, state};
use super::visit::Visitor;
use crate::api::App;
use crate::audit::Entry;
use crate::census::{self, now_ms};
use crate::telemetry::store_time::StoreQuestion;
use axum::extract::{Query, State};
use idempotency_store::search::{Found, Search};
use idempotency_store::{RecordState, RecordView, StoreError};
use maud::{html, Markup};
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Records of one page.
const PAGE: usize = 50;
/// How long a page goes on looking while it has found too little.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest text of a field; no key, path or rule is longer.
const LONGEST: usize = 2_048;

const STATES: [(&str, RecordState); 4] = [
    ("unknown", RecordState::Unknown),
    ("executing", RecordState::Executing),
    ("failed", RecordState::Failed),
    ("completed", RecordState::Completed),
];

/// Spans of time, in seconds.
const AGES: [(u64, &str); 5] = [
    (60, "a minute"),
    (600, "ten minutes"),
    (3_600, "an hour"),
    (86_400, "a day"),
    (604_800, "a week"),
];

/// What is looked for. Fields of a form are there when they are empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SearchForm {
    text: String,
    tenant: String,
    state: String,
    rule: String,
    path: String,
    /// In its state for at least so many seconds.
    older: String,
    after: String,
}

fn given(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

impl SearchForm {
    /// The search, or what is wrong with it.
    fn search(&self, now: u64) -> Result<Search, String> {
        let fields = [&self.text, &self.tenant, &self.rule, &self.path];
        if fields.iter().any(|field| field.len() > LONGEST) {
            return Err("That is longer than anything that is kept.".to_owned());
        }
        let state = match self.state.as_str() {
            "" => None,
            name => {
                let state = STATES.iter().find(|(other, _)| *other == name);
                let state = state.ok_or_else(|| format!("There is no state “{name}”."))?;
                Some(state.1)
            }
        };
        let older = match self.older.as_str() {
            "" => None,
            seconds => {
                let seconds: u64 = seconds
                    .parse()
                    .map_err(|_| "The age is not a number of seconds.".to_owned())?;
                Some(now.saturating_sub(seconds.saturating_mul(1_000)))
            }
        };
        let after = given(&self.after).map(hex::decode).transpose();
        Ok(Search {
            text: given(&self.text),
            tenant: given(&self.tenant),
            rule: given(&self.rule),
            path: given(&self.path),
            state,
            changed_until_ms: older,
            after: after.map_err(|_| "This is no address of a next page.".to_owned())?,
            limit: PAGE,
            ..Search::default()
        })
    }

    /// By what is looked for, for the audit log: the names of the fields, since what is in them may be a secret.
    fn by(&self) -> Vec<&'static str> {
        let given = [
            ("q", &self.text),
            ("state", &self.state),
            ("rule", &self.rule),
            ("path", &self.path),
            ("min_age_ms", &self.older),
        ];
        let given = given
            .into_iter()
            .filter(|(_, text)| !text.trim().is_empty());
        given.map(|(name, _)| name).collect()
    }

    fn next(&self, after: &[u8]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in [
            ("text", &self.text),
            ("tenant", &self.tenant),
            ("state", &self.state),
            ("rule", &self.rule),
            ("path", &self.path),
            ("older", &self.older),
        ] {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        query.append_pair("after", &hex::encode(after));
        format!("search?{}", query.finish())
    }
}

/// The form, and what was found.
pub(super) async fn page(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Query(wanted): Query<SearchForm>,
) -> Markup {
    let now = now_ms();
    let results = match wanted.search(now) {
        Err(wrong) => notice("bad", &wrong),
        Ok(search) => {
            let entry = Entry::list(&visitor.asker(None), search.tenant.as_deref(), &wanted.by());
            let found = look(&app, search).await;
            let result = if found.is_ok() { "done" } else { "store-error" };
            app.audit.write(entry, result).await;
            match found {
                Ok(found) => results(&wanted, &found, now),
                Err(error) => notice("bad", &error.to_string()),
            }
        }
    };
    let content = html! {
        h1 { "Records" }
        (form(&wanted))
        (results)
    };
    frame::page(&visitor, "Records", content)
}

/// Goes on until there is a page full, everything has been looked at, or it takes too long.
async fn look(app: &App, mut search: Search) -> Result<Found, StoreError> {
    let started = Instant::now();
    let mut all = Found::default();
    loop {
        let found = app.store.search(search.clone());
        let found = app
            .metrics
            .store
            .measure(StoreQuestion::Search, found)
            .await?;
        all.looked_at += found.looked_at;
        all.records.extend(found.records);
        all.next = found.next;
        let Some(next) = &all.next else {
            return Ok(all);
        };
        if all.records.len() >= PAGE || started.elapsed() >= PATIENCE {
            return Ok(all);
        }
        search.after = Some(next.clone());
        search.limit = PAGE - all.records.len();
    }
}

fn form(wanted: &SearchForm) -> Markup {
    let field = |name: &str, label: &str, value: &str, hint: &str| {
        html! {
            label { span { (label) }
                input type="text" name=(name) value=(value) placeholder=(hint) autocomplete="off" spellcheck="false"; }
        }
    };
    html! {
        form.filter action="search" method="get" role="search" {
            label.wide { span { "Key, beginning of a key, log id, request id or trace id" }
                input type="search" name="text" value=(wanted.text) autocomplete="off" spellcheck="false" autofocus; }
            (field("tenant", "Tenant", &wanted.tenant, "any"))
            (field("rule", "Rule", &wanted.rule, "any"))
            (field("path", "Path", &wanted.path, "/charges/*"))
            label { span { "State" }
                select name="state" {
                    option value="" { "any" }
                    @for (name, _) in STATES {
                        option value=(name) selected[wanted.state == name] { (name) }
                    }
                }
            }
            label { span { "In its state for more than" }
                select name="older" {
                    option value="" { "any time" }
                    @for (seconds, name) in AGES {
                        option value=(seconds) selected[wanted.older == seconds.to_string()] { (name) }
                    }
                }
            }
            div.buttons {
                button.primary type="submit" { "Search" }
                a.button href="search" { "Clear" }
            }
        }
    }
}

fn results(wanted: &SearchForm, found: &Found, now: u64) -> Markup {
    html! {
        section aria-label="Found" {
            p.muted role="status" {
                @match found.records.len() {
                    0 => "No record matches",
                    1 => "One record",
                    n => { (n) " records" }
                }
                " · " (digits(found.looked_at as u64)) " looked at"
                @if found.next.is_some() { ", there are more to look at" }
            }
            @if !found.records.is_empty() {
                div.scroll {
                    table.records {
                        thead { tr { th { "State" } th { "Key" } th { "Tenant" } th { "Request" } th.n { "Status" } th.n { "In this state since" } } }
                        tbody { @for view in &found.records { (row(view, now)) } }
                    }
                }
            }
            @if let Some(next) = &found.next {
                p { a.button href=(wanted.next(next)) rel="next" { "Go on" } }
            }
        }
    }
}

fn row(view: &RecordView, now: u64) -> Markup {
    html! {
        tr {
            td { (state(census::name(view.state))) }
            td.key { a href=(record_link(&view.key)) { bdi { (view.key.key) } } }
            td { @if view.key.tenant.is_empty() { span.muted { "(none)" } } @else { bdi { (view.key.tenant) } } }
            td {
                @if let Some(about) = view.about.as_deref() {
                    bdi { (about.method) " " (about.path) }
                    @if !about.rule.is_empty() { " " span.chip { bdi { (about.rule) } } }
                }
            }
            td.n { @if let Some(status) = view.status { (status) } }
            td.n title=(moment(view.changed_at_ms)) { (ago(now, view.changed_at_ms)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_fields_are_not_given() {
        let wanted = SearchForm {
            text: " k-1 ".to_owned(),
            older: "60".to_owned(),
            ..SearchForm::default()
        };
        let search = wanted.search(100_000).unwrap();
        let expected = Search {
            text: Some("k-1".to_owned()),
            changed_until_ms: Some(40_000),
            limit: PAGE,
            ..Search::default()
        };
        assert_eq!(search, expected);
        for wrong in [
            SearchForm {
                state: "open".to_owned(),
                ..SearchForm::default()
            },
            SearchForm {
                older: "x".to_owned(),
                ..SearchForm::default()
            },
            SearchForm {
                after: "x".to_owned(),
                ..SearchForm::default()
            },
            SearchForm {
                text: "x".repeat(LONGEST + 1),
                ..SearchForm::default()
            },
        ] {
            assert!(wrong.search(0).is_err(), "{wrong:?}");
        }
    }
}
