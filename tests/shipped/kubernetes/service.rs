//! The service in a pod: what must hold whatever the API would take.

use std::collections::BTreeSet;

use serde_json::Value;

use super::chart;
use crate::parts;
use crate::repository::{elements, read, strings, yaml_documents};

const FILES: [&str; 3] = ["redis", "postgres", "embedded"];

fn manifests(store: &str) -> Vec<Value> {
    yaml_documents(&read(&format!("deploy/kubernetes/service/{store}.yaml")))
}

fn one<'a>(manifests: &'a [Value], kind: &str) -> &'a Value {
    let mut found = manifests.iter().filter(|manifest| manifest["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "several of {kind}");
    first
}

fn workload(manifests: &[Value]) -> &Value {
    let mut workloads = manifests
        .iter()
        .filter(|m| m["kind"] == "Deployment" || m["kind"] == "StatefulSet");
    workloads.next().unwrap()
}

#[test]
fn it_runs_without_rights_and_writes_nowhere_but_to_its_volumes() {
    for store in FILES {
        let manifests = manifests(store);
        let pod = &workload(&manifests)["spec"]["template"]["spec"];
        assert_eq!(pod["enableServiceLinks"], false);
        assert_eq!(pod["automountServiceAccountToken"], false);
        let security = &pod["securityContext"];
        assert_eq!(security["runAsNonRoot"], true);
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
        let containers = elements(&pod["containers"]).chain(elements(&pod["initContainers"]));
        for container in containers {
            let security = &container["securityContext"];
            assert_eq!(security["readOnlyRootFilesystem"], true, "{store}");
            assert_eq!(security["allowPrivilegeEscalation"], false, "{store}");
            assert_eq!(
                strings(&security["capabilities"]["drop"]),
                ["ALL"],
                "{store}"
            );
            assert!(
                !container["resources"]["limits"]["memory"].is_null(),
                "{store}"
            );
        }
    }
}

/// The image's user (`scripts/dist.sh`) is the pod's.
#[test]
fn it_runs_as_the_user_of_the_image() {
    let manifests = manifests("redis");
    let security = &workload(&manifests)["spec"]["template"]["spec"]["securityContext"];
    let user = format!("{}:{}", security["runAsUser"], security["runAsGroup"]);
    let script = read("scripts/dist.sh");
    assert!(script.contains(&format!("\"User\":\"{user}\"")), "{user}");
}

/// What the chart sets by itself; whatever else the program takes is for `settings`.
const BY_THE_CHART: [&str; 12] = [
    "data-dir",
    "encryption-keys",
    "gateway-token-file",
    "listen",
    "log-format",
    "operator-token-file",
    "store",
    "tls-cert",
    "tls-client-ca",
    "tls-key",
    "tls-roles",
    "ui-listen",
];
/// In `tokens` of the values, off by default.
const UPSTREAM: &str = "upstream-token-file";

/// Secrets: arguments can be read by who can read the pod.
const SECRET: [&str; 5] = [
    "encryption-key-command",
    "gateway-token",
    "operator-token",
    "redlock-node",
    "upstream-token",
];

/// Every flag and variable is one of the program, every one of the program can be set, and no secret stands in them.
#[test]
fn its_settings_are_those_of_the_program() {
    let known = parts::service_variables();
    let settings: BTreeSet<&str> = known.iter().map(String::as_str).collect();
    let flags = parts::service_flags();
    let left: BTreeSet<&str> = flags
        .iter()
        .map(String::as_str)
        .filter(|flag| !BY_THE_CHART.contains(flag) && !SECRET.contains(flag) && *flag != UPSTREAM)
        .collect();
    for flag in ["otlp-endpoint", "tls-min-version", "tls-client-auth"] {
        assert!(left.contains(flag), "{flag}: {left:?}");
    }
    let of_all: serde_json::Map<String, Value> = left
        .iter()
        .map(|flag| ((*flag).to_owned(), Value::from("a value")))
        .collect();
    let on = |store: &str| {
        serde_json::json!({
            "store": { "kind": store },
            "tokens": { "upstream": true },
            "tls": { "secret": "idempotencyd-tls", "clients": true, "roles": "gateway dns:gateway" },
            "encryption": { "secret": "idempotencyd-keys" },
            "settings": of_all,
        })
    };
    let (rendered, _) = chart::render(&FILES.map(on));
    let everything = rendered
        .into_iter()
        .map(|rendered| yaml_documents(&rendered.as_ref().unwrap()["templates/workload.yaml"]));
    let mut set = BTreeSet::new();
    let plain = FILES.map(manifests);
    for manifests in plain.into_iter().chain(everything) {
        let pod = &workload(&manifests)["spec"]["template"]["spec"];
        for container in elements(&pod["containers"]).chain(elements(&pod["initContainers"])) {
            for argument in strings(&container["args"]) {
                let Some(flag) = argument.strip_prefix("--") else {
                    assert!(["serve", "migrate"].contains(&argument), "{argument}");
                    continue;
                };
                let (flag, value) = flag.split_once('=').unwrap();
                assert!(flags.contains(flag), "{argument}");
                assert!(!SECRET.contains(&flag), "a secret is no argument: {value}");
                set.insert(flag.to_owned());
            }
            for variable in elements(&container["env"]) {
                let name = variable["name"].as_str().unwrap();
                assert!(settings.contains(name), "{name}");
                let is_secret = name == "IDEMPOTENCYD_STORE";
                assert_eq!(
                    is_secret,
                    !variable["valueFrom"]["secretKeyRef"].is_null(),
                    "{name}: {variable}"
                );
                let flag = name.strip_prefix("IDEMPOTENCYD_").unwrap();
                set.insert(flag.to_lowercase().replace('_', "-"));
            }
            // What a flag names is mounted.
            for argument in strings(&container["args"]) {
                let path = argument.split_once("=/etc/idempotency/");
                let Some((directory, _)) = path.and_then(|(_, path)| path.split_once('/')) else {
                    continue;
                };
                let mounted = format!("/etc/idempotency/{directory}");
                let mut mounts = elements(&container["volumeMounts"]);
                assert!(
                    mounts.any(|mount| mount["mountPath"] == *mounted),
                    "{argument} is not mounted"
                );
            }
        }
    }
    let mut all: BTreeSet<String> = flags;
    all.retain(|flag| !SECRET.contains(&flag.as_str()));
    assert_eq!(set, all);
}

/// One store, one process; where the store is elsewhere, several.
#[test]
fn an_embedded_store_has_one_pod_and_a_shared_one_several() {
    let embedded = manifests("embedded");
    let set = one(&embedded, "StatefulSet");
    assert_eq!(set["spec"]["replicas"], 1);
    let claim = &set["spec"]["volumeClaimTemplates"][0]["spec"];
    assert_eq!(strings(&claim["accessModes"]), ["ReadWriteOncePod"]);
    for kind in ["HorizontalPodAutoscaler", "PodDisruptionBudget"] {
        assert!(
            embedded.iter().all(|manifest| manifest["kind"] != kind),
            "{kind}"
        );
    }
    for store in ["redis", "postgres"] {
        let manifests = manifests(store);
        let deployment = one(&manifests, "Deployment");
        // The autoscaler says how many; a number here would set them back with every change.
        assert!(deployment["spec"]["replicas"].is_null());
        let scaler = one(&manifests, "HorizontalPodAutoscaler");
        assert!(scaler["spec"]["minReplicas"].as_u64().unwrap() >= 2);
        let budget = one(&manifests, "PodDisruptionBudget");
        assert_eq!(budget["spec"]["maxUnavailable"], 1);
    }
}

/// What selects pods selects these.
#[test]
fn selectors_select_the_pods() {
    for store in FILES {
        let manifests = manifests(store);
        let labels = &workload(&manifests)["spec"]["template"]["metadata"]["labels"];
        let selects = |selector: &Value| {
            let wanted = selector.as_object().unwrap();
            assert!(!wanted.is_empty());
            wanted.iter().all(|(name, value)| labels[name] == *value)
        };
        assert!(selects(&one(&manifests, "Service")["spec"]["selector"]));
        assert!(selects(
            &workload(&manifests)["spec"]["selector"]["matchLabels"]
        ));
        let policy = one(&manifests, "NetworkPolicy");
        assert!(selects(&policy["spec"]["podSelector"]["matchLabels"]));
        for kind in ["PodDisruptionBudget"] {
            for manifest in manifests.iter().filter(|m| m["kind"] == kind) {
                assert!(selects(&manifest["spec"]["selector"]["matchLabels"]));
            }
        }
    }
    let monitor = yaml_documents(&read("deploy/kubernetes/service/servicemonitor.yaml"));
    let wanted = &monitor[0]["spec"]["selector"]["matchLabels"];
    let manifests = manifests("redis");
    let service = one(&manifests, "Service");
    let labels = &service["metadata"]["labels"];
    assert!(wanted
        .as_object()
        .unwrap()
        .iter()
        .all(|(n, v)| labels[n] == *v));
    // The job of alerts and dashboard.
    let job = &labels[monitor[0]["spec"]["jobLabel"].as_str().unwrap()];
    assert_eq!(job, "idempotencyd");
    assert!(read("deploy/observability/alerts.yml").contains("job=\"idempotencyd\""));
    let ports = elements(&service["spec"]["ports"]);
    let ports: Vec<&Value> = ports.map(|port| &port["name"]).collect();
    assert!(ports.contains(&&monitor[0]["spec"]["endpoints"][0]["port"]));
}

/// A pod that is told to end has the time that it needs.
#[test]
fn it_may_end_in_peace() {
    let manifests = manifests("redis");
    let pod = &workload(&manifests)["spec"]["template"]["spec"];
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    let sleep = &pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"];
    // --shutdown-timeout, and the store's ten seconds.
    assert!(grace >= sleep.as_u64().unwrap() + 10 + 10);
}
