//! The filters that ours is compared with.

use serde_json::{json, Value};

const CALLOUTS: &str = include_str!("callouts.lua");
const BY_HAND: &str = include_str!("by_hand.lua");

/// Envoy's own filter for asking somebody else first. It asks the service's health check, which
/// does nothing: what is measured is one callout.
pub fn ext_authz() -> Value {
    json!({
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "http_service": {
                "server_uri": {
                    "uri": "http://idempotency",
                    "cluster": "idempotency",
                    "timeout": "1s",
                },
                // The path of the request follows; as a query nobody minds it.
                "path_prefix": "/healthz?",
            },
            "allowed_headers": { "patterns": [{ "exact": "idempotency-key" }] },
        },
    })
}

/// A Lua filter that makes the two calls of a first request.
pub fn lua(token: &str) -> Value {
    lua_filter(&CALLOUTS.replace("@TOKEN@", token))
}

/// A Lua filter that asks the service that one would write by hand.
pub fn by_hand() -> Value {
    lua_filter(BY_HAND)
}

fn lua_filter(source: &str) -> Value {
    json!({
        "name": "envoy.filters.http.lua",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": { "inline_string": source },
        },
    })
}
