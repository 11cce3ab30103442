//! `deploy/observability`: the alerts and the dashboard, against real metrics and by Prometheus itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use idempotency_stack::http::Request;
use idempotency_stack::{ports, until, Pki, Process, Stack, ENCRYPTION_KEYS};
use serde_json::{json, Value};

use crate::repository::{parse_yaml, read, root};

/// Whether Debian's `prometheus` is there. Without it a test fails in CI, and is skipped elsewhere.
fn prometheus_is_there() -> bool {
    let there = Command::new("promtool").arg("--version").output().is_ok();
    assert!(
        there || std::env::var_os("CI").is_none(),
        "CI needs Debian's package prometheus"
    );
    if !there {
        eprintln!("skipped: Debian's package prometheus is not installed");
    }
    there
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(root().join("deploy/observability"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_alerts_are_rules_and_their_own_tests_hold() {
    if prometheus_is_there() {
        promtool(&["check", "rules", "alerts.yml"]);
        promtool(&["test", "rules", "alerts.test.yml"]);
    }
}

fn alerts() -> Vec<Value> {
    let rules = parse_yaml(&read("deploy/observability/alerts.yml")).unwrap();
    let groups = rules["groups"].as_array().unwrap().clone();
    let rules = groups
        .into_iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone());
    rules.collect()
}

#[test]
fn every_alert_has_its_section_in_the_runbook_and_the_other_way_round() {
    let alerts = alerts()
        .into_iter()
        .map(|rule| rule["alert"].as_str().unwrap().to_owned());
    let alerts: BTreeSet<String> = alerts.collect();
    let runbook = read("docs/runbook.md");
    let sections = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## Idempotency"));
    let sections = sections.map(|name| format!("Idempotency{name}")).collect();
    assert_eq!(alerts, sections);
}

/// A Prometheus that reads a service and an Envoy every second.
struct Prometheus {
    process: Process,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    fn start(stack: &Stack) -> Prometheus {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s" },
            "rule_files": [root().join("deploy/observability/alerts.yml")],
            "scrape_configs": [
                {
                    "job_name": "idempotencyd",
                    "static_configs": [{ "targets": [stack.service.address().to_string()] }],
                },
                {
                    "job_name": "envoy",
                    "metrics_path": "/stats/prometheus",
                    "static_configs": [{ "targets": [stack.gateway.envoy().admin().to_string()] }],
                },
            ],
        });
        let file = dir.path().join("prometheus.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let port = ports::free();
        let process = Process::start(
            "prometheus",
            command(dir.path(), &file, port),
            dir.path().join("log"),
        );
        Prometheus {
            process: process.unwrap(),
            port,
            _dir: dir,
        }
    }

    /// The series that a query finds now.
    fn ask(&self, query: &str) -> Result<Vec<Value>, String> {
        let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let request = Request::get(&format!("/api/v1/query?query={query}"));
        let answer = request.send(([127, 0, 0, 1], self.port).into());
        let answer = answer.map_err(|error| error.to_string())?.json();
        let found = answer["data"]["result"].as_array().cloned();
        found.ok_or_else(|| format!("{answer}"))
    }
}

fn command(dir: &Path, config: &Path, port: u16) -> Command {
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            dir.join("data").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    command
}

/// The queries of a dashboard, with what a viewer chooses put in.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value =
        serde_json::from_str(&read("deploy/observability/dashboard.json")).unwrap();
    let mut found = Vec::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let id = panel["id"].as_u64().expect("a panel has an id");
        assert!(ids.insert(id), "two panels have the id {id}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let query = query
                .replace("$__rate_interval", "30s")
                .replace("$service", ".*")
                .replace("$gateway", ".*");
            // `$1` is Prometheus' own.
            assert!(!query.replace("$1", "").contains('$'), "{query}");
            found.push((panel["title"].as_str().unwrap().to_owned(), query));
        }
    }
    found
}

/// What an alert looks at: its expression without the comparison at its end.
fn looked_at(expression: &str) -> String {
    let comparison = [" > ", " == ", " < "]
        .iter()
        .filter_map(|operator| expression.rfind(operator))
        .max();
    let at = comparison.unwrap_or_else(|| panic!("{expression}"));
    expression[..at].to_owned()
}

#[test]
fn every_query_of_dashboard_and_alerts_finds_series_on_a_running_gateway() {
    if !prometheus_is_there() {
        return;
    }
    // What is only counted with certificates and with encryption is there, too.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, ENCRYPTION_KEYS).unwrap();
    let keys = file.path().display().to_string();
    let stack = Stack::builder()
        .service_over_tcp()
        .service(move |service| {
            service.tls = Some(Pki::shared().unwrap());
            service.args.extend(["--encryption-keys".to_owned(), keys]);
        })
        .start();
    for key in ["k-1", "k-1", "k-2"] {
        let request = Request::post("/charges")
            .header("Idempotency-Key", key)
            .body("{}");
        assert_eq!(request.send(stack.address()).unwrap().status, 201);
    }
    let prometheus = Prometheus::start(&stack);
    let mut queries = queries();
    assert!(queries.len() > 20, "{queries:?}");
    queries.extend(alerts().iter().map(|rule| {
        let expression = rule["expr"].as_str().unwrap().trim();
        (
            rule["alert"].as_str().unwrap().to_owned(),
            looked_at(expression),
        )
    }));
    // PostgreSQL knows how many records a table has only when it has analysed it.
    let uncounted = std::env::var("STORE").is_ok_and(|store| store == "postgres");
    queries.retain(|(_, query)| !(uncounted && query.contains("idempotencyd_store_records")));
    for (title, query) in queries {
        // A rate needs two scrapes, and some steps of its own between them.
        let mut found = prometheus.ask(&query);
        let series = until(Duration::from_secs(60), || {
            found = prometheus.ask(&query);
            found.as_ref().is_ok_and(|found| !found.is_empty())
        });
        assert!(
            series,
            "{title}: {query}: {found:?}\n{}",
            prometheus.process.tail(20)
        );
    }
    let executed = prometheus.ask("sum(idempotency_executed)").unwrap();
    assert_eq!(executed[0]["value"][1], "2");
}
