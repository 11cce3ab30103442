//! What can be chosen about an Envoy, and the bootstrap that comes of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{json, Value};

use super::parts;
use crate::error::Error;
use crate::gateway::{Cluster, Host, Route, ServiceAddress};
use crate::{ports, tools};

/// Everything that can be chosen about an Envoy. [`EnvoyConfig::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct EnvoyConfig {
    /// Where clients go.
    pub gateway_port: u16,
    /// The admin interface.
    pub admin_port: u16,
    /// Worker threads (1).
    pub concurrency: u16,
    /// The filter's configuration. `None`: Envoy without the filter, for comparison.
    pub filter: Option<String>,
    /// The compiled filter; `None` is where [`tools::wasm`] finds it.
    pub wasm: Option<PathBuf>,
    /// The native module in place of the WebAssembly one (off, unless the environment's `GATEWAY` says `native`).
    pub native: bool,
    /// The setting without which the filter cannot see bodies before it decides (on).
    pub allow_on_headers_stop_iteration: bool,
    /// Make the filter only for requests that need it, by what `idempotencyd envoy-config` prints (off).
    pub only_where_needed: bool,
    /// Further HTTP filters in front of it, as JSON.
    pub filters_before: Vec<Value>,
    /// Further HTTP filters behind it, as JSON: in both listeners, since a detached execution goes through the
    /// inner one.
    pub filters_behind: Vec<Value>,
    /// The ordinary routes.
    pub routes: Vec<Route>,
    /// Other routes behind the internal listener; `None`: the same ones.
    pub execution_routes: Option<Vec<Route>>,
    /// The upstream.
    pub upstream: SocketAddr,
    /// HTTP/2 to the upstream (off).
    pub upstream_http2: bool,
    /// Where the service is.
    pub service: ServiceAddress,
    /// Filters for what goes to the service, as JSON.
    pub service_filters: Vec<Value>,
    /// Variables of its environment that its VMs are given as well.
    pub environment: Vec<(String, String)>,
    /// HTTP/2 to the service (on).
    pub service_http2: bool,
    /// HTTP/2 inside, from the filter to the internal listener (on).
    pub execution_http2: bool,
    /// Further clusters, as JSON.
    pub more_clusters: Vec<Value>,
    /// Envoy's `per_connection_buffer_limit_bytes` (8 MiB), which bounds what a filter can hold.
    pub buffer_limit_bytes: u32,
    /// The limits of connections, streams and times that `envoy/envoy.yaml` has (off: tests send
    /// storms, and meet one limit at a time).
    pub limits: bool,
    /// Timeout of the routes as clients meet them (off). A client waits there for a wait and for
    /// a detached execution too.
    pub gateway_timeout: Duration,
    /// Timeout of the routes behind the internal listener (15 s).
    pub execution_timeout: Duration,
    /// Let Envoy normalise paths, merge slashes and refuse escaped ones before any filter sees them
    /// (off).
    pub normalize_path: bool,
    /// Upgrade types that the gateway's listener accepts (`websocket`).
    pub upgrades: Vec<String>,
    /// Envoy's own traces, sent to this collector (OTLP over HTTP); `None`: it traces nothing, and hands on what
    /// comes.
    pub tracing: Option<SocketAddr>,
    /// Envoy's own log level (`warning`).
    pub log_level: String,
    /// Log level of the filter's lines (`info`).
    pub wasm_log_level: String,
    /// Envoy's log; `None`: a temporary file.
    pub log: Option<PathBuf>,
    /// The access log; `None`: a temporary file.
    pub access_log: Option<PathBuf>,
    /// Write an access log at all (on; benches turn it off).
    pub access_logging: bool,
}

impl EnvoyConfig {
    /// The filter with this configuration in front of that upstream, on free ports.
    pub fn new(filter: impl Into<String>, upstream: SocketAddr, service: ServiceAddress) -> Self {
        Self {
            filter: Some(filter.into()),
            ..Self::bare(upstream, service)
        }
    }

    /// The same without the filter.
    pub fn bare(upstream: SocketAddr, service: ServiceAddress) -> Self {
        Self {
            gateway_port: ports::free(),
            admin_port: ports::free(),
            concurrency: 1,
            filter: None,
            wasm: None,
            native: Host::chosen() == Host::Native,
            allow_on_headers_stop_iteration: true,
            only_where_needed: false,
            filters_before: Vec::new(),
            filters_behind: Vec::new(),
            routes: Route::defaults(),
            execution_routes: None,
            upstream,
            upstream_http2: false,
            service,
            service_filters: Vec::new(),
            environment: Vec::new(),
            service_http2: true,
            execution_http2: true,
            more_clusters: Vec::new(),
            buffer_limit_bytes: 8 << 20,
            limits: false,
            gateway_timeout: Duration::ZERO,
            execution_timeout: Duration::from_secs(15),
            normalize_path: false,
            upgrades: vec!["websocket".to_owned()],
            tracing: None,
            log_level: "warning".to_owned(),
            wasm_log_level: "info".to_owned(),
            log: None,
            access_log: None,
            access_logging: true,
        }
    }

    /// Where clients go.
    pub fn gateway_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.gateway_port))
    }

    /// The admin interface.
    pub fn admin_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.admin_port))
    }

    /// The bootstrap configuration.
    ///
    /// # Errors
    ///
    /// If the filter is wanted and not built.
    pub fn bootstrap(&self) -> Result<Value, Error> {
        let mut filters = self.filters_before.clone();
        if self.routes.iter().any(|route| route.cors_origin.is_some()) {
            filters.insert(0, parts::cors_filter());
        }
        let mut printed = None;
        if let Some(configuration) = self.filter.as_ref().filter(|_| self.native) {
            filters.push(parts::native_filter(&inline_only(configuration)));
        } else if let Some(configuration) = &self.filter {
            let wasm = self.wasm.clone().map_or_else(tools::wasm, Ok)?;
            if self.only_where_needed {
                let fields = printed.insert(print(configuration, &wasm)?);
                let ours = fields["http_filters"].take();
                filters.extend(ours.as_array().cloned().unwrap_or_default());
            } else {
                filters.push(parts::wasm_filter(
                    &wasm,
                    configuration,
                    self.allow_on_headers_stop_iteration,
                    self.environment.iter().map(|(name, _)| name.as_str()),
                ));
            }
        }
        filters.extend_from_slice(&self.filters_behind);
        let log = self.access_log.as_deref().filter(|_| self.access_logging);
        let gateway = parts::Hcm {
            name: "gateway",
            filters,
            routes: &self.routes,
            timeout: self.gateway_timeout,
            normalize_path: self.normalize_path,
            upgrades: &self.upgrades,
            executes: false,
            limits: self.limits,
            printed,
            tracing: self.tracing,
            access_log: log,
        };
        let execution = parts::Hcm {
            name: parts::EXECUTION,
            filters: self.filters_behind.clone(),
            routes: self.execution_routes.as_deref().unwrap_or(&self.routes),
            timeout: self.execution_timeout,
            // The filter has decided on the path that the client sent; it goes on as it is.
            normalize_path: false,
            upgrades: &[],
            executes: true,
            limits: false,
            printed: None,
            ..gateway.clone()
        };
        let service = match &self.service {
            ServiceAddress::Tcp(address) => parts::tcp(*address),
            ServiceAddress::Unix(path) => json!({ "pipe": { "path": path } }),
            ServiceAddress::Tls(tls) => parts::tcp(tls.address),
        };
        let mut service = parts::cluster("idempotency", Some(service), self.service_http2);
        if let ServiceAddress::Tls(tls) = &self.service {
            service["transport_socket"] = parts::mtls(tls);
        }
        parts::add_filters(&mut service, &self.service_filters);
        let mut clusters = vec![
            parts::cluster(
                "upstream",
                Some(parts::tcp(self.upstream)),
                self.upstream_http2,
            ),
            service,
            parts::cluster(
                parts::EXECUTION_CLUSTER,
                Some(json!({ "envoy_internal_address": {
                    "server_listener_name": parts::EXECUTION
                } })),
                self.execution_http2,
            ),
            parts::cluster("no-hosts", None, false),
            parts::cluster("refused", Some(parts::tcp(ports::REFUSED)), false),
        ];
        let routes = self
            .routes
            .iter()
            .chain(self.execution_routes.iter().flatten());
        let mut others: Vec<_> = routes
            .filter_map(|route| match route.cluster {
                Cluster::At(address) => Some(address),
                _ => None,
            })
            .collect();
        others.sort_unstable();
        others.dedup();
        clusters.extend(others.into_iter().map(parts::one_request_cluster));
        if let Some(collector) = self.tracing {
            let collector = Some(parts::tcp(collector));
            clusters.push(parts::cluster(parts::COLLECTOR, collector, false));
        }
        for cluster in &mut clusters {
            cluster["per_connection_buffer_limit_bytes"] = json!(self.buffer_limit_bytes);
        }
        clusters.extend(self.more_clusters.iter().cloned());
        let mut bootstrap = json!({
            // Some of Envoy's secrets are not read without them.
            "node": { "id": "gateway", "cluster": "gateway" },
            "admin": { "address": parts::tcp(self.admin_address()) },
            "stats_config": parts::stats_config(),
            "bootstrap_extensions": [parts::internal_listener_extension()],
            "static_resources": {
                "listeners": [
                    {
                        "name": "gateway",
                        "address": parts::tcp(self.gateway_address()),
                        "per_connection_buffer_limit_bytes": self.buffer_limit_bytes,
                        "filter_chains": [gateway.filter_chain()],
                    },
                    {
                        "name": parts::EXECUTION,
                        "internal_listener": {},
                        "ignore_global_conn_limit": true,
                        "per_connection_buffer_limit_bytes": self.buffer_limit_bytes,
                        "filter_chains": [execution.filter_chain()],
                    },
                ],
                "clusters": clusters,
            },
        });
        if self.limits {
            bootstrap["overload_manager"] = parts::overload_manager();
        }
        let mut layers = Vec::new();
        if self.tracing.is_some() {
            layers.push(parts::spans_at_once());
        }
        if self.native {
            layers.push(parts::plain_metric_names());
        }
        if !layers.is_empty() {
            bootstrap["layered_runtime"] = json!({ "layers": layers });
        }
        Ok(bootstrap)
    }
}

/// A configuration for the native module: it executes inline only, and refuses one that says otherwise.
fn inline_only(text: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(text) else {
        return text.to_owned();
    };
    let fields = value.as_object_mut();
    if fields
        .and_then(|fields| fields.remove("detached"))
        .is_none()
    {
        // A rule that is detached all the same is a mistake, and is to be found.
        return text.to_owned();
    }
    let rules = value.get_mut("rules").and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten().filter_map(Value::as_object_mut) {
        if rule.get("execution") == Some(&json!("detached")) {
            rule.remove("execution");
        }
    }
    value.to_string()
}

/// What `idempotencyd envoy-config` prints for this configuration of the filter.
fn print(configuration: &str, wasm: &Path) -> Result<Value, Error> {
    let failed = |error: std::io::Error| Error::new(format!("idempotencyd envoy-config: {error}"));
    let dir = crate::stack::temp_dir()?;
    let rules = dir.path().join("rules.json");
    std::fs::write(&rules, configuration).map_err(failed)?;
    let mut command = Command::new(tools::idempotencyd()?);
    command
        .arg("envoy-config")
        .arg(&rules)
        .arg("--wasm")
        .arg(wasm);
    let output = command.output().map_err(failed)?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        Error::new(format!("idempotencyd envoy-config: {said}"))
    })
}
