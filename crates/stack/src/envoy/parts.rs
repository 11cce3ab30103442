//! The pieces of an Envoy bootstrap, as JSON.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{json, Value};

use crate::gateway::{Cluster, Route, TlsAddress};

/// Name of the internal listener that detached executions go through.
pub(super) const EXECUTION: &str = "execution";

/// Name of the cluster that leads to it.
pub(super) const EXECUTION_CLUSTER: &str = "idempotency_execution";

/// Name of the cluster of the collector of traces.
pub(super) const COLLECTOR: &str = "collector";

/// What the inner hop of a detached execution lets through. The filter and the marks add a few
/// headers; a request or answer at Envoy's ordinary limits (100, 60 KiB) must not fail for those.
const EXECUTION_HEADERS: u32 = 1000;
const EXECUTION_HEADERS_KB: u32 = 96;

const GATEWAY_REPLY: &str = "x-idempotency-gateway-reply";
const GATEWAY_SENT: &str = "x-idempotency-gateway-sent";

const ACCESS_LOG: &str = "[%START_TIME%] %LISTENER% \"%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% rx=%BYTES_RECEIVED% \
    tx=%BYTES_SENT% ms=%DURATION% attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% \
    key=%REQ(IDEMPOTENCY-KEY)% idempotency=%FILTER_STATE(wasm.idempotency:PLAIN)%\n";

/// `{"@type": …}` with further fields.
fn typed(name: &str, mut fields: Value) -> Value {
    fields["@type"] = json!(format!("type.googleapis.com/{name}"));
    fields
}

fn seconds(duration: Duration) -> Value {
    json!(format!(
        "{}.{:09}s",
        duration.as_secs(),
        duration.subsec_nanos()
    ))
}

pub(super) fn tcp(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}

/// What makes labels of the names of the filter's metrics; the same as in the example that ships.
pub(super) fn stats_config() -> Value {
    json!({ "stats_tags": [
        {
            "tag_name": "outcome",
            "regex": r"^wasmcustom\.idempotency_requests(_outcome_([a-z_]+?))_rule_",
        },
        {
            "tag_name": "rule",
            "regex": r"^wasmcustom\.idempotency_requests_outcome_[a-z_]+?(_rule_([a-z0-9_]+))$",
        },
    ] })
}

pub(super) fn internal_listener_extension() -> Value {
    json!({
        "name": "envoy.bootstrap.internal_listener",
        "typed_config": typed(
            "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
            json!({}),
        ),
    })
}

/// A static cluster; without an address it has no host.
pub(super) fn cluster(name: &str, address: Option<Value>, http2: bool) -> Value {
    let protocol = if http2 {
        // A callout must not wait for a stream of another one.
        json!({ "http2_protocol_options": { "max_concurrent_streams": 1_000_000 } })
    } else {
        json!({ "http_protocol_options": { "enable_trailers": true } })
    };
    let mut options = json!({ "explicit_http_config": protocol });
    if name == EXECUTION_CLUSTER {
        options["common_http_protocol_options"] = json!({
            "max_headers_count": EXECUTION_HEADERS,
            "max_response_headers_kb": EXECUTION_HEADERS_KB,
        });
    }
    let endpoints: Vec<_> = address
        .map(|address| json!({ "lb_endpoints": [{ "endpoint": { "address": address } }] }))
        .into_iter()
        .collect();
    let most = 1_000_000;
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": { "cluster_name": name, "endpoints": endpoints },
        // The defaults (1024) are for the internet; storms of tests must meet our own limits.
        "circuit_breakers": { "thresholds": [{
            "max_connections": most, "max_pending_requests": most, "max_requests": most,
        }] },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                options,
            ),
        },
    })
}

/// Puts filters before what a cluster sends.
pub(super) fn add_filters(cluster: &mut Value, filters: &[Value]) {
    if filters.is_empty() {
        return;
    }
    let mut filters = filters.to_vec();
    filters.push(upstream_codec());
    let options = &mut cluster["typed_extension_protocol_options"]
        ["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    options["http_filters"] = json!(filters);
}

/// The last one of such filters.
fn upstream_codec() -> Value {
    json!({
        "name": "envoy.filters.http.upstream_codec",
        "typed_config": typed(
            "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
            json!({}),
        ),
    })
}

/// How the cluster of the service speaks mTLS, as in `envoy/tls.yaml`; a test compares the two.
pub(super) fn mtls(tls: &TlsAddress) -> Value {
    let secret = |name: &str, path: &Path| {
        json!({
            "name": name,
            "sds_config": {
                "resource_api_version": "V3",
                "path_config_source": { "path": path },
            },
        })
    };
    let names = json!([{ "san_type": "DNS", "matcher": { "exact": tls.name } }]);
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            json!({
                "sni": tls.name,
                "common_tls_context": {
                    "tls_params": {
                        "tls_minimum_protocol_version": "TLSv1_2",
                        "tls_maximum_protocol_version": "TLSv1_3",
                    },
                    "tls_certificate_sds_secret_configs":
                        [secret("gateway-certificate", &tls.sds_certificate)],
                    "combined_validation_context": {
                        "default_validation_context": { "match_typed_subject_alt_names": names },
                        "validation_context_sds_secret_config":
                            secret("service-authority", &tls.sds_authority),
                    },
                },
            }),
        ),
    })
}

/// The name of the cluster with this address.
fn name_of(address: SocketAddr) -> String {
    format!("at-{}", address.port())
}

/// A cluster of a server that closes its connections without a word: a second request must not
/// find that out.
pub(super) fn one_request_cluster(address: SocketAddr) -> Value {
    let mut cluster = cluster(&name_of(address), Some(tcp(address)), false);
    let options = &mut cluster["typed_extension_protocol_options"]
        ["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    options["common_http_protocol_options"] = json!({ "max_requests_per_connection": 1 });
    cluster
}

/// A filter that sets a request header to another one's value.
pub(crate) fn set_from(from: &str, to: &str) -> Value {
    json!({
        "name": "auth",
        "typed_config": typed(
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            json!({ "mutations": { "request_mutations": [{ "append": {
                "header": { "key": to, "value": format!("%REQ({from})%") },
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            } }] } }),
        ),
    })
}

/// Envoy's own filter for CORS, as an operator puts it in front: what it does is said at the routes.
pub(super) fn cors_filter() -> Value {
    let name = "envoy.extensions.filters.http.cors.v3.Cors";
    json!({ "name": CORS, "typed_config": typed(name, json!({})) })
}

const CORS: &str = "cors";

/// What it allows on a route. The names that it exposes are those that `docs/clients.md` asks for.
fn cors_policy(origin: &str) -> Value {
    let policy = json!({
        "allow_origin_string_match": [{ "exact": origin }],
        "allow_methods": "POST",
        "allow_headers": "idempotency-key, content-type",
        "expose_headers": "idempotency-replayed, idempotency-expires, retry-after",
        "max_age": "600",
    });
    typed("envoy.extensions.filters.http.cors.v3.CorsPolicy", policy)
}

/// The filter's name among the HTTP filters; routes refer to it.
const FILTER: &str = "idempotency";

/// The filter itself.
pub(super) fn wasm_filter<'e>(
    wasm: &Path,
    configuration: &str,
    stop_iteration: bool,
    environment: impl Iterator<Item = &'e str>,
) -> Value {
    let mut filter = json!({
        "name": FILTER,
        "typed_config": typed("envoy.extensions.filters.http.wasm.v3.Wasm", json!({
            "config": {
                "name": FILTER,
                "root_id": FILTER,
                "failure_policy": "FAIL_CLOSED",
                "allow_on_headers_stop_iteration": stop_iteration,
                "configuration": typed(
                    "google.protobuf.StringValue",
                    json!({ "value": configuration }),
                ),
                "vm_config": {
                    "vm_id": FILTER,
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": { "local": { "filename": wasm } },
                },
            },
        })),
    });
    let environment: Vec<_> = environment.collect();
    if !environment.is_empty() {
        filter["typed_config"]["config"]["vm_config"]["environment_variables"] =
            json!({ "host_env_keys": environment });
    }
    filter
}

/// The name of the native module: its file is `lib` + this + `.so`.
pub(super) const MODULE: &str = "idempotency_envoy";

/// The filter as a native module, from a directory of modules.
pub(super) fn native_filter(configuration: &str) -> Value {
    json!({
        "name": FILTER,
        "typed_config": typed(
            "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
            json!({
                "dynamic_module_config": {
                    "name": MODULE,
                    "do_not_close": true,
                    // As with WebAssembly, so that dashboards need not know.
                    "metrics_namespace": "wasmcustom",
                },
                "filter_name": FILTER,
                "filter_config": typed(
                    "google.protobuf.StringValue",
                    json!({ "value": configuration }),
                ),
            }),
        ),
    })
}

/// An HTTP connection manager.
#[derive(Debug, Clone)]
pub(super) struct Hcm<'a> {
    pub(super) name: &'a str,
    pub(super) filters: Vec<Value>,
    pub(super) routes: &'a [Route],
    pub(super) timeout: Duration,
    pub(super) normalize_path: bool,
    /// Fields of `idempotencyd envoy-config`, but for its filters.
    pub(super) printed: Option<Value>,
    pub(super) upgrades: &'a [String],
    /// Behind the filter's back: execute once, and tell who made the answer, upstream or Envoy.
    pub(super) executes: bool,
    /// With the limits that we ship.
    pub(super) limits: bool,
    /// A collector that gets the spans of its requests.
    pub(super) tracing: Option<SocketAddr>,
    pub(super) access_log: Option<&'a Path>,
}

impl Hcm<'_> {
    pub(super) fn filter_chain(&self) -> Value {
        let mut filters = self.filters.clone();
        if self.executes {
            filters.push(no_retries());
        }
        filters.push(json!({
            "name": "envoy.filters.http.router",
            "typed_config": typed(
                "envoy.extensions.filters.http.router.v3.Router",
                if self.executes { mark_of_upstream() } else { json!({}) },
            ),
        }));
        let routes: Vec<_> = self.routes.iter().map(|route| self.route(route)).collect();
        let mut hcm = json!({
            "stat_prefix": self.name,
            "codec_type": "AUTO",
            "use_remote_address": false,
            "http_protocol_options": { "enable_trailers": true },
            "normalize_path": self.normalize_path,
            "merge_slashes": self.normalize_path,
            "path_with_escaped_slashes_action":
                if self.normalize_path { "REJECT_REQUEST" } else { "KEEP_UNCHANGED" },
            "route_config": {
                "name": self.name,
                "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }],
            },
            "http_filters": filters,
            "upgrade_configs": self.upgrades.iter()
                .map(|upgrade| json!({ "upgrade_type": upgrade }))
                .collect::<Vec<_>>(),
        });
        if let Some(printed) = self.printed.as_ref().and_then(Value::as_object) {
            for (field, value) in printed.iter().filter(|(_, value)| !value.is_null()) {
                hcm[field] = value.clone();
            }
        }
        if self.limits {
            add_limits(&mut hcm);
        }
        if let Some(collector) = self.tracing {
            hcm["tracing"] = tracing(collector, self.name);
        }
        if self.executes {
            hcm["local_reply_config"] = mark_of_gateway();
            // The filter's timeout rules.
            hcm["stream_idle_timeout"] = json!("0s");
            hcm["max_request_headers_kb"] = json!(EXECUTION_HEADERS_KB);
            hcm["common_http_protocol_options"] = json!({ "max_headers_count": EXECUTION_HEADERS });
        }
        if let Some(path) = self.access_log {
            let format = ACCESS_LOG.replace("%LISTENER%", self.name);
            hcm["access_log"] = json!([{
                "name": "envoy.access_loggers.file",
                "typed_config": typed(
                    "envoy.extensions.access_loggers.file.v3.FileAccessLog",
                    json!({
                        "path": path,
                        "log_format": { "text_format_source": { "inline_string": format } },
                    }),
                ),
            }]);
        }
        json!({ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": typed(
                "envoy.extensions.filters.network.http_connection_manager.v3.\
                 HttpConnectionManager",
                hcm,
            ),
        }] })
    }

    fn route(&self, route: &Route) -> Value {
        let cluster = match &route.cluster {
            Cluster::Upstream => "upstream".to_owned(),
            Cluster::NoHosts => "no-hosts".to_owned(),
            Cluster::Refused => "refused".to_owned(),
            Cluster::Named(name) => name.clone(),
            Cluster::At(address) => name_of(*address),
        };
        let mut action = json!({
            "cluster": cluster,
            "timeout": seconds(route.timeout.unwrap_or(self.timeout)),
        });
        if route.retries {
            action["retry_policy"] = json!({ "retry_on": "5xx,reset", "num_retries": 2 });
        }
        let mut whole = json!({ "match": { "prefix": route.prefix }, "route": action });
        if route.without_filter {
            let disabled = json!({ "disabled": true });
            whole["typed_per_filter_config"][FILTER] =
                typed("envoy.config.route.v3.FilterConfig", disabled);
        }
        if let Some(origin) = &route.cors_origin {
            whole["typed_per_filter_config"][CORS] = cors_policy(origin);
        }
        whole
    }
}

/// Traces of a listener: a span for each request, and one for what goes upstream.
fn tracing(collector: SocketAddr, name: &str) -> Value {
    let service = json!({ "http_uri": {
        "uri": format!("http://{collector}/v1/traces"),
        "cluster": COLLECTOR,
        "timeout": "1s",
    } });
    json!({
        "spawn_upstream_span": true,
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": typed(
                "envoy.config.trace.v3.OpenTelemetryConfig",
                json!({ "http_service": service, "service_name": format!("envoy {name}") }),
            ),
        },
    })
}

/// Settings of Envoy's tracer: a test does not wait for five spans to gather.
pub(super) fn spans_at_once() -> Value {
    json!({
        "name": "traces",
        "static_layer": { "tracing.opentelemetry.min_flush_spans": 1 },
    })
}

/// Prometheus is told a native module's metrics by their own names, as those of WebAssembly are.
pub(super) fn plain_metric_names() -> Value {
    json!({
        "name": "metrics",
        "static_layer": {
            "envoy.reloadable_features.dynamic_modules_strip_custom_stat_prefix": true,
        },
    })
}

/// What a client may take, as in `envoy/envoy.yaml`; a test compares the two.
fn add_limits(hcm: &mut Value) {
    hcm["request_headers_timeout"] = json!("10s");
    hcm["request_timeout"] = json!("90s");
    hcm["stream_idle_timeout"] = json!("300s");
    hcm["common_http_protocol_options"] = json!({
        "idle_timeout": "300s",
        "headers_with_underscores_action": "DROP_HEADER",
    });
    hcm["http2_protocol_options"] = json!({
        "max_concurrent_streams": 100,
        "initial_stream_window_size": 2_097_152,
        "initial_connection_window_size": 4_194_304,
    });
}

/// What all clients together may take, as in `envoy/envoy.yaml`.
pub(super) fn overload_manager() -> Value {
    const HEAP: &str = "envoy.resource_monitors.fixed_heap";
    let action = |name: &str, threshold: f64| {
        json!({
            "name": format!("envoy.overload_actions.{name}"),
            "triggers": [{ "name": HEAP, "threshold": { "value": threshold } }],
        })
    };
    json!({
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": HEAP,
                "typed_config": typed(
                    "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    json!({ "max_heap_size_bytes": 1_073_741_824 }),
                ),
            },
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": typed(
                    "envoy.extensions.resource_monitors.downstream_connections.v3.\
                     DownstreamConnectionsConfig",
                    json!({ "max_active_downstream_connections": 10_000 }),
                ),
            },
        ],
        "actions": [
            action("shrink_heap", 0.9),
            action("stop_accepting_requests", 0.95),
            action("stop_accepting_connections", 0.98),
        ],
    })
}

fn set_header(name: &str, value: &str) -> Value {
    json!({
        "header": { "key": name, "value": value },
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    })
}

/// Router settings that mark what an upstream answered. These filters run only on answers that
/// came from an upstream, never on what Envoy answers itself.
fn mark_of_upstream() -> Value {
    json!({ "upstream_http_filters": [
        {
            "name": "envoy.filters.http.header_mutation",
            "typed_config": typed(
                "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
                json!({ "mutations": { "response_mutations": [
                    // An upstream cannot pass its answer off as the gateway's.
                    { "remove": GATEWAY_REPLY },
                    { "remove": GATEWAY_SENT },
                    { "append": set_header("x-idempotency-upstream", "1") },
                ] } }),
            ),
        },
        upstream_codec(),
    ] })
}

/// An HTTP filter in front of the router that switches its retries off. The header must be set
/// here: one that the filter puts on its callout is consumed by the callout itself.
fn no_retries() -> Value {
    json!({
        "name": "no-retries",
        "typed_config": typed(
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            json!({ "mutations": { "request_mutations": [
                { "append": set_header("x-envoy-max-retries", "0") },
            ] } }),
        ),
    })
}

/// Local reply settings that mark what Envoy answers itself, with the reason and with the number
/// of bytes that went to an upstream: 0 proves that nothing was executed.
fn mark_of_gateway() -> Value {
    json!({ "mappers": [{
        "filter": { "status_code_filter": { "comparison": {
            "op": "GE",
            "value": { "default_value": 0, "runtime_key": "idempotency.no_such_key" },
        } } },
        "headers_to_add": [
            set_header(GATEWAY_REPLY, "%RESPONSE_CODE_DETAILS%"),
            set_header(GATEWAY_SENT, "%UPSTREAM_WIRE_BYTES_SENT%"),
        ],
    }] })
}
