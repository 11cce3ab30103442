//! The first page: what matters at three in the morning.

use super::format::{ago, count as digits, moment, rate, record_link, size, span};
use super::frame::{self, form_token, notice, state};
use super::go_to;
use super::visit::Visitor;
use crate::api::{usage, App};
use crate::census::{self, now_ms, Census, Group};
use crate::telemetry::rates::Course;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::Form;
use idempotency_store::{RecordState, RecordView};
use maud::{html, Markup};
use serde::Deserialize;
use std::sync::Arc;

/// Groups and records of one table.
const ROWS: usize = 10;

#[derive(Deserialize)]
pub(super) struct Done {
    done: Option<String>,
}

/// The whole page.
pub(super) async fn page(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Query(Done { done }): Query<Done>,
) -> Markup {
    let content = html! {
        h1.visually-hidden { "Overview" }
        @if done.as_deref() == Some("deleted") {
            (notice("good", "The record was deleted. The next request with its key executes."))
        }
        div data-live="live" { (content(&app, &visitor).await) }
    };
    frame::page(&visitor, "Overview", content)
}

/// What changes by itself, for the script.
pub(super) async fn live(State(app): State<Arc<App>>, visitor: Visitor) -> Markup {
    content(&app, &visitor).await
}

#[derive(Deserialize)]
pub(super) struct Count {
    #[serde(default)]
    form_token: String,
}

/// Asks for a new count of the records.
pub(super) async fn count(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Form(form): Form<Count>,
) -> Response {
    if let Some(page) = visitor.refusal(&form.form_token) {
        return page;
    }
    app.census.want();
    go_to("./")
}

async fn content(app: &App, visitor: &Visitor) -> Markup {
    let census = app.census.newest();
    let now = now_ms();
    html! {
        (health(app).await)
        @match census.as_deref() {
            Some(census) => {
                (counts(census, now, visitor))
                @for (state, watched) in census.watched() {
                    (oldest(state, &watched.groups(), &watched.oldest, now))
                }
            }
            None => {
                section {
                    h2 { "Records" }
                    p.muted { "They have not been counted yet." }
                }
            }
        }
        (rates(app))
        (rules(app))
    }
}

async fn health(app: &App) -> Markup {
    let usage = usage(app).await;
    let waits = app.store.waits();
    html! {
        section.health aria-label="Store" {
            @match &usage {
                Ok(usage) if usage.above_high_water =>
                    (notice("bad", "The store is full: new keys are refused with 503. What was granted can still be stored.")),
                Ok(_) => (notice("good", "The store is ready.")),
                Err(error) => (notice("bad", &format!("The store is not ready: {error}"))),
            }
            dl.strip {
                @if let Ok(usage) = &usage {
                    @if let Some(records) = usage.records { div { dt { "Records" } dd { (digits(records)) } } }
                    @if let Some(bytes) = usage.bytes { div { dt { "Size" } dd { (size(bytes)) } } }
                }
                div { dt { "Waiting now" } dd { (digits(waits.now as u64)) } }
                div { dt { "Waits refused" } dd { (digits(waits.refused)) } }
                div { dt { "Failed sign-ins" } dd { (digits(app.metrics.refusals.all_auth_failures())) } }
            }
        }
    }
}

fn counts(census: &Census, now: u64, visitor: &Visitor) -> Markup {
    let mut counts = census.counts();
    // What needs somebody comes first.
    let order = ["unknown", "executing", "failed", "completed"];
    counts.sort_by_key(|(name, _)| order.iter().position(|other| other == name));
    html! {
        section {
            h2 { "Records by state" }
            ul.tiles {
                @for (name, count) in counts {
                    li {
                        a.tile.(name).some[count > 0] href={ "search?state=" (name) } {
                            strong { @if !census.complete { "≥ " } (digits(count)) }
                            span { (name) }
                        }
                    }
                }
            }
            form.freshness action="count" method="post" {
                span.muted title=(moment(census.at_ms)) {
                    "Counted " (ago(now, census.at_ms)) ", in " (span(millis(census.took)))
                    @if !census.complete { "; the store is larger than one count" }
                }
                (form_token(visitor))
                button.quiet type="submit" { "Count again" }
            }
        }
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn tenant(name: &str) -> Markup {
    html! { @if name.is_empty() { span.muted { "(none)" } } @else { bdi { (name) } } }
}

fn route(name: &str) -> Markup {
    html! { @if name.is_empty() { span.muted { "(not said)" } } @else { bdi { (name) } } }
}

fn group_link(state: &str, group: &Group) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("state", state);
    if !group.tenant.is_empty() {
        query.append_pair("tenant", &group.tenant);
    }
    if group.is_rule {
        query.append_pair("rule", &group.route);
    }
    format!("search?{}", query.finish())
}

fn oldest(of: RecordState, groups: &[&Group], records: &[RecordView], now: u64) -> Markup {
    let name = census::name(of);
    let what = match of {
        RecordState::Unknown => "Nobody knows whether these were done. Their clients get 409 until somebody decides.",
        _ => "These run now, or were never reported back; then they become unknown when their lease is over.",
    };
    html! {
        section {
            h2 { "Oldest " (state(name)) }
            @if groups.is_empty() {
                p.muted { "There is none." }
            } @else {
                p.muted { (what) }
                div.pair {
                    div.scroll {
                        table {
                            caption { "By tenant and route" }
                            thead { tr { th { "Tenant" } th { "Rule or path" } th.n { "Records" } th.n { "Oldest" } } }
                            tbody {
                                @for group in groups.iter().take(ROWS) {
                                    tr {
                                        td { (tenant(&group.tenant)) }
                                        td { (route(&group.route)) }
                                        td.n { a href=(group_link(name, group)) { (digits(group.count)) } }
                                        td.n title=(moment(group.since_ms)) { (span(now.saturating_sub(group.since_ms))) }
                                    }
                                }
                            }
                        }
                        @if groups.len() > ROWS { p.muted { "and " (groups.len() - ROWS) " more" } }
                    }
                    div.scroll {
                        table {
                            caption { "Single records" }
                            thead { tr { th { "Key" } th { "Tenant" } th.n { "Since" } } }
                            tbody {
                                @for view in records.iter().take(ROWS) {
                                    tr {
                                        td.key { a href=(record_link(&view.key)) { bdi { (view.key.key) } } }
                                        td { (tenant(&view.key.tenant)) }
                                        td.n title=(moment(view.changed_at_ms)) { (span(now.saturating_sub(view.changed_at_ms))) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A small curve; its numbers stand next to it.
fn curve(course: &Course) -> Markup {
    let top = course.steps.iter().copied().fold(0.0, f64::max);
    let points: Vec<String> = course
        .steps
        .iter()
        .enumerate()
        .map(|(n, value)| {
            let x = 120.0 - 2.0 * (course.steps.len() - 1 - n) as f64;
            let y = if top > 0.0 {
                27.0 - 25.0 * value / top
            } else {
                27.0
            };
            format!("{x:.0},{y:.1}")
        })
        .collect();
    html! {
        svg.curve viewBox="0 0 120 28" preserveAspectRatio="none" aria-hidden="true" {
            polyline points=(points.join(" ")) {}
        }
    }
}

fn rates(app: &App) -> Markup {
    let rates = &app.rates;
    let rows = [
        (
            "Executions",
            "granted",
            "/s",
            rates.per_second(|t| t.granted as f64),
        ),
        (
            "Replays",
            "stored answers",
            "/s",
            rates.per_second(|t| t.replayed as f64),
        ),
        (
            "Refusals",
            "409, 422, 429",
            "/s",
            rates.per_second(|t| t.refused as f64),
        ),
        (
            "Store errors",
            "503",
            "/s",
            rates.per_second(|t| t.faults as f64),
        ),
        (
            "Refused callers",
            "wrong or no token",
            "/s",
            rates.per_second(|t| t.auth_failures as f64),
        ),
        ("Time of a call", "mean", "ms", rates.call_ms()),
    ];
    html! {
        section {
            h2 { "The last five minutes" }
            p.muted { "Of this instance. The numbers are means of the last half minute." }
            ul.courses {
                @for (name, what, unit, course) in &rows {
                    li {
                        span.what { (name) " " small { (what) } }
                        (curve(course))
                        span.value { (rate(course.now)) " " small { (unit) } }
                    }
                }
            }
        }
    }
}

fn rules(app: &App) -> Markup {
    let rules = app.metrics.rules.counts();
    html! {
        @if !rules.is_empty() {
            section {
                h2 { "Answers by rule" }
                p.muted { "What gateways were answered for each rule, since this instance started." }
                div.scroll {
                    table {
                        thead { tr { th { "Rule" } th { "Answers" } } }
                        tbody {
                            @for row in &rules {
                                tr {
                                    td { bdi { (row.rule) } }
                                    td {
                                        @for (answer, count) in &row.answers {
                                            span.chip { (answer.replace('_', " ")) " " b { (digits(*count)) } } " "
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
