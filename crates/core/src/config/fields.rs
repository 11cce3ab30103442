//! The names of all fields. Everything else is refused.

pub(super) const TOP: &[&str] = &[
    "host",
    "service",
    "detached",
    "kong",
    "problem_base",
    "replay_header",
    "defaults",
    "rules",
];
pub(super) const SERVICE: &[&str] = &["target", "tls", "authority", "timeout_ms", "token", "batch"];
pub(super) const BATCH: &[&str] = &["max_in_flight", "max_operations"];
pub(super) const DETACHED: &[&str] = &["cluster"];
pub(super) const KONG: &[&str] = &["bodies"];
pub(super) const RULE: &[&str] = &["name", "match"];
pub(super) const MATCH: &[&str] = &[
    "methods",
    "path",
    "path_prefix",
    "hosts",
    "kong_routes",
    "kong_services",
];
/// In `defaults` and in rules.
pub(super) const POLICY: &[&str] = &[
    "mode",
    "key",
    "namespace",
    "scope",
    "fingerprint",
    "max_body_bytes",
    "max_response_bytes",
    "execution",
    "execution_timeout_ms",
    "lease_ms",
    "lease_margin_ms",
    "ttl_ms",
    "unknown_ttl_ms",
    "wait_ms",
    "on_unknown",
    "on_service_failure",
    "on_complete_failure",
    "outcomes",
    "replay_headers",
    "cors",
    "accept_encoding",
    "retry_after_s",
];
pub(super) const KEY: &[&str] = &["header", "syntax", "when_missing"];
pub(super) const SCOPE: &[&str] = &["header", "property", "credentials"];
pub(super) const FINGERPRINT: &[&str] = &["body", "headers", "host"];
