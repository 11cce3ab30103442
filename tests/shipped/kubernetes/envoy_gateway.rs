//! `deploy/kubernetes/envoy-gateway`: what Envoy Gateway makes of an `EnvoyProxy` and an `EnvoyPatchPolicy`.
//! (Envoy Gateway: `internal/xds/translator/jsonpatch.go`, `internal/xds/bootstrap`.)

use serde_json::{json, Value};

use super::basics::{self, Names};
use super::proxy::Xds;
use crate::repository::{elements, parse_yaml, yaml_documents};

const NAMES: Names = Names {
    port: 10_080,
    upstream: "httproute/default/charges/rule/0",
    service: "idempotency",
};

/// Applies one operation to the resource that it names.
fn apply(patch: &Value, xds: &mut Xds) {
    let resources = match patch["type"].as_str().unwrap() {
        "type.googleapis.com/envoy.config.listener.v3.Listener" => &mut xds.listeners,
        "type.googleapis.com/envoy.config.cluster.v3.Cluster" => &mut xds.clusters,
        other => panic!("{other}"),
    };
    let operation = &patch["operation"];
    let [path, json_path] = ["path", "jsonPath"].map(|name| operation[name].as_str().unwrap_or(""));
    if operation["op"] == "add" && path.is_empty() && json_path.is_empty() {
        // A whole resource.
        assert_eq!(operation["value"]["name"], patch["name"]);
        resources.push(operation["value"].clone());
        return;
    }
    let mut named = resources.iter_mut().filter(|r| r["name"] == patch["name"]);
    let resource = named
        .next()
        .unwrap_or_else(|| panic!("no such resource: {patch}"));
    let pointers = match json_path {
        "" => vec![path.to_owned()],
        expression => {
            let places = locate(expression, resource);
            places
                .iter()
                .map(|place| format!("{place}{path}"))
                .collect()
        }
    };
    assert!(!pointers.is_empty(), "{json_path} finds nothing");
    for pointer in pointers {
        assert_eq!(operation["op"], "add");
        add(resource, &pointer, operation["value"].clone());
    }
}

/// RFC 6902, `add`: in front of an element, or a member in place of what was there.
fn add(document: &mut Value, pointer: &str, value: Value) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    match document
        .pointer_mut(parent)
        .unwrap_or_else(|| panic!("no {parent}"))
    {
        Value::Array(list) => list.insert(last.parse().unwrap(), value),
        Value::Object(members) => drop(members.insert(last.to_owned(), value)),
        other => panic!("{pointer}: {other}"),
    }
}

/// Where `$..LIST[?(@.name=='NAME')]` and what may follow it, `.MEMBER`, is in a document, as JSON pointers. No other
/// JSONPath is known here.
fn locate(expression: &str, document: &Value) -> Vec<String> {
    let parts = expression.strip_prefix("$..").and_then(|rest| {
        let (list, rest) = rest.split_once("[?(@.name=='")?;
        let (name, member) = rest.split_once("')]")?;
        Some((list, name, member))
    });
    let (list, name, member) = parts.unwrap_or_else(|| panic!("{expression}: not known here"));
    let member = member.replace('.', "/");
    let mut found = Vec::new();
    let mut next = vec![(String::new(), document)];
    while let Some((at, value)) = next.pop() {
        match value {
            Value::Object(members) => {
                let inner = members.iter();
                next.extend(inner.map(|(name, inner)| (format!("{at}/{name}"), inner)));
            }
            Value::Array(elements) => {
                let is_list = at.ends_with(&format!("/{list}"));
                for (index, element) in elements.iter().enumerate() {
                    let at = format!("{at}/{index}");
                    if is_list && element["name"] == name {
                        found.push(format!("{at}{member}"));
                    }
                    next.push((at, element));
                }
            }
            _ => {}
        }
    }
    found
}

fn patched(path: &str) -> Xds {
    let manifests = yaml_documents(&basics::as_shipped(path));
    let of_kind = |kind: &str| {
        let mut found = manifests.iter().filter(|manifest| manifest["kind"] == kind);
        found.next().unwrap()
    };
    let mut xds = Xds::base("envoy-gateway");
    let own = &of_kind("EnvoyProxy")["spec"]["bootstrap"];
    if !own.is_null() {
        assert_eq!(own["type"], "Merge");
        let own = parse_yaml(own["value"].as_str().unwrap()).unwrap();
        for (name, value) in own.as_object().unwrap() {
            assert!(
                xds.bootstrap[name].is_null(),
                "{name} is there, and would be merged"
            );
            xds.bootstrap[name] = value.clone();
        }
    }
    let policy = &of_kind("EnvoyPatchPolicy")["spec"];
    assert_eq!(policy["type"], "JSONPatch");
    for patch in elements(&policy["jsonPatches"]) {
        apply(patch, &mut xds);
    }
    xds
}

#[test]
fn the_basics_hold_in_a_gateway_of_envoy_gateway_with_detached_executions() {
    basics::hold(
        patched("deploy/kubernetes/envoy-gateway/detached.yaml"),
        &NAMES,
        true,
    );
}

#[test]
fn the_basics_hold_in_a_gateway_of_envoy_gateway_inline() {
    basics::hold(
        patched("deploy/kubernetes/envoy-gateway/inline.yaml"),
        &NAMES,
        false,
    );
}

/// A Gateway with TLS has its filters in other chains: the patch finds those, too.
#[test]
fn the_patch_finds_the_filters_of_every_chain() {
    let manifests = yaml_documents(&crate::repository::read(
        "deploy/kubernetes/envoy-gateway/detached.yaml",
    ));
    let policy = manifests
        .iter()
        .find(|m| m["kind"] == "EnvoyPatchPolicy")
        .unwrap();
    let mut xds = Xds::base("envoy-gateway");
    let chain = xds.listeners[0]["default_filter_chain"].take();
    xds.listeners[0]["filter_chains"] = json!([chain, chain]);
    for patch in elements(&policy["spec"]["jsonPatches"]) {
        apply(patch, &mut xds);
    }
    for chain in elements(&xds.listeners[0]["filter_chains"]) {
        let manager = &chain["filters"][0]["typed_config"];
        let names: Vec<&Value> = elements(&manager["http_filters"])
            .map(|f| &f["name"])
            .collect();
        assert_eq!(names, ["idempotency", "envoy.filters.http.router"]);
        assert_eq!(manager["stream_idle_timeout"], "300s");
    }
}

/// The mount is where the filter is looked for, and both name one ConfigMap.
#[test]
fn the_filter_is_mounted_where_it_is_looked_for() {
    let text = crate::repository::read("deploy/kubernetes/envoy-gateway/inline.yaml");
    let manifests = yaml_documents(&text);
    let proxy = manifests
        .iter()
        .find(|m| m["kind"] == "EnvoyProxy")
        .unwrap();
    let deployment = &proxy["spec"]["provider"]["kubernetes"]["envoyDeployment"];
    let mount = &deployment["container"]["volumeMounts"][0];
    let directory = mount["mountPath"].as_str().unwrap();
    assert!(text.contains(&format!("filename: {directory}/plugin.wasm")));
    assert_eq!(mount["name"], deployment["pod"]["volumes"][0]["name"]);
}
