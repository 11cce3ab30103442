//! Refusals as Stripe's API makes them, for its SDKs: an `error` object beside the problem's members, a header that
//! stops their retries, since they repeat every 409 and 5xx otherwise, and the status of a key that was reused.

use crate::canonical_json::string;
use crate::problem::Problem;
use bytes::Bytes;

/// Name of the member.
pub const ERROR: &str = "error";

/// Name of the header. Only refusals that no repetition changes have it.
pub const SHOULD_RETRY: &str = "stripe-should-retry";

/// Status of a refusal whose key has another payload, as of Stripe's API: with any other but 400 and 404 its SDKs
/// do not look at the type of an error.
pub const KEY_REUSED: u16 = 400;

/// The header of a refusal, if it has one.
pub fn header(problem: Problem) -> Option<(Bytes, Bytes)> {
    (!problem.retryable()).then(|| (SHOULD_RETRY.into(), "false".into()))
}

/// The `error` object. `message` is the problem's detail.
pub fn error(problem: Problem, message: &str) -> Vec<u8> {
    let (kind, code) = match problem {
        Problem::KeyReused
        | Problem::OutcomeUnknown
        | Problem::NotComparable
        | Problem::NotReplayable => ("idempotency_error", ""),
        Problem::InFlight => ("idempotency_error", "idempotency_key_in_use"),
        Problem::MissingKey
        | Problem::InvalidKey
        | Problem::TenantMissing
        | Problem::BodyTooLarge
        | Problem::UnsupportedRequest => ("invalid_request_error", ""),
        Problem::TenantQuota => ("invalid_request_error", "rate_limit"),
        Problem::StoreUnavailable | Problem::Misconfigured | Problem::OutcomeUnrecorded => {
            ("api_error", "")
        }
    };
    let mut out = b"{".to_vec();
    if !code.is_empty() {
        out.extend_from_slice(b"\"code\":");
        string(code, &mut out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"message\":");
    string(message, &mut out);
    out.extend_from_slice(b",\"type\":");
    string(kind, &mut out);
    out.push(b'}');
    out
}
