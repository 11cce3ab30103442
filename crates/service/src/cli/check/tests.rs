use super::*;

const ENVOY: &str = include_str!("../../../../../envoy/envoy.yaml");
const KONG_YML: &str = include_str!("../../../../../kong/kong.yml");
const DEMO: &str = include_str!("../../../../../envoy/demo-filter.json");

fn report(name: &str, text: &str) -> Report {
    let check = CheckConfig {
        files: Vec::new(),
        filter: "idempotency".to_owned(),
    };
    check.check(Path::new(name), text.as_bytes())
}

/// The lines that are said, without the file.
fn lines(report: &Report) -> Vec<String> {
    report.findings.iter().map(ToString::to_string).collect()
}

/// The line and the column of the first place with this text, counted from 1.
fn place_of(text: &str, part: &str) -> Place {
    let at = text.find(part).unwrap();
    let before = &text[..at];
    Place {
        line: before.matches('\n').count() + 1,
        column: at - before.rfind('\n').map_or(0, |n| n + 1) + 1,
    }
}

#[track_caller]
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1)
}

#[track_caller]
fn assert_says(report: &Report, part: &str) -> Finding {
    let mut found = report.findings.iter().filter(|f| f.text.contains(part));
    let finding = found
        .next()
        .unwrap_or_else(|| panic!("{part}: {:?}", lines(report)));
    finding.clone()
}

#[test]
fn what_is_shipped_is_usable_without_a_note() {
    for (name, text) in [
        ("envoy.yaml", ENVOY),
        ("kong.yml", KONG_YML),
        ("demo-filter.json", DEMO),
    ] {
        let found = report(name, text);
        assert_eq!(lines(&found), [""; 0], "{name}");
        assert!(!found.sites.is_empty(), "{name}");
    }
}

/// Of Envoy Gateway and of Kong's ingress controller.
#[test]
fn the_filter_is_found_in_other_manifests_of_kubernetes() {
    let kong = include_str!("../../../../../deploy/kubernetes/kong/ingress.yaml");
    assert_eq!(
        report("ingress.yaml", kong).sites,
        ["plugin idempotency (1 rule)"]
    );
    let wrong = kong.replace("wait_ms: 5000", "wait_ms: -1");
    let finding = assert_says(&report("ingress.yaml", &wrong), "rules[0].wait_ms");
    let line = wrong
        .lines()
        .position(|line| line.contains("wait_ms: -1"))
        .unwrap()
        + 1;
    assert_eq!(finding.place.unwrap().line, line);
    // It is judged as Kong's host will judge it.
    let elsewhere = replaced(kong, "host: kong", "host: envoy");
    assert_says(&report("ingress.yaml", &elsewhere), "behaves like \"kong\"");
    let envoy = include_str!("../../../../../deploy/kubernetes/envoy-gateway/detached.yaml");
    assert_eq!(report("eg.yaml", envoy).sites.len(), 1);
}

#[test]
fn a_fault_in_the_json_inside_an_envoy_yaml_has_the_line_of_the_file() {
    let text = replaced(ENVOY, "\"wait_ms\": 5000", "\"wait_ms\": \"5s\"");
    let found = report("envoy.yaml", &text);
    let finding = assert_says(&found, "rules[0].wait_ms: must be an integer");
    assert_eq!(finding.place, Some(place_of(&text, "\"wait_ms\"")));
    let hint = finding.hint.unwrap();
    assert_eq!(hint, "`5s` is 5000 milliseconds: write 5000");

    let text = replaced(ENVOY, "\"timeout_ms\": 1000", "\"timeout\": \"1s\"");
    let finding = assert_says(
        &report("envoy.yaml", &text),
        "service.timeout: unknown field",
    );
    assert_eq!(finding.place, Some(place_of(&text, "\"timeout\"")));
    assert_eq!(finding.hint.unwrap(), "did you mean `timeout_ms`: 1000?");
}

#[test]
fn what_stands_around_the_filter_in_envoy_is_judged() {
    let inline = "\"execution\": \"inline\"";
    let attached = replaced(ENVOY, "\"execution\": \"detached\"", inline);
    for (text, part) in [
        (
            replaced(ENVOY, "allow_on_headers_stop_iteration: true", "allow_on_headers_stop_iteration: false"),
            "allow_on_headers_stop_iteration must be true",
        ),
        (
            replaced(ENVOY, "failure_policy: FAIL_CLOSED", "failure_policy: FAIL_OPEN"),
            "failure_policy must be FAIL_CLOSED",
        ),
        (
            replaced(ENVOY, "limit_bytes: 2097152", "limit_bytes: 1048576"),
            "per_connection_buffer_limit_bytes (1048576) must be larger",
        ),
        (
            replaced(ENVOY, "stream_idle_timeout: 300s", "stream_idle_timeout: 20s"),
            "stream_idle_timeout (20000 ms) must be longer than execution_timeout_ms of rule charges",
        ),
        (
            replaced(ENVOY, "request_timeout: 90s", "request_timeout: 5s"),
            "request_timeout (5000 ms) must be longer",
        ),
        (
            replaced(ENVOY, "headers_with_underscores_action: DROP_HEADER", "idle_timeout: 1s"),
            "headers_with_underscores_action is neither",
        ),
        (
            replaced(&attached, "timeout: 15s", "timeout: 120s"),
            "the route's timeout (120000 ms) must be less than lease_ms of rule charges",
        ),
        (
            replaced(ENVOY, "\"target\": \"idempotency\"", "\"target\": \"elsewhere\""),
            "service.target: there is no cluster `elsewhere`",
        ),
    ] {
        // `idle_timeout` would be there twice.
        let text = text.replacen("            idle_timeout: 300s\n", "", 1);
        let finding = assert_says(&report("envoy.yaml", &text), part);
        assert!(finding.place.is_some(), "{finding:?}");
    }
}

#[test]
fn two_filters_in_one_chain_and_retries_of_executions_are_told() {
    let start = ENVOY.find("          - name: idempotency\n").unwrap();
    let end = start
        + ENVOY[start..]
            .find("          - name: envoy.filters.http.router")
            .unwrap();
    let filter = &ENVOY[start..end];
    let twice = replaced(ENVOY, filter, &format!("{filter}{filter}"));
    assert_says(
        &report("envoy.yaml", &twice),
        "the filter stands here twice",
    );

    let retries = "cluster: upstream\n                  retry_policy: { retry_on: 5xx }";
    let with_retries = replaced(ENVOY, "cluster: upstream", retries);
    assert_eq!(lines(&report("envoy.yaml", &with_retries)), [""; 0]);
    let without_guard = replaced(&with_retries, "x-envoy-max-retries", "x-other");
    let finding = report("envoy.yaml", &without_guard);
    assert_says(&finding, "Envoy would execute one request several times");
}

#[test]
fn json_of_envoy_and_structs_are_read_like_yaml() {
    let document = Document::read(ENVOY).unwrap().remove(0);
    let json = serde_json::to_string_pretty(&document.value).unwrap();
    assert_eq!(lines(&report("envoy.json", &json)), [""; 0]);
    let bad = replaced(&json, "\\\"wait_ms\\\": 5000", "\\\"wait_ms\\\": -1");
    let finding = assert_says(&report("envoy.json", &bad), "rules[0].wait_ms: ");
    // All of the text is one line of the file.
    let place = finding.place.unwrap();
    assert!(bad.lines().nth(place.line - 1).unwrap().contains("wait_ms"));
}

const ISTIO: &str = r#"
apiVersion: v1
kind: Namespace
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    patch:
      operation: INSERT_BEFORE
      value:
        name: idempotency
        typed_config:
          "@type": type.googleapis.com/udpa.type.v1.TypedStruct
          type_url: type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
          value:
            config:
              root_id: idempotency
              allow_on_headers_stop_iteration: true
              configuration:
                "@type": type.googleapis.com/google.protobuf.StringValue
                value: |
                  { "service": { "target": "idempotency" },
                    "rules": [
                      { "match": { "path": "/x" }, "scope": "global" }
                    ] }
"#;

#[test]
fn manifests_of_kubernetes_are_searched() {
    let found = report("istio.yaml", ISTIO);
    assert_eq!(lines(&found), [""; 0]);
    assert_eq!(found.sites, ["a WebAssembly plugin (1 rule)"]);
    let text = replaced(ISTIO, "\"scope\": \"global\"", "\"scope\": \"tenant\"");
    let finding = assert_says(&report("istio.yaml", &text), "rules[0].scope: ");
    assert_eq!(finding.place, Some(place_of(&text, "\"scope\"")));
    assert!(finding
        .hint
        .unwrap()
        .contains("{\"credentials\": \"static\"}"));

    let indented: String = ENVOY.lines().map(|line| format!("    {line}\n")).collect();
    let map = format!("kind: ConfigMap\ndata:\n  envoy.yaml: |\n{indented}");
    let found = report("map.yaml", &map);
    assert_eq!(lines(&found), [""; 0]);
    assert_eq!(found.sites, ["envoy.yaml: a WebAssembly plugin (1 rule)"]);
    let text = replaced(&map, "\"wait_ms\": 5000", "\"wait_ms\": -1");
    let finding = assert_says(&report("map.yaml", &text), "rules[0].wait_ms: ");
    assert_eq!(finding.place, Some(place_of(&text, "\"wait_ms\"")));

    let plugin = "kind: WasmPlugin\nspec:\n  pluginConfig:\n    service: { target: x }\n    rules:\n    - match: { path: /x }\n      scope: tenant\n";
    let found = report("plugin.yaml", plugin);
    let finding = assert_says(&found, "rules[0].scope: ");
    assert_eq!(finding.place.unwrap().line, 7);
}

#[test]
fn a_fault_in_a_kong_yml_has_its_line() {
    let text = replaced(KONG_YML, "wait_ms: 5000", "wait_ms: -1");
    let finding = assert_says(
        &report("kong.yml", &text),
        "service charges: rules[0].wait_ms: ",
    );
    assert_eq!(finding.place, Some(place_of(&text, "wait_ms: -1")));
    let text = replaced(KONG_YML, "retries: 0", "retries: 5");
    let finding = assert_says(
        &report("kong.yml", &text),
        "retries of service charges must be 0",
    );
    assert_eq!(finding.place, Some(place_of(&text, "retries: 5")));
    let text = replaced(KONG_YML, "read_timeout: 15000", "read_timeout: 60000");
    let finding = assert_says(&report("kong.yml", &text), "is not less than lease_ms");
    assert!(finding.is_note);
}

#[test]
fn the_filters_own_json_has_lines_and_is_read_as_strictly_as_by_the_filter() {
    let text = "{\n  \"service\": { \"target\": \"s\" },\n  \"rules\": [\n    { \"match\": { \"path\": \"/x\" }, \"scope\": \"global\", \"leas_ms\": 1 }\n  ]\n}\n";
    let finding = assert_says(
        &report("filter.json", text),
        "rules[0].leas_ms: unknown field",
    );
    assert_eq!(finding.place, Some(place_of(text, "\"leas_ms\"")));
    for text in ["", "{", "[]", "null", "{rules: []}", "{\"rules\": [],}"] {
        let found = report("filter.json", text);
        assert!(
            found.findings.iter().any(|f| !f.is_note),
            "{text}: {found:?}"
        );
    }
}
