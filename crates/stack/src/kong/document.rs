//! The declarative configuration: a service and a route for every route of the gateway, the filter on
//! the service, and before it the guard of `kong/kong.yml`.

use std::process::Command;

use serde_json::{json, Value};

use super::Body;
use crate::error::Error;
use crate::gateway::{Cluster, GatewayConfig};
use crate::{ports, tools};

const SHIPPED: &str = include_str!("../../../../kong/kong.yml");

pub(super) struct Document {
    pub(super) value: Value,
    /// What the filter itself refuses, Kong would not even start with if it knew the schema.
    pub(super) fits_the_schema: bool,
}

/// The code that must run before the filter: that of the file's `post-function`.
fn guard() -> String {
    let (_, plugin) = SHIPPED
        .split_once("- name: post-function\n")
        .unwrap_or_default();
    let (_, rest) = plugin.split_once("- |-\n").unwrap_or_default();
    let indent = rest.len() - rest.trim_start().len();
    let lines = rest.lines();
    let code = lines.take_while(|line| line.len() - line.trim_start().len() >= indent);
    let code = code.map(|line| line.get(indent..).unwrap_or_default());
    code.collect::<Vec<_>>().join("\n")
}

pub(super) fn of(config: &GatewayConfig, body: Body) -> Result<Document, Error> {
    let filter = config.filter_with_address();
    let fits_the_schema = match (&filter, body) {
        (Some(text), Body::Wasm) => is_usable(text)?,
        _ => true,
    };
    let filter = filter.map(|text| match serde_json::from_str::<Value>(&text) {
        Ok(value) if fits_the_schema => value,
        _ => Value::String(text),
    });
    let mut services = Vec::new();
    let mut plugins = Vec::new();
    let mut upstreams = Vec::new();
    for (index, route) in config.routes.iter().enumerate() {
        let (host, port) = match &route.cluster {
            Cluster::Upstream => split(config.upstream),
            Cluster::At(address) => split(*address),
            Cluster::Refused => split(ports::REFUSED),
            Cluster::NoHosts | Cluster::Named(_) => {
                let name = format!("no-hosts-{index}");
                upstreams.push(json!({ "name": name }));
                (name, 80)
            }
        };
        let timeout = u64::try_from(config.timeout(route).as_millis()).unwrap_or(60_000);
        let mut service = json!({
            "name": format!("service-{index}"),
            "protocol": "http",
            "host": host,
            "port": port,
            "retries": 0,
            // Crowds meet a busy machine.
            "connect_timeout": 10_000,
            "read_timeout": timeout,
            "write_timeout": timeout,
            "routes": [{
                // As the other hosts of the tests say it of every route.
                "id": format!("b1f0a1a2-0000-4000-8000-{:012}", config.routes.len() - index),
                "name": format!("route-{index}"),
                "paths": [route.prefix],
                "strip_path": false,
                "preserve_host": true,
            }],
        });
        if let (Some(filter), Body::Lua) = (&filter, body) {
            plugins.push(json!({
                "name": "idempotency",
                "service": format!("service-{index}"),
                "config": filter,
            }));
        }
        if let (Some(filter), Body::Wasm) = (&filter, body) {
            service["filter_chains"] =
                json!([{ "filters": [{ "name": "idempotency", "config": filter }] }]);
            plugins.push(json!({
                "name": "post-function",
                "service": format!("service-{index}"),
                "config": { "access": [guard()] },
            }));
        }
        services.push(service);
    }
    if let Some((from, to)) = config.identity {
        let code = format!(
            "local who = kong.request.get_header(\"{from}\") \
             if who then kong.service.request.set_header(\"{to}\", who) \
             else kong.service.request.clear_header(\"{to}\") end"
        );
        plugins.push(json!({ "name": "pre-function", "config": { "access": [code] } }));
    }
    if body == Body::Lua {
        plugins.push(json!({ "name": "prometheus" }));
    }
    let mut value = json!({
        "_format_version": "3.0",
        "services": services,
        "plugins": plugins,
        "upstreams": upstreams,
    });
    for change in &config.kong.changes {
        change(&mut value);
    }
    Ok(Document {
        value,
        fits_the_schema,
    })
}

fn split(address: std::net::SocketAddr) -> (String, u16) {
    (address.ip().to_string(), address.port())
}

/// Whether `idempotencyd check-config` finds it usable.
fn is_usable(text: &str) -> Result<bool, Error> {
    let failed = |error: std::io::Error| Error::new(format!("check-config: {error}"));
    let dir = crate::stack::temp_dir()?;
    let file = dir.path().join("filter.json");
    std::fs::write(&file, text).map_err(failed)?;
    let mut command = Command::new(tools::idempotencyd()?);
    let output = command.arg("check-config").arg(&file).output();
    Ok(output.map_err(failed)?.status.success())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_guard_is_the_shipped_one() {
        let guard = super::guard();
        let mut lines = guard.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with("-- ")));
        assert!(
            guard.contains("\n  kong.request.get_raw_body()\n"),
            "{guard}"
        );
        assert!(guard.ends_with("\nend"), "{guard}");
    }
}
