//! The schemas of the Kubernetes API and of its extensions.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use jsonschema::{Resource, Validator};
use serde_json::Value;

use super::chart::deploy_tools;
use crate::repository::{root, yaml_documents};

/// Groups of the API server itself; the others are extensions, whose schemas are in `tests/schemas`.
fn is_core(version: &str) -> bool {
    version == "v1"
        || !version.contains('.')
        || version.split('/').next().is_some_and(|group| {
            ["policy", "apps", "autoscaling", "networking.k8s.io"].contains(&group)
        })
}

/// The validator of a kind.
fn validator(version: &str, kind: &str) -> Validator {
    if !is_core(version) {
        let group = version.split('/').next().unwrap_or_default();
        let file = root().join(format!("tests/schemas/{group}_{kind}.json"));
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let schema: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(schema["properties"]["apiVersion"]["const"], version);
        return jsonschema::draft7::new(&schema).unwrap();
    }
    static DEFINITIONS: OnceLock<Value> = OnceLock::new();
    let dir = deploy_tools().join("kubernetes");
    let read = |name: &str| -> Value {
        let text = std::fs::read_to_string(dir.join(name))
            .unwrap_or_else(|error| panic!("{version} {kind}: {name}: {error}"));
        serde_json::from_str(&text).unwrap()
    };
    let definitions = DEFINITIONS.get_or_init(|| read("_definitions.json"));
    // networking.k8s.io/v1 is `networking-v1` there, and v1 is `v1`.
    let group = version.replace(".k8s.io", "").replace('/', "-");
    let schema = read(&format!("{}-{group}.json", kind.to_lowercase()));
    jsonschema::options()
        .with_base_uri("file:///schemas/one.json")
        .with_resource(
            "file:///api/_definitions.json",
            Resource::from_contents(definitions.clone()).unwrap(),
        )
        .build(&schema)
        .unwrap()
}

/// What the API would refuse of the manifests in a file.
pub fn faults(manifests: &str) -> Vec<String> {
    let mut validators = BTreeMap::new();
    let mut faults = Vec::new();
    for manifest in yaml_documents(manifests) {
        let [version, kind, name] = [
            &manifest["apiVersion"],
            &manifest["kind"],
            &manifest["metadata"]["name"],
        ]
        .map(|member| member.as_str().unwrap_or_default().to_owned());
        let validator = validators
            .entry((version.clone(), kind.clone()))
            .or_insert_with(|| validator(&version, &kind));
        let errors = validator.iter_errors(&manifest);
        faults
            .extend(errors.map(|error| format!("{kind} {name}: {}: {error}", error.instance_path)));
    }
    faults
}

/// The schemas see what is wrong.
#[test]
fn a_field_that_the_api_does_not_know_or_of_another_kind_is_refused() {
    for (wrong, word) in [
        (
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {port: []}}",
            "port",
        ),
        (
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {replicas: two, \
             selector: {}, template: {}}}",
            "two",
        ),
        (
            "{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {name: a}, \
             spec: {configPatches: [{applyTo: HTTP_FILTERS}]}}",
            "HTTP_FILTERS",
        ),
        (
            "{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: EnvoyPatchPolicy, \
             metadata: {name: a}, spec: {type: JSONPatch, target: {}}}",
            "target",
        ),
        (
            "{apiVersion: monitoring.coreos.com/v1, kind: ServiceMonitor, metadata: {name: a}, \
             spec: {selector: {}, endpoints: [{paths: /metrics}]}}",
            "paths",
        ),
    ] {
        let faults = faults(wrong);
        assert!(
            faults.iter().any(|fault| fault.contains(word)),
            "{wrong}: {faults:?}"
        );
    }
}
