//! The clients of `docs/clients/`: each gives up on its first attempt, asks again with the same key, and gets the
//! answer of the one execution.

use std::path::Path;
use std::process::Command;

use idempotency_e2e::{executions, fresh_key, rule, with_rules};
use serde_json::json;

use crate::tools;

/// What the clients wait for an answer, in seconds, and what the upstream takes, in milliseconds.
const TIMEOUT: &str = "0.8";
const TAKES_MS: u64 = 1_500;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/clients");
    path.join(name).display().to_string()
}

fn asks_again(language: &str, client: impl Fn() -> Option<Command>) {
    if client().is_none() {
        return;
    }
    let stack = with_rules(&[rule("/charges", json!({}))]).start();
    let key = fresh_key(language);
    let url = format!("http://{}/charges?delay_ms={TAKES_MS}", stack.address());
    let run = || {
        tools::run(
            client().expect("it was there"),
            &stack,
            &[&url, &key, TIMEOUT],
        )
    };
    let first = run();
    assert_eq!(first["status"], 201, "{language}: {first}");
    assert_eq!(first["replayed"], "true", "{language}: {first}");
    // A program that has forgotten that it was answered.
    assert_eq!(run(), first, "{language}");
    assert_eq!(executions(&stack, &key), 1, "{language}");
}

#[test]
fn python_asks_again() {
    asks_again("python", || {
        tools::runtime("python3", &[&document("retry.py")])
    });
}

#[test]
fn javascript_asks_again() {
    asks_again("javascript", || {
        tools::runtime("node", &[&document("retry.mjs")])
    });
}

#[test]
fn java_asks_again() {
    asks_again("java", || {
        tools::runtime("java", &[&document("Retry.java")])
    });
}

#[test]
fn go_asks_again() {
    asks_again("go", || {
        tools::runtime("go", &["run", &document("retry.go")])
    });
}
