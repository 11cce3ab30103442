//! Kong's Lua plugin end to end, in an nginx with Lua: what clients see, and how often an upstream executes.

mod answers;
mod endings;
mod leaving;

use idempotency_lua_host::{tools, Host, Options, Trust, Upstream};
use serde_json::{json, Value};

/// A gateway and its upstream.
struct Pair {
    host: Host,
    upstream: Upstream,
}

fn rules() -> Value {
    json!([
        { "name": "short", "match": { "path_prefix": "/short" }, "scope": "global", "lease_ms": 2000,
          "lease_margin_ms": 200 },
        { "name": "stream", "match": { "path_prefix": "/stream" }, "scope": "global", "stream": true },
        { "name": "wait", "match": { "path_prefix": "/wait" }, "scope": "global", "wait_ms": 10000 },
        { "name": "withhold", "match": { "path_prefix": "/withhold" }, "scope": "global",
          "on_complete_failure": "withhold" },
        { "name": "open", "match": { "path_prefix": "/open" }, "scope": "global",
          "on_service_failure": "pass" },
        { "name": "caller", "match": { "path_prefix": "/caller" },
          "scope": { "property": ["kong", "consumer", "custom_id"] } },
        { "name": "pay", "match": { "path_prefix": "/pay", "methods": ["POST", "PUT", "DELETE", "QUERY"] },
          "scope": "global" },
    ])
}

impl Pair {
    fn start(service: Value) -> Pair {
        Pair::before(service, None)
    }

    fn before(service: Value, tls: Option<Trust>) -> Pair {
        let upstream = Upstream::start();
        let host = Host::start(&Options {
            rules: rules(),
            service,
            upstream: upstream.address(),
            // What waits at an upstream's gate in a test is let go within a second.
            read_timeout: 4000,
            workers: 1,
            tls,
        });
        Pair { host, upstream }
    }

    /// With the usual settings; `None`: nothing can be run here.
    fn usual() -> Option<Pair> {
        tools::can_run().then(|| Pair::start(json!({})))
    }
}
