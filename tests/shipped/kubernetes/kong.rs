//! `deploy/kubernetes/kong`: Kong in a pod, and behind Kong's ingress controller.

use std::process::Command;

use idempotency_e2e::{assert_problem, assert_replay, fresh_key, Connection, Request};
use idempotency_stack::{
    tools, GatewayConfig, KongHost, Service, ServiceAddress, ServiceOptions, Upstream,
    UpstreamOptions,
};
use serde_json::{json, Map, Value};

use crate::repository::{elements, read, strings, variables, yaml, yaml_documents};

fn manifest(file: &str, kind: &str, name: &str) -> Value {
    let manifests = yaml_documents(&read(&format!("deploy/kubernetes/kong/{file}.yaml")));
    let mut found = manifests.into_iter();
    let found = found.find(|m| m["kind"] == kind && m["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn pod() -> Value {
    manifest("kong", "Deployment", "kong")["spec"]["template"]["spec"].clone()
}

/// All that `kong.env` says, and what the compose stack says beside it.
#[test]
fn kong_has_the_settings_of_the_stack() {
    let pod = pod();
    let container = &pod["containers"][0];
    let value = |name: &str| {
        let mut found = elements(&container["env"]).filter(|v| v["name"] == name);
        found
            .next()
            .map(|variable| variable["value"].as_str().unwrap().to_owned())
    };
    for (name, wanted) in variables("kong/kong.env") {
        assert_eq!(value(&name), Some(wanted), "{name}");
    }
    let stack = yaml("kong/docker-compose.yaml");
    let kong = &stack["services"]["kong"];
    assert_eq!(container["image"], kong["image"]);
    for (name, wanted) in kong["environment"].as_object().unwrap() {
        assert_eq!(value(name).as_deref(), wanted.as_str(), "{name}");
    }
}

/// The socket is one volume of both, at the place that `kong.yml` names; and the service ends last.
#[test]
fn kong_and_the_service_share_a_socket() {
    let pod = pod();
    let (kong, service) = (&pod["containers"][0], &pod["initContainers"][0]);
    assert_eq!(service["restartPolicy"], "Always", "a sidecar");
    let mount = |container: &Value| {
        let mut found = elements(&container["volumeMounts"]).filter(|m| m["name"] == "socket");
        found.next().unwrap()["mountPath"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(mount(kong), mount(service));
    let listen = format!("--listen=unix:{}/sock", mount(service));
    assert!(strings(&service["args"]).contains(&listen.as_str()));
    let targets = read("kong/kong.yml");
    assert!(targets.contains(&format!("target: unix:{}/sock", mount(kong))));
    // The time that reload.sh may take, and a little for Kong itself.
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() >= 90 + 30);
    let stop = strings(&kong["lifecycle"]["preStop"]["exec"]["command"]);
    assert_eq!(stop.last(), Some(&"quit"), "{stop:?}");
}

/// What the ingress controller makes of annotations and plugins, as a declarative configuration.
fn declarative() -> Value {
    let service = manifest("ingress", "Service", "demo-upstream");
    let annotations = &service["metadata"]["annotations"];
    let number = |name: &str| -> u64 {
        let text = annotations[format!("konghq.com/{name}")].as_str().unwrap();
        text.parse().unwrap()
    };
    let plugins = annotations["konghq.com/plugins"].as_str().unwrap();
    let plugins = plugins.split(',').map(|name| {
        let plugin = manifest("ingress", "KongPlugin", name);
        json!({ "name": plugin["plugin"], "config": plugin["config"] })
    });
    let everywhere = manifest("ingress", "KongClusterPlugin", "idempotency-names");
    assert_eq!(everywhere["metadata"]["labels"]["global"], "true");
    let ingress = manifest("ingress", "Ingress", "charges");
    let path = &ingress["spec"]["rules"][0]["http"]["paths"][0]["path"];
    json!({
        "_format_version": "3.0",
        "services": [{
            "name": "demo-upstream",
            "url": "http://demo-upstream.default:7481",
            "retries": number("retries"),
            "connect_timeout": number("connect-timeout"),
            "read_timeout": number("read-timeout"),
            "routes": [{ "name": "charges", "paths": [path], "strip_path": false }],
            "plugins": plugins.collect::<Vec<_>>(),
        }],
        "plugins": [{ "name": everywhere["plugin"], "config": everywhere["config"] }],
    })
}

#[test]
fn check_config_finds_what_the_ingress_controller_makes_usable() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kong.json");
    let check = |document: &Value| {
        std::fs::write(&file, document.to_string()).unwrap();
        let mut command = Command::new(tools::idempotencyd().unwrap());
        command.arg("check-config").arg(&file).output().unwrap()
    };
    let document = declarative();
    let output = check(&document);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("(1 rule)"), "{said}");
    // It would see a forgotten annotation.
    let mut wrong = document;
    wrong["services"][0]["retries"] = json!(5);
    assert!(!check(&wrong).status.success());
}

/// The code before the filter is that of the example which complete Kongs were tested with.
#[test]
fn the_code_before_the_filter_is_that_of_the_example() {
    let example = yaml("kong/kong.yml");
    let code = |document: &Value, plugin: &str| {
        let mut plugins = elements(&document["plugins"]).filter(|p| p["name"] == plugin);
        plugins.next().unwrap()["config"]["access"].clone()
    };
    let guard = manifest("ingress", "KongPlugin", "idempotency-guard");
    assert_eq!(guard["config"]["access"], code(&example, "post-function"));
    let names = manifest("ingress", "KongClusterPlugin", "idempotency-names");
    assert_eq!(names["config"]["access"], code(&example, "pre-function"));
}

/// The filter's own configuration works in a host with Kong's rules. (Kong itself does not run here.)
#[test]
fn the_basics_hold_with_the_plugin_s_configuration() {
    let upstream = Upstream::start(UpstreamOptions::default()).unwrap();
    let service = Service::start(ServiceOptions::default()).unwrap();
    let plugin = manifest("ingress", "KongPlugin", "idempotency");
    let mut config: Map<String, Value> = plugin["config"].as_object().unwrap().clone();
    assert_eq!(
        config["service"]["target"],
        "idempotencyd.idempotency.svc.cluster.local:7480"
    );
    config["service"]["target"] = json!("idempotency");
    let address = ServiceAddress::Tcp(service.address());
    let config = GatewayConfig::new(
        Value::Object(config).to_string(),
        upstream.address(),
        address,
    );
    let kong = KongHost::start(config).unwrap();
    let send = |target: &str, key: &str, body: &str| {
        let request = Request::post(target).key(key).body(body);
        Connection::http1(kong.address()).send(&request)
    };
    let key = fresh_key("kong");
    let first = send("/charges", &key, "{}");
    assert_eq!(first.status, 201, "{first:?}");
    idempotency_stack::until(std::time::Duration::from_secs(10), || {
        service
            .operator("GET", &format!("/v1/record?key={key}"), "")
            .json()["state"]
            == "completed"
    });
    assert_replay(&first, &send("/charges", &key, "{}"));
    assert_problem(&send("/charges", &key, "{\"amount\":2}"), 422, "key-reused");
    assert_eq!(upstream.executions().of(&key), 1);
}
