//! `envoy/envoy.yaml` in the stack. That it loads and works in a real Envoy is tested in
//! `crates/stack`, with other addresses.

use idempotency_stack::{EnvoyConfig, ServiceAddress};
use serde_json::Value;

use crate::compose;
use crate::repository::{elements, strings, yaml};

/// All socket addresses of the document, as `host:port`.
fn addresses(value: &Value, found: &mut Vec<String>) {
    if let Some(address) = value.get("socket_address") {
        let host = address["address"].as_str().unwrap();
        found.push(format!("{host}:{}", address["port_value"]));
    }
    for inner in value
        .as_object()
        .into_iter()
        .flat_map(|object| object.values())
    {
        addresses(inner, found);
    }
    elements(value).for_each(|inner| addresses(inner, found));
}

#[test]
fn the_example_is_what_the_stack_runs() {
    let stack = yaml(&compose::path("envoy"));
    let services = &stack["services"];
    let mounts = strings(&services["envoy"]["volumes"]);
    // Where the image looks if it is told nothing.
    assert!(
        mounts.contains(&"./envoy.yaml:/etc/envoy/envoy.yaml:ro"),
        "{mounts:?}"
    );
    assert!(services["envoy"]["command"].is_null());

    let mut found = Vec::new();
    addresses(&yaml("envoy/envoy.yaml"), &mut found);
    found.sort();
    let wanted = [
        "0.0.0.0:10000",
        "127.0.0.1:9901",
        "demo-upstream:7481",
        "idempotencyd:7480",
    ];
    assert_eq!(found, wanted);
    let published = compose::interpolated(strings(&services["envoy"]["ports"])[0]);
    assert_eq!(published, "127.0.0.1:10000:10000");
    assert_eq!(
        strings(&services["demo-upstream"]["command"]),
        ["--listen", "0.0.0.0:7481"]
    );
    let variables = compose::environment("envoy", &services["idempotencyd"]);
    let setting = |name: &str| variables[name].clone().unwrap();
    assert!(setting("IDEMPOTENCYD_LISTEN")
        .split(',')
        .any(|listen| listen == "0.0.0.0:7480"));

    let text = crate::repository::read("envoy/envoy.yaml");
    let token = setting("IDEMPOTENCYD_GATEWAY_TOKENS");
    assert!(text.contains(&format!("\"token\": \"{token}\"")));
    let filters = mounts
        .iter()
        .find_map(|mount| mount.strip_prefix("filters:"))
        .unwrap();
    let wasm = format!(
        "filename: {}/idempotency.wasm ",
        filters.trim_end_matches(":ro")
    );
    assert!(text.contains(&wasm), "{wasm}");
}

/// `make run` has the example's limits, and so has the test that measures what they bound.
#[test]
fn the_limits_of_the_example_are_those_of_make_run() {
    let here = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let config = EnvoyConfig {
        limits: true,
        ..EnvoyConfig::bare(here, ServiceAddress::Tcp(here))
    };
    let (demo, example) = (config.bootstrap().unwrap(), yaml("envoy/envoy.yaml"));
    assert_eq!(demo["overload_manager"], example["overload_manager"]);
    assert!(!example["stats_config"].is_null());
    assert_eq!(demo["stats_config"], example["stats_config"]);
    let hcm = |document: &Value, listener: usize| {
        let listener = &document["static_resources"]["listeners"][listener];
        listener["filter_chains"][0]["filters"][0]["typed_config"].clone()
    };
    for field in [
        "request_headers_timeout",
        "request_timeout",
        "stream_idle_timeout",
        "common_http_protocol_options",
        "http2_protocol_options",
    ] {
        assert!(!hcm(&example, 0)[field].is_null(), "{field}");
        assert_eq!(hcm(&demo, 0)[field], hcm(&example, 0)[field], "{field}");
    }
    for document in [&demo, &example] {
        let inner = &document["static_resources"]["listeners"][1];
        assert_eq!(inner["ignore_global_conn_limit"], true);
    }
}
