//! The answers that the filter makes itself: RFC 9457 problem documents, as
//! draft-ietf-httpapi-idempotency-key-header-07 asks for.

use crate::canonical_json::string as json_string;
use crate::config::Policies;
use crate::reply::LocalReply;
use bytes::Bytes;

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
                 needs to be mended.",
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
        self.reply_as(self.status(), settings, detail)
    }

    /// As [`Self::reply`] with another status: the same problem, met in another role.
    pub fn reply_as(
        self,
        status: u16,
        settings: &ProblemSettings,
        detail: Option<&str>,
    ) -> LocalReply {
        let mut facts = self.facts();
        if settings.again && self == Problem::OutcomeUnknown {
            (facts.retryable, facts.retry_after) = (true, true);
        }
        let kind = format!("{}{}", settings.base, facts.name);
        let (retryable, reuse_key) = (facts.retryable, facts.reuse_key);
        let mut body = b"{\"detail\":".to_vec();
        json_string(detail.unwrap_or(facts.detail), &mut body);
        let known =
            format!(r#","retryable":{retryable},"reuse_key":{reuse_key},"status":{status}"#);
        body.extend_from_slice(known.as_bytes());
        body.extend_from_slice(b",\"title\":");
        json_string(facts.title, &mut body);
        body.extend_from_slice(b",\"type\":");
        json_string(&kind, &mut body);
        body.push(b'}');
        let mut headers = vec![
            header("content-type", "application/problem+json"),
            header("cache-control", "no-store"),
            header("link", &format!("<{kind}>; rel=\"describedby\"")),
        ];
        if facts.retry_after {
            headers.push(header("retry-after", &settings.retry_after_s.to_string()));
        }
        LocalReply {
            status,
            headers,
            body: Bytes::from(body),
        }
    }
}

/// What problem documents need of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct ProblemSettings<'a> {
    /// Prefix of `type`.
    pub base: &'a str,
    /// `Retry-After` in seconds.
    pub retry_after_s: u64,
    /// An unknown outcome is executed again, if the client asks again.
    pub again: bool,
}

impl<'a> ProblemSettings<'a> {
    /// Used while there is no valid configuration.
    pub const DEFAULT: ProblemSettings<'static> = ProblemSettings {
        base: "urn:idempotency-gateway:problem:",
        retry_after_s: 1,
        again: false,
    };

    /// From a configuration and one of its rules.
    pub fn new(policies: &'a Policies, retry_after_s: u64) -> Self {
        ProblemSettings {
            base: &policies.problem_base,
            retry_after_s,
            again: false,
        }
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

    #[test]
    fn the_document_as_it_is_written() {
        let settings = ProblemSettings {
            base: "https://example.com/problems/",
            again: false,
            retry_after_s: 1,
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
}
