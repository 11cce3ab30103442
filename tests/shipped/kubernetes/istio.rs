//! `deploy/kubernetes/istio`: what Istio's pilot makes of an `EnvoyFilter`, as far as ours need it; whatever else one
//! asks for is refused here. (Istio: `pilot/pkg/networking/core/envoyfilter`.)

use serde_json::Value;

use super::basics::{self, Names};
use super::proxy::Xds;
use crate::repository::{elements, yaml_documents};

const NAMES: Names = Names {
    port: 80,
    upstream: "outbound|7481||demo-upstream.default.svc.cluster.local",
    service: "outbound|7480||idempotencyd.idempotency.svc.cluster.local",
};

/// Merges as protobuf does: messages member by member, lists one behind the other.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                match into.get_mut(name) {
                    Some(there) => merge(there, value),
                    None => drop(into.insert(name.clone(), value.clone())),
                }
            }
        }
        (Value::Array(into), Value::Array(from)) => into.extend(from.iter().cloned()),
        (into, from) => *into = from.clone(),
    }
}

/// One patch, and how often it found its place.
struct Patch<'a> {
    apply_to: &'a str,
    operation: &'a str,
    listener: &'a Value,
    value: &'a Value,
    applied: usize,
}

impl<'a> Patch<'a> {
    fn of(patch: &'a Value) -> Patch<'a> {
        for (name, _) in patch.as_object().unwrap() {
            assert!(
                ["applyTo", "match", "patch"].contains(&name.as_str()),
                "{name}"
            );
        }
        let matched = &patch["match"];
        assert_eq!(matched["context"], "GATEWAY", "{patch}");
        for (name, _) in matched.as_object().unwrap() {
            assert!(["context", "listener"].contains(&name.as_str()), "{name}");
        }
        Patch {
            apply_to: patch["applyTo"].as_str().unwrap(),
            operation: patch["patch"]["operation"].as_str().unwrap(),
            listener: &matched["listener"],
            value: &patch["patch"]["value"],
            applied: 0,
        }
    }

    fn is(&self, apply_to: &str, operation: &str) -> bool {
        self.apply_to == apply_to && self.operation == operation
    }

    fn matches(&self, listener: &Value) -> bool {
        let port = &self.listener["portNumber"];
        port.is_null() || *port == listener["address"]["socket_address"]["port_value"]
    }

    /// Whether it concerns this network filter.
    fn names(&self, filter: &Value) -> bool {
        let name = &self.listener["filterChain"]["filter"]["name"];
        name.is_null() || *name == filter["name"]
    }
}

/// Applies every patch of an `EnvoyFilter`; one that finds no place is an error.
fn apply(filter: &Value, xds: &mut Xds) {
    assert_eq!(filter["kind"], "EnvoyFilter");
    let patches = elements(&filter["spec"]["configPatches"]);
    let mut patches: Vec<Patch<'_>> = patches.map(Patch::of).collect();
    for listener in &mut xds.listeners {
        for patch in patches.iter_mut().filter(|p| p.is("LISTENER", "MERGE")) {
            if patch.matches(listener) {
                merge(listener, patch.value);
                patch.applied += 1;
            }
        }
        let place = listener["address"].clone();
        let chains = listener["filter_chains"].as_array_mut().unwrap();
        for chain in chains {
            for network in chain["filters"].as_array_mut().unwrap() {
                for patch in &mut patches {
                    let listener = serde_json::json!({ "address": place });
                    if patch.matches(&listener) && patch.names(network) {
                        network_filter(patch, network);
                    }
                }
            }
        }
    }
    // Listeners and clusters that are added see no patch of the same filter.
    for patch in &mut patches {
        let list = match (patch.apply_to, patch.operation) {
            ("LISTENER", "ADD") => &mut xds.listeners,
            ("CLUSTER", "ADD") => &mut xds.clusters,
            _ => continue,
        };
        list.push(patch.value.clone());
        patch.applied += 1;
    }
    for patch in patches {
        let what = format!("{} of {}", patch.operation, patch.apply_to);
        assert_eq!(patch.applied, 1, "{what} {}: found its place", patch.value);
    }
}

fn network_filter(patch: &mut Patch<'_>, network: &mut Value) {
    if patch.is("NETWORK_FILTER", "MERGE") {
        let (there, new) = (&mut network["typed_config"], &patch.value["typed_config"]);
        // Istio merges only what is of one type, and otherwise does nothing.
        assert_eq!(there["@type"], new["@type"]);
        merge(there, new);
        patch.applied += 1;
    } else if patch.is("HTTP_FILTER", "INSERT_BEFORE") {
        let name = &patch.listener["filterChain"]["filter"]["subFilter"]["name"];
        let filters = network["typed_config"]["http_filters"]
            .as_array_mut()
            .unwrap();
        let before = filters.iter().position(|filter| filter["name"] == *name);
        if let Some(before) = before {
            filters.insert(before, patch.value.clone());
            patch.applied += 1;
        }
    }
}

fn patched(path: &str) -> Xds {
    let manifests = yaml_documents(&basics::as_shipped(path));
    assert_eq!(manifests.len(), 1);
    let mut xds = Xds::base("istio");
    apply(&manifests[0], &mut xds);
    xds
}

#[test]
fn the_basics_hold_in_a_gateway_of_istio_with_detached_executions() {
    basics::hold(
        patched("deploy/kubernetes/istio/detached.yaml"),
        &NAMES,
        true,
    );
}

#[test]
fn the_basics_hold_in_a_gateway_of_istio_inline() {
    basics::hold(
        patched("deploy/kubernetes/istio/inline.yaml"),
        &NAMES,
        false,
    );
}

/// The filter stands behind whatever Istio's own policies put in front, and directly before the router.
#[test]
fn the_filter_stands_directly_before_the_router() {
    let xds = patched("deploy/kubernetes/istio/detached.yaml");
    let filters =
        &xds.listeners[0]["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"];
    let names: Vec<&Value> = elements(filters).map(|filter| &filter["name"]).collect();
    assert_eq!(
        names[names.len() - 2..],
        ["idempotency", "envoy.filters.http.router"]
    );
}
