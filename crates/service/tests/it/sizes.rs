//! The table of sizes in `docs/operations.md`, made of the constants that enforce them.

use idempotency_protocol::{limits, MAX_OPERATIONS, MAX_SHARED_ANSWER, MAX_SHARED_OUTCOME};
use idempotency_service::config::Settings;
use idempotency_store::history::{MAX_PAST, MAX_SEAL_BYTES};
use idempotency_store::record::MAX_MARKS;
use std::fmt::Write;
use std::path::PathBuf;

const BEGIN: &str = "<!-- sizes: UPDATE_SIZES=1 cargo test -p idempotency-service sizes -->\n";
const END: &str = "<!-- end of sizes -->\n";

fn bytes(n: usize) -> String {
    match n {
        n if n >= 1 << 20 && n % (1 << 20) == 0 => format!("{} MiB", n >> 20),
        n if n >= 1 << 10 && n % (1 << 10) == 0 => format!("{} KiB", n >> 10),
        n => format!("{n} bytes"),
    }
}

/// What, how much, and what happens beyond it.
fn rows() -> Vec<(&'static str, String, &'static str)> {
    let service = Settings::default()
        .check()
        .expect("defaults are right")
        .limits;
    let defaults = idempotency_core::config::parse_policies(
        r#"{"rules": [{"match": {"path_prefix": "/"}, "scope": "global"}]}"#,
    );
    let policy = defaults.expect("a rule").rules[0].policy.clone();
    let described = [
        limits::MAX_METHOD_BYTES,
        limits::MAX_PATH_BYTES,
        limits::MAX_RULE_BYTES,
        limits::MAX_GATEWAY_BYTES,
        limits::MAX_REQUEST_ID_BYTES,
        limits::MAX_TRACE_ID_BYTES,
        limits::MAX_CLIENT_BYTES,
    ];
    let described = described.map(|n| n.to_string()).join(", ");
    vec![
        (
            "key",
            format!("{} characters", limits::MAX_KEY_CHARS),
            "400 `invalid-key`; the library: `Error::InvalidKey`",
        ),
        (
            "tenant, at a gateway and at the library's layer",
            bytes(idempotency_core::tenant::MAX_LEN),
            "403 `tenant-missing`",
        ),
        (
            "tenant and namespace, in a call and in the library",
            format!("{} each", bytes(limits::MAX_SCOPE_BYTES)),
            "that operation is refused; the library: `Error::InvalidKey`",
        ),
        (
            "body of a request (`max_body_bytes` of the rule)",
            bytes(policy.max_body_bytes),
            "413 `body-too-large`, the key stays free. A gateway holds it: 10 MiB at most as we ship them",
        ),
        (
            "body of an answer that is stored (`max_response_bytes` of the rule)",
            format!(
                "{}, up to {}",
                bytes(policy.max_response_bytes),
                bytes(limits::MAX_RESPONSE_BYTES)
            ),
            "the client gets it, a retry 409 `not-replayable`",
        ),
        (
            "redirect (307, 308) that is remembered",
            format!(
                "{}, {} of a key",
                bytes(limits::MAX_REDIRECT_BYTES),
                limits::MAX_REDIRECTS
            ),
            "the key is free all the same; that request executes again",
        ),
        (
            "a message to the service (`--max-body-bytes`)",
            bytes(service.max_body_bytes),
            "413; an outcome is then stored as done, without its bytes",
        ),
        (
            "operations of a message (`--max-batch`)",
            format!("{}, and no less than {MAX_OPERATIONS}", service.max_batch),
            "413; each is asked alone",
        ),
        (
            "an outcome that shares a message",
            bytes(MAX_SHARED_OUTCOME),
            "it has a message of its own",
        ),
        (
            "replays that share an answer, together",
            bytes(MAX_SHARED_ANSWER),
            "the others are asked alone",
        ),
        (
            "what a record says of its request: method, path, rule, gateway, request id, trace id, client",
            format!("{described} bytes"),
            "cut",
        ),
        (
            "earlier attempts that a record tells one by one",
            MAX_PAST.to_string(),
            "the oldest is forgotten; their number is not",
        ),
        (
            "owners of a key that a record remembers",
            MAX_MARKS.to_string(),
            "the one that would be forgotten first makes room",
        ),
        (
            "name of a key that seals",
            bytes(MAX_SEAL_BYTES),
            "not in use yet",
        ),
    ]
}

#[test]
fn the_table_of_sizes_is_what_the_code_says() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("where the table begins");
    let (table, after) = rest.split_once(END).expect("where the table ends");
    let mut made = "| what | at most | beyond it |\n|---|---|---|\n".to_owned();
    for (what, most, beyond) in rows() {
        let _ = writeln!(made, "| {what} | {most} | {beyond} |");
    }
    if std::env::var_os("UPDATE_SIZES").is_some() {
        std::fs::write(&page, [before, BEGIN, &made, END, after].concat()).unwrap();
    } else {
        assert_eq!(table, made, "UPDATE_SIZES=1 writes it anew");
    }
}
