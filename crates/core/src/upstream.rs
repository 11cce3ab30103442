//! The request headers that only we send upstream, and those of a client that must not pass.

use crate::path::{escape_into, is_unreserved};
use idempotency_protocol::{LookupKey, Origin};

/// Request header with the fence: it only grows per key, so a resource can refuse an old holder.
pub const FENCE: &str = "idempotency-fence";
/// Request header with the attempt number, 1 for the first execution.
pub const ATTEMPT: &str = "idempotency-attempt";
/// Request header that names the record; ready to use as the query of the service's settle call.
pub const RECORD: &str = "idempotency-record";
/// Request header that marks a request forwarded without protection.
pub const UNPROTECTED: &str = "idempotency-unprotected";
/// Request header that proves to a gateway behind this one under which lock a request is executed.
pub const PROOF: &str = "idempotency-proof";

/// All of them: what a client must never send.
pub const OURS: [&str; 5] = [FENCE, ATTEMPT, RECORD, UNPROTECTED, PROOF];

/// Client headers by which Envoy would execute a request more than once, hedge it, cut its
/// timeout below the lease's, or turn a timeout into a success.
pub const ENVOY_PREFIXES: [&str; 5] = [
    "x-envoy-retry-",
    "x-envoy-max-retries",
    "x-envoy-hedge-",
    "x-envoy-retriable-",
    "x-envoy-upstream-",
];

/// Names a record in the query syntax of the service's API.
pub fn record_query(key: &LookupKey) -> String {
    let names = "tenant=&namespace=&key=&origin=derived".len();
    let values = key.tenant.len() + key.namespace.len() + key.key.len();
    let mut out = String::with_capacity(names + values);
    out.push_str("tenant=");
    escape(&key.tenant, &mut out);
    out.push_str("&namespace=");
    escape(&key.namespace, &mut out);
    out.push_str("&key=");
    escape(&key.key, &mut out);
    if key.origin == Origin::Derived {
        out.push_str("&origin=derived");
    }
    out
}

fn escape(text: &str, out: &mut String) {
    let is_escaped = |byte: u8| !is_unreserved(byte);
    let mut rest = text;
    while let Some(at) = rest.bytes().position(is_escaped) {
        // (A character that is no ASCII is escaped from its first byte to its last.)
        let end = rest.bytes().skip(at).position(is_unreserved);
        let end = end.map_or(rest.len(), |length| at + length);
        out.push_str(rest.get(..at).unwrap_or_default());
        let escaped = rest.bytes().take(end).skip(at);
        escaped.for_each(|byte| escape_into(byte, out));
        rest = rest.get(end..).unwrap_or_default();
    }
    out.push_str(rest);
}
