//! The published description.

use crate::support::child::binary;
use std::path::PathBuf;

fn published() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json")
}

/// `UPDATE_OPENAPI=1 cargo test -p idempotency-service openapi` writes it anew.
#[test]
fn the_published_copy_is_what_the_code_says() {
    let generated = idempotency_service::api::openapi();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(published(), &generated).unwrap();
    }
    let copy = std::fs::read_to_string(published()).unwrap();
    assert!(
        copy == generated,
        "docs/openapi.json is stale: idempotencyd openapi > docs/openapi.json"
    );
}

#[test]
fn the_command_prints_it() {
    let output = binary().arg("openapi").output().unwrap();
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        idempotency_service::api::openapi()
    );
}

#[test]
fn every_route_is_described() {
    let document: serde_json::Value =
        serde_json::from_str(&idempotency_service::api::openapi()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = document["paths"].as_object().unwrap();
    let mut described: Vec<String> = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            described.push(format!("{method} {path}"));
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.contains_key("200"), "{method} {path}");
        }
    }
    described.sort();
    assert_eq!(
        described,
        [
            "delete /v1/record",
            "get /healthz",
            "get /metrics",
            "get /readyz",
            "get /v1/record",
            "get /v1/record/answer",
            "get /v1/records",
            "post /v1/operations",
            "post /v1/record/resolve",
            "post /v1/records/rewrap",
            "post /v1/records/scrub",
            "post /v1/settle",
            "post /v1/wait",
        ]
    );
    let scheme = &document["components"]["securitySchemes"]["bearer"];
    assert_eq!(scheme["scheme"], "bearer");
}
