//! `kong/kong.env`, and what else Kong is told: variables, files, schema.

use idempotency_core::config;
use serde_json::Value;

use crate::repository::{elements, members, read, strings, variables, yaml};
use crate::{compose, dockerfile};

/// The variables that may be set, and what for. Kong ignores a name that it does not know, so a
/// misspelt one would only be missed.
pub const VARIABLES: &[(&str, &str)] = &[
    (
        "KONG_DATABASE",
        "`database`: off, the configuration is a file",
    ),
    ("KONG_DECLARATIVE_CONFIG", "`declarative_config`: that file"),
    ("KONG_WASM", "`wasm`: off unless it is said"),
    (
        "KONG_WASM_FILTERS_PATH",
        "`wasm_filters_path`: where NAME.wasm and NAME.meta.json are",
    ),
    (
        "KONG_PROXY_LISTEN",
        "`proxy_listen`: without TLS in the demo",
    ),
    ("KONG_ADMIN_LISTEN", "`admin_listen`: off"),
    ("KONG_ADMIN_GUI_LISTEN", "`admin_gui_listen`: off"),
    (
        "KONG_PREFIX",
        "`prefix`: run.sh keeps Kong's files together",
    ),
    (
        "KONG_NGINX_DAEMON",
        "`nginx_daemon`: run.sh keeps Kong in the foreground",
    ),
    (
        "KONG_NGINX_PROXY_PROXY_IGNORE_CLIENT_ABORT",
        "`proxy_ignore_client_abort` in the server block of the proxy",
    ),
    (
        "KONG_NGINX_PROXY_PROXY_NEXT_UPSTREAM",
        "`proxy_next_upstream` in the server block of the proxy",
    ),
    (
        "KONG_NGINX_HTTP_CLIENT_BODY_BUFFER_SIZE",
        "`client_body_buffer_size` in the http block",
    ),
    (
        "KONG_NGINX_HTTP_CONNECTION_POOL_SIZE",
        "`connection_pool_size` in the http block: what a connection's memory is made of",
    ),
    (
        "KONG_NGINX_HTTP_KEEPALIVE_REQUESTS",
        "`keepalive_requests` in the http block: how much memory a connection gathers",
    ),
    (
        "KONG_NGINX_WASM_PROXY_WASM_LUA_RESOLVER",
        "`proxy_wasm_lua_resolver` in the wasm block: host names from the tick",
    ),
    (
        "KONG_NGINX_HTTP_LIMIT_CONN_ZONE",
        "`limit_conn_zone` in the http block: a place to count readers of the metrics",
    ),
    (
        "KONG_NGINX_STATUS_LIMIT_CONN",
        "`limit_conn` in the status server: one reader at a time",
    ),
    (
        "KONG_NGINX_PROXY_INCLUDE",
        "`include` in the server block of the proxy: the drain's switch",
    ),
];

/// The paths that Kong is told lead to what is mounted there.
#[test]
fn kong_finds_its_files() {
    let stack = yaml(&compose::path("kong"));
    let kong = &stack["services"]["kong"];
    let mounts = strings(&kong["volumes"]);
    let variables = compose::environment("kong", kong);
    let at = |name: &str| variables[name].clone().unwrap();
    for (source, variable) in [
        ("./kong.yml", "KONG_DECLARATIVE_CONFIG"),
        ("./idempotency-drain.conf", "KONG_NGINX_PROXY_INCLUDE"),
        ("filters", "KONG_WASM_FILTERS_PATH"),
    ] {
        let mount = format!("{source}:{}:ro", at(variable));
        assert!(mounts.contains(&mount.as_str()), "{mount} in {mounts:?}");
    }
    // What fills that volume writes into it.
    let stages = dockerfile::stages(&read(dockerfile::PATH));
    let filter = stages.iter().find(|stage| stage.name == "filter").unwrap();
    let target = strings(&stack["services"]["filter"]["volumes"])[0]
        .strip_prefix("filters:")
        .unwrap();
    assert!(
        filter
            .last("CMD")
            .unwrap()
            .ends_with(&format!("\"{target}/\"]")),
        "{target}"
    );
    let port = &strings(&kong["ports"])[0].rsplit(':').next().unwrap();
    assert!(at("KONG_PROXY_LISTEN").ends_with(&format!(":{port}")));
}

#[test]
fn the_settings_that_safety_rests_on() {
    let set = variables("kong/kong.env");
    for (name, value) in [
        ("KONG_WASM", "on"),
        ("KONG_NGINX_PROXY_PROXY_IGNORE_CLIENT_ABORT", "on"),
        ("KONG_NGINX_PROXY_PROXY_NEXT_UPSTREAM", "off"),
        ("KONG_NGINX_WASM_PROXY_WASM_LUA_RESOLVER", "on"),
    ] {
        assert_eq!(set[name], value, "{name}");
    }
    // nginx takes a body that is announced with its length into one buffer a quarter larger, but
    // not one in chunks.
    let buffer = set["KONG_NGINX_HTTP_CLIENT_BODY_BUFFER_SIZE"]
        .strip_suffix('m')
        .unwrap();
    let buffer = buffer.parse::<u64>().unwrap() << 20;
    let document = yaml("kong/kong.yml");
    let services = elements(&document["services"]);
    let holders = services.flat_map(|s| std::iter::once(s).chain(elements(&s["routes"])));
    let chains = holders.flat_map(|holder| elements(&holder["filter_chains"]));
    let filters: Vec<&Value> = chains
        .flat_map(|chain| elements(&chain["filters"]))
        .collect();
    assert_eq!(filters.len(), 2);
    for filter in filters {
        for rule in config::parse(&filter["config"].to_string())
            .unwrap()
            .policies
            .rules
        {
            assert!(
                (rule.policy.max_body_bytes as u64) < buffer,
                "{}",
                rule.name
            );
        }
    }
}

/// Two readers of the metrics in one worker stop it: the second one is refused, by the whole server.
#[test]
fn one_reader_of_the_metrics_at_a_time() {
    let set = variables("kong/kong.env");
    let zone = &set["KONG_NGINX_HTTP_LIMIT_CONN_ZONE"];
    let (key, zone) = zone.split_once(" zone=").unwrap();
    assert_eq!(key, "$server_name", "all readers count together");
    let (name, _) = zone.split_once(':').unwrap();
    assert_eq!(set["KONG_NGINX_STATUS_LIMIT_CONN"], format!("{name} 1"));
    let readme = read("kong/README.md");
    let first = readme.split("\n## ").nth(1).unwrap();
    assert!(first.contains("KONG_NGINX_STATUS_LIMIT_CONN"), "{first}");
}

/// The script, the switch and the guard speak of one file and one variable.
#[test]
fn the_drain_fits_together() {
    let switch = read("kong/idempotency-drain.conf");
    let script = read("kong/reload.sh");
    assert!(script.contains("prefix=\"${KONG_PREFIX:-/usr/local/kong}\""));
    assert!(script.contains("flag=\"$prefix/idempotency.drain\""));
    assert!(switch.contains("if (-f /usr/local/kong/idempotency.drain) {\n"));
    // In a container whose image is read-only, Kong's prefix is another one.
    let stack = yaml("kong/docker-compose.yaml");
    let prefix = stack["services"]["kong"]["environment"]["KONG_PREFIX"].as_str();
    let prefix = prefix.unwrap();
    assert!(switch.contains(&format!("if (-f {prefix}/idempotency.drain) {{\n")));
    assert!(switch.contains("    set $idempotency_drain 1;\n"));
    assert!(read("kong/kong.yml").contains("ngx.var.idempotency_drain == \"1\""));
}

#[test]
fn every_setting_is_explained() {
    let readme = read("kong/README.md");
    for (name, _) in VARIABLES {
        assert!(
            readme.contains(name) || read("kong/run.sh").contains(name),
            "{name}"
        );
    }
    for name in variables("kong/kong.env").keys() {
        assert!(VARIABLES.iter().any(|(known, _)| known == name), "{name}");
        assert!(
            readme.contains(name.as_str()),
            "{name} is not in kong/README.md"
        );
    }
}

#[test]
fn the_schema_is_in_the_dialect_of_kong() {
    let meta: Value = serde_json::from_str(&read("kong/idempotency.meta.json")).unwrap();
    // Kong 3.9 refuses to start over any other member.
    assert_eq!(
        members(&meta).map(|(name, _)| name).collect::<Vec<_>>(),
        ["config_schema", "metrics"]
    );
    assert!(jsonschema::draft4::meta::is_valid(&meta["config_schema"]));
}
