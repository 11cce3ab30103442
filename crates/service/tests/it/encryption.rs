//! Encrypted records: settings, keys that are read again, and the operators' commands.

use crate::support::child::binary;
use crate::support::*;
use idempotency_protocol::{Answer, Outcome};
use idempotency_service::Settings;
use idempotency_store::sealed::Keys;
use std::path::{Path, PathBuf};
use std::process::Output;

/// A directory with a file of keys, and a place for an embedded store.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn keys(&self) -> PathBuf {
        self.0.path().join("keys")
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// Lines of the file, in this order.
    fn write(&self, lines: &[&String]) {
        let text: String = lines.iter().map(|line| line.as_str()).collect();
        std::fs::write(self.keys(), text).unwrap();
    }

    fn settings(&self) -> Settings {
        Settings {
            store: Some(format!("embedded:{}", self.data().display())),
            ..settings()
        }
    }

    fn encrypted(&self) -> Settings {
        Settings {
            encryption_keys: Some(self.keys()),
            ..self.settings()
        }
    }
}

fn line(name: &str) -> String {
    Keys::line(name).unwrap()
}

async fn keys(server: &TestServer, args: &[&str]) -> Output {
    let mut command = binary();
    let url = format!("http://{}", server.address);
    command
        .args(["keys", "--url", &url, "--token", OPERATOR])
        .args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn text(output: &Output) -> String {
    let all = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(all).unwrap()
}

async fn done(server: &TestServer, name: &str) {
    let gateway = server.client().token(GATEWAY);
    let me = owner();
    granted(gateway.one(acquire(name, me)).await);
    let answer = gateway.one(complete(name, me, "done")).await;
    assert!(matches!(answer, Answer::Completed { .. }), "{answer:?}");
}

async fn replays(server: &TestServer, name: &str) {
    let gateway = server.client().token(GATEWAY);
    match gateway.one(acquire(name, owner())).await {
        Answer::Stored(stored) => {
            assert!(matches!(&*stored.outcome, Outcome::Response(_)));
        }
        other => panic!("{other:?}"),
    }
}

fn contains(dir: &Path, wanted: &str) -> bool {
    std::fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return contains(&path, wanted);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes
            .windows(wanted.len())
            .any(|part| part == wanted.as_bytes())
    })
}

#[test]
fn one_source_of_keys_and_no_more() {
    let both = Settings {
        encryption_keys: Some("keys".into()),
        encryption_key_command: Some("cat keys".into()),
        ..settings()
    };
    let errors = both.check().unwrap_err();
    assert_eq!(errors[0].field, "encryption_key_command");
    let empty = Settings {
        encryption_key_command: Some(" ".into()),
        ..settings()
    };
    assert_eq!(empty.check().unwrap_err()[0].message, "is empty");
}

/// Over records in clear, without a stop, and with a retry after each step.
#[tokio::test(flavor = "multi_thread")]
async fn switched_on_rotated_rewrapped_and_erased() {
    let place = Place::new();
    let mut server = TestServer::with(place.settings()).await;
    done(&server, "in-clear-4711").await;
    server.stop().await;
    drop(server);
    assert!(contains(&place.data(), "in-clear-4711"));

    let (index, old, new) = (line("index"), line("old"), line("new"));
    place.write(&[&index, &old]);
    let mut server = TestServer::with(place.encrypted()).await;
    assert_eq!(
        server
            .metric("idempotencyd_encryption_records_in_clear")
            .await,
        1
    );
    replays(&server, "in-clear-4711").await;
    done(&server, "sealed-4712").await;
    let output = keys(&server, &["rewrap", "--scrub"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(
        text(&output).starts_with("0 of 2 records rewrapped"),
        "{}",
        text(&output)
    );
    assert!(text(&output).contains("compacted"), "{}", text(&output));
    for gone in ["in-clear-4711", "acme"] {
        assert!(!contains(&place.data(), gone), "{gone}");
    }
    assert_eq!(
        server
            .metric("idempotencyd_encryption_records_in_clear")
            .await,
        0
    );

    // A new key below the first, then first; each is in use within a second or two.
    let key = |name: &str, used: &str| {
        format!("idempotencyd_encryption_key_info{{key=\"{name}\",use=\"{used}\"}}")
    };
    place.write(&[&index, &old, &new]);
    let name = key("new", "opens");
    eventually("it is there", || async { server.metric(&name).await == 1 }).await;
    place.write(&[&index, &new, &old]);
    server.reloader.reload().unwrap();
    let name = key("new", "seals");
    eventually("it seals", || async { server.metric(&name).await == 1 }).await;
    replays(&server, "in-clear-4711").await;
    replays(&server, "sealed-4712").await;

    // A file that makes no sense, and one with another index key, change nothing.
    for wrong in ["nonsense".to_owned(), line("index") + &new] {
        place.write(&[&wrong]);
        let stale = "idempotencyd_encryption_keys_stale";
        eventually("it is told", || async { server.metric(stale).await == 1 }).await;
        replays(&server, "sealed-4712").await;
        // As it was.
        place.write(&[&index, &new, &old]);
        eventually("it is mended", || async { server.metric(stale).await == 0 }).await;
    }

    let output = keys(&server, &["rewrap", "--batch", "1", "--json"]).await;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (json["rewrapped"].as_u64(), json["unreadable"].as_u64()),
        (Some(2), Some(0))
    );
    place.write(&[&index, &new]);
    let name = key("old", "opens");
    eventually("it is gone", || async { server.metric(&name).await == 0 }).await;
    replays(&server, "in-clear-4711").await;
    replays(&server, "sealed-4712").await;

    // Operators find it by what only the description tells.
    let output = keys(&server, &["find", "sealed-47"]).await;
    assert!(text(&output).contains("sealed-4712"), "{}", text(&output));

    let dry = keys(&server, &["erase", "--tenant", "acme", "--dry-run"]).await;
    assert_eq!(dry.status.code(), Some(0), "{}", text(&dry));
    replays(&server, "sealed-4712").await;
    let erase = [
        "erase",
        "--tenant",
        "acme",
        "--yes",
        "--reason",
        "asked for",
    ];
    let output = keys(&server, &erase).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("compacted"), "{}", text(&output));
    let output = keys(&server, &["list", "--tenant", "acme"]).await;
    assert!(!text(&output).contains("4712"), "{}", text(&output));
    // What was sealed from the beginning is in no file, nor is what was in clear before.
    for gone in ["sealed-4712", "in-clear-4711", "acme"] {
        assert!(!contains(&place.data(), gone), "{gone}");
    }
    server.stop().await;
    drop(server);

    // Never again without keys.
    let config = place.settings().check().unwrap();
    let error = config.open_store().await.err().unwrap().to_string();
    assert!(error.contains("encrypted"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_from_a_command() {
    let place = Place::new();
    let (index, first) = (line("index"), line("first"));
    place.write(&[&index, &first]);
    let command = format!("cat {}", place.keys().display());
    let from_command = || Settings {
        encryption_key_command: Some(command.clone()),
        ..place.settings()
    };
    let mut server = TestServer::with(from_command()).await;
    done(&server, "k").await;
    place.write(&[&index, &line("second"), &first]);
    server.reloader.reload().unwrap();
    let seals = "idempotencyd_encryption_key_info{key=\"second\",use=\"seals\"}";
    eventually("it seals", || async { server.metric(seals).await == 1 }).await;
    replays(&server, "k").await;
    server.stop().await;
    drop(server);
    std::fs::remove_file(place.keys()).unwrap();
    let config = from_command().check().unwrap();
    let error = config.open_store().await.err().unwrap().to_string();
    assert!(
        error.contains("the key command") && !error.contains("cat"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_there_is_nothing_to_rewrap() {
    let server = TestServer::start().await;
    let output = keys(&server, &["rewrap"]).await;
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("not encrypted"), "{}", text(&output));
}

#[test]
fn the_command_makes_keys() {
    let lines = ["index", "2026-11"].map(|name| {
        let output = binary().args(["encryption-key", name]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    });
    assert_eq!(Keys::parse(&lines.concat()).unwrap().names(), ["2026-11"]);
    let refused = binary().args(["encryption-key", "a b"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}
