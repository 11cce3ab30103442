//! The chart, rendered.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use idempotency_stack::tools;
use serde_json::{json, Value};

use crate::repository::{read, root};

pub const CHART: &str = "deploy/helm/idempotency-gateway";

/// What `scripts/get-deploy-tools.sh` has installed.
pub fn deploy_tools() -> PathBuf {
    let script = root().join("scripts/get-deploy-tools.sh");
    let target = tools::target_dir().unwrap();
    let output = Command::new(script)
        .env("CARGO_TARGET_DIR", target)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// What Helm says of some values: templates and their texts, or why not.
pub type Rendered = Result<BTreeMap<String, String>, String>;

/// Renders the release `idempotencyd` in the namespace `idempotency`, once for each of these values; and what
/// Helm's linter says.
pub fn render(values: &[Value]) -> (Vec<Rendered>, Value) {
    let job =
        |values| json!({ "name": "idempotencyd", "namespace": "idempotency", "values": values });
    let work = json!({
        "chart": root().join(CHART),
        "jobs": values.iter().map(job).collect::<Vec<_>>(),
    });
    let mut child = Command::new("python3")
        .arg(root().join("tests/shipped/kubernetes/render.py"))
        .env("PYTHONPATH", deploy_tools())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(work.to_string().as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let job = |job: &Value| match job["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(serde_json::from_value(job.clone()).unwrap()),
    };
    let jobs = said["jobs"].as_array().unwrap().iter().map(job).collect();
    (jobs, said["lint"].clone())
}

#[test]
fn helms_linter_has_nothing_to_say_but_that_there_is_no_icon() {
    let (_, lint) = render(&[]);
    let errors = lint["errors"].as_array().unwrap();
    assert!(errors.is_empty(), "{lint}");
    let messages = lint["messages"].as_array().unwrap().iter();
    let said: Vec<&str> = messages.filter_map(|m| m["error"].as_str()).collect();
    assert_eq!(said, ["icon is recommended"]);
}

#[test]
fn values_that_are_not_known_or_make_no_sense_are_refused() {
    let wrong = [
        (json!({ "replica": 3 }), "replica"),
        (json!({ "store": { "kind": "mysql" } }), "kind"),
        (json!({ "filter": { "token": "short" } }), "token"),
        (json!({ "filter": { "rules": [] } }), "rules"),
        (json!({ "image": { "digest": "sha256:12" } }), "digest"),
        (json!({ "networkPolicy": { "from": [] } }), "from"),
    ];
    let values: Vec<Value> = wrong.iter().map(|(values, _)| values.clone()).collect();
    let (rendered, _) = render(&values);
    for ((values, field), rendered) in wrong.iter().zip(rendered) {
        let error = rendered.expect_err(&values.to_string());
        assert!(error.contains(field), "{values}: {error}");
    }
}

/// The chart is released with the program.
#[test]
fn it_has_the_version_of_the_workspace() {
    let chart = crate::repository::yaml(&format!("{CHART}/Chart.yaml"));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(chart["version"], version);
    assert_eq!(chart["appVersion"], version);
}

/// Every value is explained where it is set, and named in the schema.
#[test]
fn values_and_their_schema_name_the_same() {
    fn names(value: &Value, at: &str, found: &mut Vec<String>) {
        for (name, inner) in value.as_object().into_iter().flatten() {
            let path = format!("{at}.{name}");
            names(inner, &path, found);
            found.push(path);
        }
    }
    fn of_schema(schema: &Value, at: &str, found: &mut Vec<String>) {
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{at}.{name}");
            of_schema(inner, &path, found);
            found.push(path);
        }
    }
    let (mut values, mut known) = (Vec::new(), Vec::new());
    names(
        &crate::repository::yaml(&format!("{CHART}/values.yaml")),
        "",
        &mut values,
    );
    let schema: Value =
        serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))).unwrap();
    of_schema(&schema, "", &mut known);
    // Helm's own.
    known.retain(|name| name != ".global");
    // What is free below a name is not for this schema to say.
    let free = [
        ".resources.",
        ".istio.workloadLabels.",
        ".serviceMonitor.labels.",
        ".settings.",
    ];
    values.retain(|name| !free.iter().any(|free| name.starts_with(free)));
    values.sort();
    known.sort();
    assert_eq!(values, known);
}
