//! The operators' page in headless Chromium, which `tests/ui/page.cjs` drives; and its pictures in the documentation:
//! with `UI_SHOTS=DIRECTORY` they are written there (`make ui-shots`).

use crate::support::*;
use crate::ui::with_page;
use bytes::Bytes;
use idempotency_protocol::{
    About, Acquire, Answer, AttemptKind, Complete, FailCause, LookupKey, OnUnknown, Operation,
    Outcome, StoredResponse,
};
use idempotency_stack::tools;
use serde_json::{json, Value};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// A browser that has said nothing by then will say nothing.
const LIMIT: Duration = Duration::from_secs(240);
const HOSTILE: &str = "\"><script>window.hacked=1</script><img src=x onerror=window.hacked=2>";

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut files = std::env::split_paths(&path).map(|dir| dir.join(name));
    files.find(|file| file.is_file())
}

/// Chromium, Node.js and the directory of its packages, unless they are absent and may be.
fn browser() -> Option<(PathBuf, PathBuf, PathBuf)> {
    let packages = tools::target_dir().map(|dir| dir.join("tools/clients/node_modules"));
    let packages = packages.filter(|dir| dir.join("playwright-core/package.json").is_file());
    let found = (|| Some((on_path("chromium")?, on_path("node")?, packages?)))();
    if found.is_none() {
        let absent = "Chromium, Node.js and playwright-core: run scripts/get-clients.sh";
        assert!(std::env::var_os("CI").is_none(), "CI needs {absent}");
        eprintln!("skipped: {absent}");
    }
    found
}

struct Made<'a> {
    tenant: &'a str,
    key: &'a str,
    about: About,
}

fn about(rule: &str, path: &str) -> About {
    About {
        method: "POST".into(),
        path: path.into(),
        rule: rule.into(),
        gateway: "envoy-eu-1".into(),
        request_id: "0d5f8b3e-3c1f-4a39-9d2f-5a1f2d0c7e11".into(),
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        client: "10.2.7.31".into(),
    }
}

impl Made<'_> {
    fn lookup(&self) -> LookupKey {
        LookupKey {
            tenant: self.tenant.into(),
            ..key(self.key)
        }
    }

    async fn begin(&self, gateway: &Client) -> idempotency_protocol::Owner {
        let owner = owner();
        let Operation::Acquire(acquire) = acquire(self.key, owner) else {
            unreachable!("it is an acquire");
        };
        let operation = Operation::Acquire(Acquire {
            key: self.lookup(),
            kind: AttemptKind::Gateway,
            on_unknown: OnUnknown::Refuse,
            about: Some(std::sync::Arc::new(self.about.clone())),
            ..acquire
        });
        granted(gateway.one(operation).await);
        owner
    }

    /// An execution whose end nobody knows; before it, one that failed.
    async fn unknown(&self, gateway: &Client) {
        let owner = self.begin(gateway).await;
        let failed = Operation::Fail {
            key: self.lookup(),
            owner,
            cause: FailCause::default(),
        };
        assert_eq!(gateway.one(failed).await, Answer::Failed);
        let owner = self.begin(gateway).await;
        let key = self.lookup();
        gateway.one(Operation::Abandon { key, owner }).await;
    }

    async fn complete(&self, gateway: &Client, headers: &[(&str, &str)], body: &str) {
        let owner = self.begin(gateway).await;
        let bytes = |text: &str| Bytes::from(text.to_owned());
        let headers = headers.iter().map(|(n, v)| (bytes(n), bytes(v))).collect();
        let outcome = Outcome::Response(StoredResponse {
            status: 201,
            headers,
            body: bytes(body),
        });
        let complete = Complete {
            key: self.lookup(),
            owner,
            outcome: outcome.into(),
        };
        gateway.one(Operation::Complete(complete)).await;
    }
}

fn made<'a>(tenant: &'a str, key: &'a str, rule: &str, path: &str) -> Made<'a> {
    Made {
        tenant,
        key,
        about: about(rule, path),
    }
}

/// Records in all states, of which one has a key that is an attack.
async fn fill(gateway: &Client) {
    made("acme", HOSTILE, "charges", "/charges/<i>1</i>")
        .unknown(gateway)
        .await;
    for (key, rule, path) in [
        ("order-5521-charge", "charges", "/charges"),
        ("order-5522-charge", "charges", "/charges"),
        ("refund-118-again", "refunds", "/refunds"),
        ("payout-2026-11-28", "", "/payouts"),
    ] {
        made("acme", key, rule, path).unknown(gateway).await;
    }
    for n in 0..3 {
        let key = format!("globex-{n}");
        made("globex", &key, "charges", "/charges")
            .unknown(gateway)
            .await;
    }
    let executing = made("acme", "order-5530-charge", "charges", "/charges");
    executing.begin(gateway).await;
    let headers = [
        ("content-type", "application/json"),
        ("location", "/charges/ch_81"),
        ("x-note", "<script>window.hacked=3</script>"),
        ("x-session-id", "the-secret-of-a-session"),
    ];
    let body = "{\"id\":\"ch_81\",\"note\":\"<script>window.hacked=4</script>\"}";
    made("acme", "order-5500-charge", "charges", "/charges")
        .complete(gateway, &headers, body)
        .await;
    for n in 0..40 {
        let key = format!("order-54{n:02}-charge");
        made("acme", &key, "charges", "/charges")
            .complete(gateway, &headers[..2], "{}")
            .await;
    }
}

async fn drive(server: &TestServer) -> Option<Value> {
    let (chromium, node, packages) = browser()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui/page.cjs");
    let asked = json!({
        "page": format!("http://{}", server.page.unwrap()),
        "api": format!("http://{}", server.address),
        "token": OPERATOR,
        "chromium": chromium,
        "shots": std::env::var("UI_SHOTS").ok(),
        "tenant": "acme",
        "hostile": HOSTILE,
        "other": "payout-2026-11-28",
        "done": "order-5500-charge",
        "stuck": "order-5521-charge",
        "raced": "order-5522-charge",
        "gone": "refund-118-again",
        "executing": "order-5530-charge",
    });
    let child = tokio::process::Command::new(node)
        .env("NODE_PATH", packages)
        .arg(script)
        .arg(asked.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, child).await;
    let output = output.expect("the browser ends in time").unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn has(said: &Value, parts: &[&str]) {
    let text = said.as_str().unwrap();
    for part in parts {
        assert!(text.contains(part), "{part:?} in {text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_find_look_and_change_and_nothing_in_a_record_runs() {
    let mut settings = with_page();
    settings.census_interval = Some("100ms".parse().unwrap());
    let server = TestServer::with(settings).await;
    let gateway = server.client().token(GATEWAY);
    fill(&gateway).await;
    let counted = "idempotencyd_records{state=\"unknown\"}";
    eventually(counted, || async { server.metric(counted).await == 8 }).await;
    let Some(seen) = drive(&server).await else {
        return;
    };
    assert_eq!(seen["errors"], json!([]), "{seen}");
    assert_eq!(seen["hacked"], Value::Null, "{seen}");

    assert_eq!(seen["led_to"], "/ui/login");
    has(&seen["wrong_token"], &["Nobody has configured this token"]);
    assert_eq!(seen["led_back_to"], HOSTILE);

    assert_eq!(
        (&seen["unknown_before"], &seen["unknown_after"]),
        (&json!("8"), &json!("7"))
    );
    assert_eq!(seen["same_document"], true, "refreshed, not loaded anew");
    has(
        &seen["groups"],
        &["acme", "globex", "charges", "refunds", "POST /payouts"],
    );

    assert_eq!(seen["focus"], "text", "the slash leads to the search box");
    assert_eq!(seen["found"], json!([HOSTILE]));
    assert_eq!(seen["executing"], json!(["order-5530-charge"]));
    assert_eq!(seen["heading"], HOSTILE);

    has(
        &seen["headers"],
        &[
            "location",
            "/charges/ch_81",
            "<script>window.hacked=3</script>",
        ],
    );
    has(&seen["headers"], &["masked, 23 bytes"]);
    let headers = seen["headers"].as_str().unwrap();
    assert!(!headers.contains("the-secret-of-a-session"));
    assert_eq!(seen["body_before"], 0, "hidden until it is asked for");
    has(&seen["body"], &["<script>window.hacked=4</script>"]);

    has(
        &seen["time_line"],
        &["granted for the first time", "Attempt 1 began", "a gateway"],
    );
    has(
        &seen["time_line"],
        &[
            "Attempt 1 ended: not done",
            "Nobody knows whether it was done",
        ],
    );
    has(
        &seen["question"],
        &["Nothing runs again", "the bank says so", "<b>7</b>"],
    );
    assert_eq!(seen["before_yes"], "unknown", "asking changes nothing");
    assert_eq!(seen["resolved"]["state"], "completed");
    assert_eq!(seen["resolved"]["body_bytes"], 22, "byte for byte: {seen}");
    has(
        &seen["conflict"],
        &["the record has changed since you looked at it"],
    );
    assert_eq!(
        seen["raced"]["state"], "completed",
        "what the other one did stays"
    );
    has(&seen["warning"], &["EXECUTES"]);
    has(&seen["gone"], &["no-such-key"]);

    assert_eq!(seen["prefixed"], "/ops/idem/ui/record");
    assert_eq!(seen["signed_out"], "/ops/idem/ui/login");
    for view in ["overview-dark", "overview-phone"] {
        assert_eq!(seen[view], true, "{view}: nothing is wider than the screen");
    }
}
