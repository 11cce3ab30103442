//! The answers that the filter makes itself: RFC 9457 problem documents, as
//! draft-ietf-httpapi-idempotency-key-header-07 asks for.

use crate::canonical_json::string as json_string;
use crate::config::{OnUnknown, Policies, Policy};
use crate::headers::Headers;
use crate::reply::LocalReply;
use crate::{cors, stripe};
use bytes::Bytes;
use idempotency_protocol::{log_id, LookupKey};

/// Why a request was not executed, or its answer not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// The rule requires a key.
    MissingKey,
    /// Malformed, empty, too long, several values.
    InvalidKey,
    /// No verified tenant.
    TenantMissing,
    /// The key was used with another payload.
    KeyReused,
    /// The first execution is still running.
    InFlight,
    /// The first execution may have happened.
    OutcomeUnknown,
    /// The record's fingerprint was made by another scheme.
    NotComparable,
    /// Done before, but the answer was not kept.
    NotReplayable,
    /// The request body is over the cap.
    BodyTooLarge,
    /// A form of request that cannot be protected.
    UnsupportedRequest,
    /// The idempotency service gave no usable answer.
    StoreUnavailable,
    /// The filter's configuration was rejected, or the host's does not fit.
    Misconfigured,
    /// Executed, but the outcome could not be recorded, and the rule says to withhold it.
    OutcomeUnrecorded,
    /// The tenant's quota of new records is used up.
    TenantQuota,
}

struct Facts {
    name: &'static str,
    status: u16,
    title: &'static str,
    detail: &'static str,
    retryable: bool,
    reuse_key: bool,
    retry_after: bool,
}

impl Problem {
    /// All problems, for documentation and metrics.
    pub const ALL: [Problem; 14] = [
        Problem::MissingKey,
        Problem::InvalidKey,
        Problem::TenantMissing,
        Problem::KeyReused,
        Problem::InFlight,
        Problem::OutcomeUnknown,
        Problem::NotComparable,
        Problem::NotReplayable,
        Problem::BodyTooLarge,
        Problem::UnsupportedRequest,
        Problem::StoreUnavailable,
        Problem::Misconfigured,
        Problem::OutcomeUnrecorded,
        Problem::TenantQuota,
    ];

    fn facts(self) -> Facts {
        let (name, status, title, detail, retryable, reuse_key, retry_after) = match self {
            Problem::MissingKey => (
                "missing-key",
                400,
                "Idempotency key missing",
                "This operation requires an idempotency key header.",
                false,
                false,
                false,
            ),
            Problem::InvalidKey => (
                "invalid-key",
                400,
                "Idempotency key invalid",
                "The idempotency key header is malformed.",
                false,
                false,
                false,
            ),
            Problem::TenantMissing => (
                "tenant-missing",
                403,
                "Caller not identified",
                "The caller that the idempotency key belongs to could not be determined.",
                false,
                true,
                false,
            ),
            Problem::KeyReused => (
                "key-reused",
                422,
                "Idempotency key reused",
                "This idempotency key was already used with a different request.",
                false,
                false,
                false,
            ),
            Problem::InFlight => (
                "in-flight",
                409,
                "Request in progress",
                "A request with this idempotency key is still being processed.",
                true,
                true,
                true,
            ),
            Problem::OutcomeUnknown => (
                "outcome-unknown",
                409,
                "Outcome unknown",
                "An earlier request with this idempotency key may have been executed; its outcome \
                 is not known. It will not be executed again.",
                false,
                true,
                false,
            ),
            Problem::NotComparable => (
                "not-comparable",
                409,
                "Requests not comparable",
                "An earlier request with this idempotency key was recorded under other \
                 fingerprint settings, so the two cannot be compared.",
                false,
                true,
                false,
            ),
            Problem::NotReplayable => (
                "not-replayable",
                409,
                "Response not replayable",
                "An earlier request with this idempotency key was executed; its response was not \
                 kept.",
                false,
                true,
                false,
            ),
            Problem::BodyTooLarge => (
                "body-too-large",
                413,
                "Request body too large",
                "The request body is larger than this operation accepts.",
                false,
                false,
                false,
            ),
            Problem::UnsupportedRequest => (
                "unsupported-request",
                400,
                "Request form not supported",
                "This form of request cannot be protected against repeated execution.",
                false,
                false,
                false,
            ),
            Problem::StoreUnavailable => (
                "store-unavailable",
                503,
                "Idempotency service unavailable",
                "The request was not executed because its idempotency key could not be checked.",
                true,
                true,
                true,
            ),
            Problem::Misconfigured => (
                "misconfigured",
                503,
                "Gateway misconfigured",
                "The request was not executed because the gateway's idempotency configuration \
                 needs to be corrected.",
                true,
                true,
                true,
            ),
            Problem::OutcomeUnrecorded => (
                "outcome-unrecorded",
                503,
                "Outcome not recorded",
                "The request was executed, but its outcome could not be recorded. Retry with the \
                 same key.",
                true,
                true,
                true,
            ),
            Problem::TenantQuota => (
                "tenant-quota",
                429,
                "Quota used up",
                "The request was not executed: this caller has used up its quota of new \
                 idempotency keys.",
                true,
                true,
                true,
            ),
        };
        Facts {
            name,
            status,
            title,
            detail,
            retryable,
            reuse_key,
            retry_after,
        }
    }

    /// The last part of the problem's `type`.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// What the client is told where the program knows no more.
    pub fn detail(self) -> &'static str {
        self.facts().detail
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        self.facts().status
    }

    /// Whether sending the same request again, with the same key, may succeed.
    pub fn retryable(self) -> bool {
        self.facts().retryable
    }

    /// The answer as the client gets it. `detail` replaces the standing text where the filter
    /// knows more; it must not contain keys or payloads.
    pub fn reply(self, settings: &ProblemSettings, detail: Option<&str>) -> LocalReply {
        let stripe = settings.by.is_some_and(|by| by.policy.problems.stripe);
        let status = match self {
            Problem::KeyReused if stripe => stripe::KEY_REUSED,
            _ => self.status(),
        };
        self.reply_as(status, settings, detail)
    }

    /// As [`Self::reply`] with another status: the same problem, met in another role.
    pub fn reply_as(
        self,
        status: u16,
        settings: &ProblemSettings,
        detail: Option<&str>,
    ) -> LocalReply {
        let mut facts = self.facts();
        let again = settings
            .by
            .is_some_and(|by| by.policy.on_unknown == OnUnknown::Retry);
        if again && self == Problem::OutcomeUnknown {
            (facts.retryable, facts.retry_after) = (true, true);
        }
        let kind = format!("{}{}", settings.base, facts.name);
        let (retryable, reuse_key) = (facts.retryable, facts.reuse_key);
        let detail = detail.unwrap_or(facts.detail);
        let mut body = b"{\"detail\":".to_vec();
        json_string(detail, &mut body);
        if let Some(key) = settings.key {
            // A relative reference (RFC 9457 §3.1.5): hexadecimal digits alone.
            body.extend_from_slice(b",\"instance\":");
            json_string(&log_id(key), &mut body);
        }
        let known =
            format!(r#","retryable":{retryable},"reuse_key":{reuse_key},"status":{status}"#);
        body.extend_from_slice(known.as_bytes());
        body.extend_from_slice(b",\"title\":");
        json_string(facts.title, &mut body);
        body.extend_from_slice(b",\"type\":");
        json_string(&kind, &mut body);
        let mut more = Vec::new();
        if let Some(by) = &settings.by {
            self.add_form(by.policy, detail, &mut body, &mut more);
        }
        body.push(b'}');
        let mut headers = vec![
            header("content-type", "application/problem+json"),
            header("cache-control", "no-store"),
            header("link", &format!("<{kind}>; rel=\"describedby\"")),
        ];
        if facts.retry_after {
            headers.push(header("retry-after", &settings.retry_after_s.to_string()));
        }
        if let Some(by) = &settings.by {
            cors::share(by.policies, by.policy, by.request, &mut headers, &more);
        }
        headers.extend(more);
        LocalReply {
            status,
            headers,
            body: Bytes::from(body),
        }
    }

    /// What the rule adds to a document that is open at its end, and to its headers.
    fn add_form(
        self,
        policy: &Policy,
        detail: &str,
        body: &mut Vec<u8>,
        headers: &mut Vec<(Bytes, Bytes)>,
    ) {
        let own = policy.problems.form(self);
        if let Some(form) = own {
            body.extend_from_slice(&form.members);
            headers.extend_from_slice(&form.headers);
        }
        if !policy.problems.stripe {
            return;
        }
        if !own.is_some_and(|form| form.has_error) {
            stripe::error(self, detail, body);
        }
        if !self.retryable()
            && !headers
                .iter()
                .any(|(n, _)| n.as_ref() == stripe::SHOULD_RETRY)
        {
            headers.push((
                Bytes::from_static(stripe::SHOULD_RETRY),
                Bytes::from_static(b"false"),
            ));
        }
    }
}

/// What problem documents need of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct ProblemSettings<'a> {
    /// Prefix of `type`.
    base: &'a str,
    /// `Retry-After` in seconds.
    retry_after_s: u64,
    /// The rule that refuses; `None`: there is none.
    by: Option<By<'a>>,
    /// The record that it is about: its log id is the document's `instance`.
    key: Option<&'a LookupKey>,
}

/// A rule that refuses a request.
#[derive(Clone, Copy, Debug)]
struct By<'a> {
    policies: &'a Policies,
    policy: &'a Policy,
    /// The headers of the request.
    request: &'a Headers,
}

impl<'a> ProblemSettings<'a> {
    /// Used while there is no valid configuration.
    pub const DEFAULT: ProblemSettings<'static> = ProblemSettings {
        base: "urn:idempotency-gateway:problem:",
        retry_after_s: 1,
        by: None,
        key: None,
    };

    /// From a configuration, one of its rules, and the headers of the request that is refused.
    pub fn new(policies: &'a Policies, policy: &'a Policy, request: &'a Headers) -> Self {
        ProblemSettings {
            base: &policies.problem_base,
            retry_after_s: policy.retry_after_s,
            by: Some(By {
                policies,
                policy,
                request,
            }),
            key: None,
        }
    }

    /// With the record that it is about, if that is known. Its log id leads from the document to the lines of logs and
    /// to the record.
    pub fn about(self, key: Option<&'a LookupKey>) -> Self {
        ProblemSettings { key, ..self }
    }
}

fn header(name: &'static str, value: &str) -> (Bytes, Bytes) {
    (
        Bytes::from_static(name.as_bytes()),
        Bytes::copy_from_slice(value.as_bytes()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_protocol::Origin;

    #[test]
    fn the_document_as_it_is_written() {
        let settings = ProblemSettings {
            base: "https://example.com/problems/",
            ..ProblemSettings::DEFAULT
        };
        let detail = "A \"quoted\" back\\slash, a\tcontrol character, ä and 𝄞.";
        let reply = Problem::KeyReused.reply(&settings, Some(detail));
        let written = std::str::from_utf8(&reply.body).unwrap();
        let expected = concat!(
            r#"{"detail":"A \"quoted\" back\\slash, a\u0009control character, ä and 𝄞.","#,
            r#""retryable":false,"reuse_key":false,"status":422,"#,
            r#""title":"Idempotency key reused","#,
            r#""type":"https://example.com/problems/key-reused"}"#
        );
        assert_eq!(written, expected);
        let json: serde_json::Value = serde_json::from_str(written).unwrap();
        assert_eq!(json["detail"], detail);
    }

    #[test]
    fn a_document_about_a_record_says_by_which_name_logs_know_it() {
        let key = LookupKey {
            tenant: "acme".into(),
            namespace: String::new(),
            origin: Origin::Client,
            key: "k-1".into(),
        };
        for problem in Problem::ALL {
            let plain = problem.reply(&ProblemSettings::DEFAULT, None);
            let about = problem.reply(&ProblemSettings::DEFAULT.about(Some(&key)), None);
            let mut document: serde_json::Value = serde_json::from_slice(&about.body).unwrap();
            let instance = document.as_object_mut().unwrap().remove("instance");
            assert_eq!(instance, Some(log_id(&key).into()), "{problem:?}");
            let without: serde_json::Value = serde_json::from_slice(&plain.body).unwrap();
            assert_eq!(document, without, "{problem:?}");
            assert_eq!(about.headers, plain.headers, "{problem:?}");
        }
    }

    #[test]
    fn every_problem_is_a_complete_document() {
        for problem in Problem::ALL {
            let reply = problem.reply(&ProblemSettings::DEFAULT, None);
            let json: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(json["status"], reply.status, "{problem:?}");
            assert_eq!(
                json["type"],
                format!("urn:idempotency-gateway:problem:{}", problem.name()),
                "{problem:?}"
            );
            for field in ["title", "detail"] {
                assert!(
                    json[field].as_str().is_some_and(|s| !s.is_empty()),
                    "{problem:?}"
                );
            }
            assert!(json["retryable"].is_boolean() && json["reuse_key"].is_boolean());
            let names: Vec<&[u8]> = reply.headers.iter().map(|(n, _)| n.as_ref()).collect();
            assert!(
                names.contains(&b"link".as_ref()) && names.contains(&b"cache-control".as_ref())
            );
            assert_eq!(
                names.contains(&b"retry-after".as_ref()),
                problem.retryable(),
                "{problem:?}: what may be retried says when"
            );
        }
    }

    fn with(problems: &str, problem: Problem) -> (LocalReply, serde_json::Value) {
        let text =
            format!(r#"{{"rules":[{{"match":{{}},"scope":"global","problems":{problems}}}]}}"#);
        let policies = crate::config::parse_policies(&text).unwrap();
        let request = Headers::default();
        let settings = ProblemSettings::new(&policies, &policies.rules[0].policy, &request);
        let reply = problem.reply(&settings, None);
        let document = serde_json::from_slice(&reply.body).unwrap();
        (reply, document)
    }

    fn value<'a>(reply: &'a LocalReply, name: &str) -> Option<&'a [u8]> {
        let mut headers = reply.headers.iter();
        let found = headers.find(|(n, _)| n.as_ref() == name.as_bytes());
        found.map(|(_, value)| value.as_ref())
    }

    #[test]
    fn a_rule_adds_members_and_headers_to_one_type() {
        let own = r#"{"key-reused":{"members":{"error":{"n":1.50,"a":[true,null,"\"ü"]},"z":0},
                                     "headers":{"X-Should-Retry":"false"}}}"#;
        let (reply, _) = with(own, Problem::KeyReused);
        let text = std::str::from_utf8(&reply.body).unwrap();
        assert!(
            text.ends_with(concat!(
                r#""type":"urn:idempotency-gateway:problem:key-reused","#,
                r#""error":{"n":1.50,"a":[true,null,"\"ü"]},"z":0}"#
            )),
            "{text}"
        );
        assert_eq!(value(&reply, "x-should-retry"), Some(&b"false"[..]));
        let (other, _) = with(own, Problem::InFlight);
        let plain = Problem::InFlight.reply(&ProblemSettings::DEFAULT, None);
        assert_eq!(other, plain);
    }

    #[test]
    fn stripes_form() {
        for problem in Problem::ALL {
            let (reply, document) = with("\"stripe\"", problem);
            let error = &document["error"];
            assert_eq!(error["message"], document["detail"], "{problem:?}");
            let kind = error["type"].as_str().unwrap();
            let known = ["idempotency_error", "invalid_request_error", "api_error"];
            assert!(known.contains(&kind), "{problem:?} {kind}");
            assert_eq!(kind == "api_error", reply.status >= 500, "{problem:?}");
            let stop = (!problem.retryable()).then_some(&b"false"[..]);
            assert_eq!(value(&reply, "stripe-should-retry"), stop, "{problem:?}");
            assert_eq!(document["title"], problem.facts().title, "{problem:?}");
            assert_eq!(document["status"], reply.status, "{problem:?}");
            let status = match problem {
                Problem::KeyReused => 400,
                _ => problem.status(),
            };
            assert_eq!(reply.status, status, "{problem:?}");
        }
        let (_, document) = with("\"stripe\"", Problem::InFlight);
        assert_eq!(document["error"]["code"], "idempotency_key_in_use");
    }

    /// What a rule says of a type wins over Stripe's form, and leaves the rest of it.
    #[test]
    fn stripes_form_and_the_rules_own() {
        let text = r#"{"defaults":{"scope":"global","problems":"stripe"},"rules":[{"match":{},
            "problems":{"key-reused":{"members":{"code":"x"},"headers":{"Stripe-Should-Retry":"true"}},
                        "not-replayable":{"members":{"error":"x"}}}}]}"#;
        let policies = crate::config::parse_policies(text).unwrap();
        let request = Headers::default();
        let settings = ProblemSettings::new(&policies, &policies.rules[0].policy, &request);
        let reply = Problem::KeyReused.reply(&settings, None);
        let document: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(document["code"], "x");
        assert_eq!(document["error"]["type"], "idempotency_error");
        assert_eq!(value(&reply, "stripe-should-retry"), Some(&b"true"[..]));
        let reply = Problem::NotReplayable.reply(&settings, None);
        let document: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(document["error"], "x");
    }
}
