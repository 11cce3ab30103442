//! From the request's headers to the decision: pass, refuse, or protect.
//!
//! Most requests are not protected and pay for one or two header reads; the whole map is read
//! only for a request that a rule may concern.

use crate::config::{Mode, Rule, Scope};
use crate::fingerprint::{self, Hasher};
use crate::headers::Headers;
use crate::host::{Host, Map};
use crate::problem::{Problem, ProblemSettings};
use crate::reply::LocalReply;
use crate::request::{Request, Settings};
use crate::rules::{self, RuleMatch};
use crate::stream::without_key;
use crate::{key, tenant};
use bytes::Bytes;
use std::rc::Rc;

/// What to do with a request.
pub enum Decision {
    /// Not protected.
    Pass,
    /// Would have been refused, but its rule only observes.
    Observed(Problem),
    /// Refused from its headers alone.
    Refuse(Problem, LocalReply),
    /// Protected.
    Protect(Box<Request>, Box<Hasher>),
}

/// A reason to refuse, with what the client is told.
struct Refusal(Problem, String);

/// Decides from the headers of the current stream. `end`: there is no body.
pub fn decide<H: Host>(settings: &Rc<Settings>, host: &H, end: bool) -> Decision {
    let plan = &settings.plan;
    let by_host = plan.rules.iter().any(|rule| !rule.matches.hosts.is_empty());
    let authority = if by_host {
        host.header(Map::Request, ":authority")
    } else {
        Ok(None)
    };
    let (Ok(path), Ok(authority)) = (host.header(Map::Request, ":path"), authority) else {
        return unreadable();
    };
    // `CONNECT` has no path.
    let (path, authority) = (path.unwrap_or_default(), authority.unwrap_or_default());
    if !rules::reaches(plan, &authority, &path) {
        return Decision::Pass;
    }
    let Ok(headers) = host.headers(Map::Request).map(Headers) else {
        return unreadable();
    };
    let method = headers.get(":method").cloned().unwrap_or_default();
    let (index, refusal) = match rules::decide(plan, &method, &authority, &path, &headers.0) {
        RuleMatch::None => return Decision::Pass,
        RuleMatch::Rule(matched) => {
            let Some(rule) = settings.rules.get(matched.index) else {
                return Decision::Pass;
            };
            match protect(settings, rule, headers, &matched, method, host, end) {
                Ok(Some((request, hasher))) => {
                    return Decision::Protect(Box::new(request), Box::new(hasher))
                }
                Ok(None) => return Decision::Pass,
                Err(refusal) => (matched.index, refusal),
            }
        }
        RuleMatch::Ambiguous(index) => {
            let detail = "The path can be read in more than one way.";
            (
                index,
                Refusal(Problem::UnsupportedRequest, detail.to_owned()),
            )
        }
        RuleMatch::Overridden(index) => {
            let detail = "A method override is not accepted for this path.";
            (
                index,
                Refusal(Problem::UnsupportedRequest, detail.to_owned()),
            )
        }
    };
    let Some(rule) = settings.rules.get(index) else {
        return Decision::Pass;
    };
    let Refusal(problem, detail) = refusal;
    if rule.policy.mode == Mode::Observe {
        return Decision::Observed(problem);
    }
    let problem_settings = ProblemSettings::new(plan, rule.policy.retry_after_s);
    Decision::Refuse(problem, problem.reply(&problem_settings, Some(&detail)))
}

/// A request that a rule may concern and that the host does not let us read is not passed.
fn unreadable() -> Decision {
    let problem = Problem::UnsupportedRequest;
    Decision::Refuse(problem, problem.reply(&ProblemSettings::DEFAULT, None))
}

fn protect<H: Host>(
    settings: &Rc<Settings>,
    rule: &Rc<Rule>,
    headers: Headers,
    matched: &rules::Matched,
    method: Bytes,
    host: &H,
    end: bool,
) -> Result<Option<(Request, Hasher)>, Refusal> {
    let policy = &rule.policy;
    supported(&headers)?;

    let values: Vec<&[u8]> = headers.all(&policy.key.header).map(Bytes::as_ref).collect();
    let client_key = if values.is_empty() {
        match without_key(policy.key.when_missing) {
            Ok(true) => None,
            Ok(false) => return Ok(None),
            Err(problem) => {
                let detail = format!("This operation requires the header {}.", policy.key.header);
                return Err(Refusal(problem, detail));
            }
        }
    } else {
        let key = key::parse(&values, policy.key.syntax).map_err(|error| {
            Refusal(
                Problem::InvalidKey,
                format!("Header {}: {error}.", policy.key.header),
            )
        })?;
        Some(key)
    };

    let property = match &policy.scope {
        Scope::Property(path) => {
            host.property(&path.iter().map(String::as_str).collect::<Vec<_>>())
        }
        _ => None,
    };
    let tenant = tenant::resolve(&policy.scope, &headers.0, property.as_deref())
        .map_err(|error| Refusal(Problem::TenantMissing, sentence(&error.to_string())))?;

    if !end
        && headers
            .content_length()
            .is_some_and(|n| n > policy.max_body_bytes as u64)
    {
        let detail = format!(
            "This operation accepts request bodies of at most {} bytes.",
            policy.max_body_bytes
        );
        return Err(Refusal(Problem::BodyTooLarge, detail));
    }

    let authority = headers.get(":authority").cloned().unwrap_or_default();
    let scheme = settings.schemes.get(matched.index);
    let hasher = Hasher::new(
        &policy.fingerprint,
        scheme
            .copied()
            .unwrap_or_else(|| fingerprint::scheme(&policy.fingerprint)),
        &method,
        &matched.path,
        matched.query,
        &authority,
        &headers.0,
    );
    let request = Request {
        settings: Rc::clone(settings),
        rule: Rc::clone(rule),
        tenant,
        client_key,
        method,
        path: matched.path.clone().into_owned(),
        headers,
    };
    Ok(Some((request, hasher)))
}

/// Upgrades and gRPC cannot be replayed. No header exempts a matched request from protection, so
/// they are refused, not passed.
fn supported(headers: &Headers) -> Result<(), Refusal> {
    let refusal = |what: &str| {
        Err(Refusal(
            Problem::UnsupportedRequest,
            format!("{what} cannot be protected against repeated execution."),
        ))
    };
    if headers.has("upgrade")
        || headers
            .get(":method")
            .is_some_and(|m| m.as_ref() == b"CONNECT")
    {
        return refusal("Upgrades");
    }
    let is_grpc = |value: &Bytes| {
        value
            .trim_ascii_start()
            .to_ascii_lowercase()
            .starts_with(b"application/grpc")
    };
    if headers.all("content-type").any(is_grpc) {
        return refusal("gRPC calls");
    }
    Ok(())
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), chars.as_str()),
        None => String::new(),
    }
}
