//! The configuration of an nginx that stands for Kong's: the same settings as Kong 3.9 writes, as
//! far as they matter to the filter, and what we ship on top of them.

use std::net::SocketAddr;
use std::path::Path;

use crate::gateway::{Cluster, GatewayConfig, Route};
use crate::ports;

/// The configuration's file.
pub(super) const FILE: &str = "nginx.conf";
/// The filter's configuration.
pub(super) const FILTER: &str = "filter.json";
/// nginx's log.
pub(super) const LOG: &str = "error.log";
/// The access log.
pub(super) const ACCESS_LOG: &str = "access.log";

/// What the configuration is made of.
pub(super) struct Conf<'a> {
    pub(super) config: &'a GatewayConfig,
    pub(super) filter: Option<&'a str>,
    pub(super) wasm: &'a Path,
    pub(super) lualib: &'a Path,
    pub(super) address: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) dir: &'a Path,
}

/// Whether a line of the log says that the filter broke a rule.
pub(crate) fn is_broken(line: &str) -> bool {
    [
        "error while executing at wasm backtrace",
        "exited on signal",
        "bad usage",
        "wasm trap",
    ]
    .iter()
    .any(|sign| line.contains(sign))
}

impl Conf<'_> {
    /// `nginx.conf`.
    pub(super) fn text(&self) -> String {
        let wasm = match self.filter {
            Some(_) => format!(
                "wasm {{ module idempotency {}; metrics {{ max_metric_name_length 128; }} }}",
                self.wasm.display()
            ),
            None => String::new(),
        };
        let locations: String = self
            .config
            .routes
            .iter()
            .map(|route| self.location(route))
            .collect();
        let dir = self.dir.display();
        format!(
            r#"{user}
daemon off;
worker_processes {workers};
pid {dir}/nginx.pid;
error_log stderr info;
{environment}
events {{ worker_connections 16384; }}
{wasm}
http {{
    log_format cases '"$request" $status key=$http_idempotency_key';
    access_log {dir}/{ACCESS_LOG} cases;
    client_body_temp_path {dir}/client_body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    {lua}
    # Kong's own.
    client_max_body_size 0;
    underscores_in_headers on;
    keepalive_requests 10000;
    proxy_http_version 1.1;
    proxy_buffering on;
    proxy_request_buffering on;
    # What we ship: bodies are read up to this size, an execution outlives its client, and nothing
    # is sent twice.
    client_body_buffer_size {buffer};
    proxy_ignore_client_abort on;
    proxy_next_upstream off;
    server {{
        listen {address};
        http2 on;
        # Crowds come over one connection.
        http2_max_concurrent_streams 1024;
        error_page 400 404 405 408 411 412 413 414 417 /kong_error_handler;
        error_page 494 =494 /kong_error_handler;
        error_page 500 502 503 504 /kong_error_handler;
        proxy_set_header Host $http_host;
        proxy_set_header Connection "";
        proxy_pass_header Server;
        proxy_pass_header Date;
{locations}
        location = /kong_error_handler {{
            internal;
            default_type application/json;
            return 200 '{{"message":"an error of the gateway"}}';
        }}
    }}
    server {{
        listen {admin};
        access_log off;
        location = /ready {{ return 204; }}
        {stats}
    }}
}}
"#,
            // Sockets and logs of the tests belong to whom runs them.
            user = if is_root() { "user root;" } else { "" },
            environment = self
                .config
                .environment
                .iter()
                .map(|(name, value)| format!("env {name}={value};"))
                .collect::<String>(),
            workers = self.config.workers,
            buffer = self.config.buffer_bytes,
            address = self.address,
            admin = self.admin,
            lua = self.lua(),
            stats = self.stats(),
        )
    }

    fn location(&self, route: &Route) -> String {
        let upstream = match &route.cluster {
            Cluster::Upstream => self.config.upstream,
            Cluster::At(address) => *address,
            Cluster::Refused => ports::REFUSED,
            Cluster::NoHosts | Cluster::Named(_) => {
                return format!("        location {} {{ return 503; }}\n", route.prefix);
            }
        };
        let timeout = self.config.timeout(route).as_millis();
        format!(
            "        location {prefix} {{\n            {attach}\n            \
             proxy_read_timeout {timeout}ms;\n            proxy_send_timeout {timeout}ms;\n            \
             proxy_pass http://{upstream};\n        }}\n",
            prefix = route.prefix,
            attach = self.attach(),
        )
    }

    /// What Kong does in `access`: `post-function` reads the body, then the filter is attached.
    fn attach(&self) -> String {
        if self.filter.is_none() {
            return String::new();
        }
        let identity = match self.config.identity {
            Some((from, to)) => {
                format!("ngx.req.set_header(\"{to}\", ngx.req.get_headers()[\"{from}\"]) ")
            }
            None => String::new(),
        };
        format!(
            "access_by_lua_block {{ {identity}if ngx.req.http_version() < 2 or \
             ngx.var.http_content_length then ngx.req.read_body() end attach() }}"
        )
    }

    /// What Kong does in `init_worker`.
    fn lua(&self) -> String {
        let path = format!("lua_package_path '{}/?.lua;;';", self.lualib.display());
        if self.filter.is_none() {
            return path;
        }
        format!(
            r#"{path}
    init_worker_by_lua_block {{
        local proxy_wasm = require "resty.wasmx.proxy_wasm"
        local file = assert(io.open("{dir}/{FILTER}", "rb"))
        local plan = assert(proxy_wasm.new({{
            {{ name = "idempotency", config = file:read("*a") }},
        }}))
        file:close()
        assert(proxy_wasm.load(plan))
        local properties = {{
            ["kong.route_id"] = "b1f0a1a2-0000-4000-8000-000000000001",
            ["kong.route_name"] = "route",
            ["kong.service_id"] = "b1f0a1a2-0000-4000-8000-000000000002",
            ["kong.service_name"] = "service",
        }}
        local function get(name)
            local value = properties[name]
            return value ~= nil, value, value ~= nil
        end
        local function set()
            return false
        end
        jit.off(proxy_wasm.set_host_properties_handlers)
        function attach()
            assert(proxy_wasm.attach(plan))
            assert(proxy_wasm.set_host_properties_handlers(get, set))
        end
    }}"#,
            dir = self.dir.display(),
        )
    }

    /// The filter's metrics, `name: value` per line.
    fn stats(&self) -> String {
        if self.filter.is_none() {
            return String::new();
        }
        r#"location = /stats {
            content_by_lua_block {
                local metrics = require("resty.wasmx.shm").metrics
                metrics:lock()
                for name in metrics:iterate_keys() do
                    local metric = metrics:get_by_name(name, { prefix = false })
                    local value = metric and metric.value
                    if value then
                        ngx.say((name:gsub("^pw[.:]idempotency[.:]", "")), ": ",
                            string.format("%d", value))
                    end
                end
                metrics:unlock()
            }
        }"#
        .to_owned()
    }
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}
