//! The table of decisions, walked natively. The filter walks it in its host
//! (`src/filter/decisions_test.rs`).

use idempotency_core::config;
use idempotency_core::decide::{decide, RequestHead, Verdict};
use idempotency_core::headers::Headers;
use idempotency_core::settings::{Capabilities, Settings};
use idempotency_core::testing::{Case, CONFIG, DECISIONS};
use std::sync::Arc;

fn settings(removes_fields: bool) -> Arc<Settings> {
    let plan = config::parse(CONFIG).expect("a configuration");
    Arc::new(Settings::new(
        plan.policies,
        Capabilities { removes_fields },
    ))
}

fn head(case: &Case) -> RequestHead {
    let mut headers = case.headers.iter();
    let authority = headers.find(|(name, _)| *name == ":authority");
    let fields = case
        .headers
        .iter()
        .filter(|(name, _)| *name != ":authority");
    RequestHead {
        method: case.method.into(),
        target: case.target.into(),
        authority: authority
            .map_or("api.example.com", |(_, value)| value)
            .into(),
        headers: fields
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect::<Headers>(),
        bodiless: true,
        ..RequestHead::default()
    }
}

fn words(verdict: Verdict) -> String {
    match verdict {
        Verdict::Pass => "pass".to_owned(),
        Verdict::Observed(refused) => format!("observe {}", refused.problem.name()),
        Verdict::Refuse(refused, reply) => {
            format!("refuse {} {}", reply.status, refused.problem.name())
        }
        Verdict::Protect { request, .. } => {
            let key = request.client_key.as_deref().unwrap_or("-");
            match request.tenant.as_str() {
                "" => format!("protect {key}"),
                tenant => format!("protect {key} of {tenant}"),
            }
        }
    }
}

#[test]
fn every_request_becomes_what_the_table_says() {
    let settings = settings(true);
    for case in DECISIONS {
        let decision = decide(&settings, head(case), &());
        let strip: Vec<&[u8]> = decision.strip.iter().map(AsRef::as_ref).collect();
        let wanted: Vec<&[u8]> = case.strip.iter().map(|name| name.as_bytes()).collect();
        assert_eq!(words(decision.verdict), case.becomes, "{case:?}");
        assert_eq!(strip, wanted, "{case:?}");
    }
}

/// Where fields cannot be removed, a request that carries one of ours is refused.
#[test]
fn what_cannot_be_removed_is_refused() {
    let settings = settings(false);
    for case in DECISIONS {
        let decision = decide(&settings, head(case), &());
        assert!(decision.strip.is_empty(), "{case:?}");
        if case
            .strip
            .iter()
            .any(|name| name.starts_with("idempotency"))
        {
            let verdict = words(decision.verdict);
            assert_eq!(verdict, "refuse 400 unsupported-request", "{case:?}");
        }
    }
}

/// One of the fields that the host does not show could turn a request into a protected one. Where no
/// request can be protected, that does not matter.
#[test]
fn a_request_that_is_not_shown_whole_is_refused_where_rules_reach() {
    let settings = settings(false);
    for (method, target, becomes) in [
        ("GET", "/charges", "refuse 400 unsupported-request"),
        ("POST", "/charges", "refuse 400 unsupported-request"),
        (
            "POST",
            "/x%2F..%2Fcharges",
            "refuse 400 unsupported-request",
        ),
        ("POST", "/free", "pass"),
    ] {
        let head = RequestHead {
            method: method.into(),
            target: target.into(),
            authority: "api.example.com".into(),
            truncated: true,
            ..RequestHead::default()
        };
        let verdict = decide(&settings, head, &()).verdict;
        assert_eq!(words(verdict), becomes, "{method} {target}");
    }
}

/// Requests of many threads share the settings.
#[test]
fn settings_and_decisions_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Settings>();
    crosses::<Verdict>();
    crosses::<RequestHead>();
}
