//! The names of all fields but the policy's (`policy.rs`). Everything else is refused.

pub(super) const TOP: &[&str] = &[
    "host",
    "service",
    "detached",
    "hop",
    "kong",
    "problem_base",
    "replay_header",
    "defaults",
    "rules",
];
pub(super) const SERVICE: &[&str] = &[
    "target",
    "tls",
    "authority",
    "timeout_ms",
    "token",
    "token_env",
    "batch",
];
pub(super) const BATCH: &[&str] = &["max_in_flight", "max_operations"];
pub(super) const DETACHED: &[&str] = &["cluster"];
pub(super) const HOP: &[&str] = &["key", "key_env", "last"];
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
pub(super) const CORS: &[&str] = &["replay", "origins", "credentials"];
pub(super) const PROBLEM: &[&str] = &["members", "headers"];
pub(super) const SCOPE: &[&str] = &["header", "property", "credentials"];
