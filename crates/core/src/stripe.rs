//! Refusals as Stripe's API makes them, for its SDKs: an `error` object beside the problem's members, a header that
//! stops their retries, since they repeat every 409 and 5xx otherwise, and the status of a key that was reused.

use crate::canonical_json::string;
use crate::problem::Problem;

/// Name of the member.
pub const ERROR: &str = "error";

/// Name of the header. Refusals that no repetition changes have it, with the value `false`.
pub const SHOULD_RETRY: &[u8] = b"stripe-should-retry";

/// Status of a refusal whose key has another payload, as of Stripe's API: with any other but 400 and 404 its SDKs
/// do not look at the type of an error.
pub const KEY_REUSED: u16 = 400;

/// Writes the member behind others. `message` is the problem's detail.
pub fn error(problem: Problem, message: &str, out: &mut Vec<u8>) {
    let known: &[u8] = match problem {
        Problem::KeyReused
        | Problem::OutcomeUnknown
        | Problem::NotComparable
        | Problem::NotReplayable => br#""type":"idempotency_error""#,
        Problem::InFlight => br#""code":"idempotency_key_in_use","type":"idempotency_error""#,
        Problem::MissingKey
        | Problem::InvalidKey
        | Problem::TenantMissing
        | Problem::BodyTooLarge
        | Problem::UnsupportedRequest => br#""type":"invalid_request_error""#,
        Problem::TenantQuota => br#""code":"rate_limit","type":"invalid_request_error""#,
        Problem::StoreUnavailable | Problem::Misconfigured | Problem::OutcomeUnrecorded => {
            br#""type":"api_error""#
        }
    };
    out.extend_from_slice(b",\"error\":{");
    out.extend_from_slice(known);
    out.extend_from_slice(b",\"message\":");
    string(message, out);
    out.push(b'}');
}
