//! The plain manifests: each is the chart, rendered.

use std::sync::OnceLock;

use serde_json::{json, Value};

use super::{chart, schemas};
use crate::report;
use crate::repository::{read, root};

/// A file of `deploy/kubernetes`: the values that it is made with, and which templates it consists of.
struct File {
    path: &'static str,
    values: Value,
    templates: &'static [&'static str],
}

const SERVICE: &[&str] = &["service", "workload", "network"];

fn files() -> Vec<File> {
    let file = |path, templates, values| File {
        path,
        values,
        templates,
    };
    let istio = |detached: bool| json!({ "istio": { "enabled": true }, "filter": { "detached": detached } });
    let envoy_gateway = |detached: bool| json!({ "envoyGateway": { "enabled": true }, "filter": { "detached": detached } });
    vec![
        file(
            "service/redis.yaml",
            SERVICE,
            json!({ "store": { "kind": "redis" } }),
        ),
        file(
            "service/postgres.yaml",
            SERVICE,
            json!({ "store": { "kind": "postgres" } }),
        ),
        file(
            "service/embedded.yaml",
            SERVICE,
            json!({ "store": { "kind": "embedded" } }),
        ),
        file(
            "service/servicemonitor.yaml",
            &["servicemonitor"],
            json!({ "serviceMonitor": { "enabled": true } }),
        ),
        file("istio/detached.yaml", &["istio"], istio(true)),
        file("istio/inline.yaml", &["istio"], istio(false)),
        file(
            "envoy-gateway/detached.yaml",
            &["envoy-gateway"],
            envoy_gateway(true),
        ),
        file(
            "envoy-gateway/inline.yaml",
            &["envoy-gateway"],
            envoy_gateway(false),
        ),
    ]
}

/// What each file must be.
fn rendered() -> &'static [(String, String)] {
    static RENDERED: OnceLock<Vec<(String, String)>> = OnceLock::new();
    RENDERED.get_or_init(|| {
        let files = files();
        let values: Vec<Value> = files.iter().map(|file| file.values.clone()).collect();
        let (rendered, _) = chart::render(&values);
        let made = files.iter().zip(rendered).map(|(file, rendered)| {
            let rendered = rendered.unwrap();
            let parts = file.templates.iter().map(|template| {
                let text = &rendered[&format!("templates/{template}.yaml")];
                assert!(!text.trim().is_empty(), "{}: {template} is empty", file.path);
                text.trim()
            });
            let text = format!(
                "# Made from deploy/helm/idempotency-gateway: change it there, then\n\
                 # UPDATE_MANIFESTS=1 cargo test --package idempotency-e2e --test shipped plain\n{}\n",
                parts.collect::<Vec<_>>().join("\n---\n")
            );
            (format!("deploy/kubernetes/{}", file.path), text)
        });
        made.collect()
    })
}

#[test]
fn the_plain_manifests_are_the_chart() {
    for (path, text) in rendered() {
        if std::env::var_os("UPDATE_MANIFESTS").is_some() {
            let file = root().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        assert_eq!(&read(path), text, "{path} is not what the chart makes");
    }
}

#[test]
fn every_manifest_is_one_that_the_api_takes() {
    let mut faults = Vec::new();
    let mut dirs = vec![root().join("deploy/kubernetes")];
    let mut count = 0;
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ending| ending == "yaml") {
                // Values of a chart are no manifests.
                if path
                    .file_stem()
                    .is_some_and(|stem| stem == "gateway-values")
                {
                    continue;
                }
                count += 1;
                let text = std::fs::read_to_string(&path).unwrap();
                let found = schemas::faults(&text);
                faults.extend(
                    found
                        .iter()
                        .map(|fault| format!("{}: {fault}", path.display())),
                );
            }
        }
    }
    assert!(count >= files().len(), "{count}");
    report::none(faults);
}

/// Also with everything switched on, and off.
#[test]
fn whatever_is_chosen_the_api_takes_it() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let everything = |store: &str| {
        json!({
            "store": { "kind": store, "storageClass": "fast" },
            "image": { "digest": digest },
            "imagePullSecrets": [{ "name": "registry" }],
            "tokens": { "upstream": true },
            "tls": { "secret": "idempotencyd-tls", "clients": true, "roles": "gateway dns:gateway" },
            "encryption": { "secret": "idempotencyd-keys" },
            "filter": { "tokenEnv": "GATEWAY_TOKEN", "hop": { "keyEnv": "HOP_KEYS", "last": true } },
            "settings": { "max-executions-per-tenant": 100, "durability": "durable" },
            "nodeSelector": { "disk": "fast" },
            "tolerations": [{ "key": "payments", "operator": "Exists" }],
            "priorityClassName": "system-cluster-critical",
            "podAnnotations": { "a": "b" },
            "podLabels": { "c": "d" },
            "serviceMonitor": { "enabled": true },
            "networkPolicy": { "storePorts": [6380] },
            "istio": { "enabled": true },
            "envoyGateway": { "enabled": true },
        })
    };
    let nothing = |store: &str| {
        json!({
            "store": { "kind": store, "migrate": false },
            "autoscaling": { "enabled": false },
            "podDisruptionBudget": { "enabled": false },
            "networkPolicy": { "enabled": false },
            "page": false,
            "drainSeconds": 0,
            "filter": { "token": "a-token-of-gateways" },
        })
    };
    let stores = ["redis", "postgres", "embedded"];
    let values: Vec<Value> = stores
        .iter()
        .flat_map(|s| [everything(s), nothing(s)])
        .collect();
    let (rendered, _) = chart::render(&values);
    let mut faults = Vec::new();
    for (rendered, values) in rendered.into_iter().zip(&values) {
        let rendered = rendered.unwrap();
        let texts = rendered.values().filter(|text| !text.trim().is_empty());
        let found = texts.flat_map(|text| schemas::faults(text));
        faults.extend(found.map(|fault| format!("{values}: {fault}")));
    }
    report::none(faults);
}

/// `check-config` reads the filter's configuration where it stands in these files.
#[test]
fn check_config_finds_the_filter_in_them_usable() {
    let paths = rendered().iter().map(|(path, _)| path);
    let with_filter: Vec<_> = paths
        .filter(|path| path.contains("/istio/") || path.contains("/envoy-gateway/"))
        .map(|path| root().join(path))
        .chain([root().join("deploy/kubernetes/kong/ingress.yaml")])
        .collect();
    let mut command = std::process::Command::new(idempotency_stack::tools::idempotencyd().unwrap());
    let output = command
        .arg("check-config")
        .args(&with_filter)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        said.matches("(1 rule)").count(),
        with_filter.len(),
        "{output:?}"
    );
}

/// The token is in no configuration unless it is put there, and every variable that is named is handed to the VM.
#[test]
fn secrets_of_the_filter_are_variables() {
    let both = json!({ "istio": { "enabled": true }, "envoyGateway": { "enabled": true } });
    let with = |filter: Value| {
        let mut values = both.clone();
        values["filter"] = filter;
        values
    };
    let hop = json!({ "hop": { "keyEnv": "HOP_KEYS" } });
    let token = "a-token-of-gateways";
    let values = [both.clone(), with(hop), with(json!({ "token": token }))];
    let (rendered, _) = chart::render(&values);
    let wanted: [(&[&str], bool); 3] = [
        (&["IDEMPOTENCY_TOKEN"], false),
        (&["IDEMPOTENCY_TOKEN", "HOP_KEYS"], false),
        (&[], true),
    ];
    for (rendered, (variables, has_token)) in rendered.into_iter().zip(wanted) {
        let rendered = rendered.unwrap();
        for template in ["istio", "envoy-gateway"] {
            let text = &rendered[&format!("templates/{template}.yaml")];
            assert_eq!(text.contains(token), has_token, "{text}");
            assert!(!text.contains("demo-gateway-token"));
            let given = format!("host_env_keys: [{}]", variables.join(", "));
            assert_eq!(text.contains(&given), !variables.is_empty(), "{text}");
            assert_eq!(text.contains("token_env"), !has_token, "{text}");
            for name in variables {
                let of_secret = format!("name: idempotency-gateway, key: {name}");
                assert_eq!(text.contains(&of_secret), template == "envoy-gateway");
            }
        }
    }
}
