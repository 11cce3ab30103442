//! What all pages have around them.

use super::visit::Visitor;
use maud::{html, Markup, DOCTYPE};

fn head(title: &str) -> Markup {
    html! {
        meta charset="utf-8";
        meta name="viewport" content="width=device-width, initial-scale=1";
        meta name="color-scheme" content="light dark";
        title { (title) " · Idempotency Gateway" }
        link rel="icon" href="icon.svg" type="image/svg+xml";
        link rel="stylesheet" href="style.css";
        script src="script.js" defer {}
    }
}

/// A whole page for somebody who is known.
pub(super) fn page(visitor: &Visitor, title: &str, content: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head { (head(title)) }
            body {
                a.skip href="#main" { "Skip to the content" }
                header.top {
                    a.brand href="./" { (mark()) span { "Idempotency Gateway" } }
                    nav aria-label="Pages" {
                        a href="./" { "Overview" }
                        a href="search" { "Records" }
                    }
                    form.quick action="search" method="get" role="search" {
                        input type="search" name="text" aria-label="Search records" data-search="true"
                            placeholder="Key, log id, request id or trace id" autocomplete="off" spellcheck="false";
                        button type="submit" { "Search" }
                    }
                    form.who action="logout" method="post" {
                        @if visitor.read_only { span.badge { "read only" } }
                        span.name title="Name of the token that signed in" { (visitor.session.name) }
                        (form_token(visitor))
                        button.quiet type="submit" { "Sign out" }
                    }
                }
                main #main tabindex="-1" { (content) }
                footer {
                    "idempotencyd " (env!("CARGO_PKG_VERSION"))
                    " · what you look at and change here is written to the audit log · "
                    kbd { "/" } " goes to the search box"
                }
            }
        }
    }
}

/// A whole page for somebody who is not known yet.
pub(super) fn bare(title: &str, content: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head { (head(title)) }
            body.bare { main #main { (content) } }
        }
    }
}

/// See [`super::bounce`].
pub(super) fn bounce() -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="refresh" content="0";
                title { "Idempotency Gateway" }
            }
            body {}
        }
    }
}

/// What shows that a form is one of this session's pages.
pub(super) fn form_token(visitor: &Visitor) -> Markup {
    html! { input type="hidden" name="form_token" value=(visitor.session.form_token); }
}

/// Two arrows that end in one point: many requests, one execution.
fn mark() -> Markup {
    html! {
        svg.mark viewBox="0 0 24 24" width="22" height="22" aria-hidden="true" {
            path d="M3 6h6l5 6h7M3 18h6l5-6" {}
            circle cx="20" cy="12" r="2" {}
        }
    }
}

/// The name of a state, coloured.
pub(super) fn state(name: &str) -> Markup {
    html! { span class={ "state " (name) } { (name) } }
}

/// Says that something went well or wrong.
pub(super) fn notice(kind: &str, text: &str) -> Markup {
    html! { p class={ "notice " (kind) } role="status" { (text) } }
}
