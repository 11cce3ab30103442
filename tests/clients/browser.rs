//! A page in headless Chromium that calls the gateway from another origin, and a second page of a third origin.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::time::Duration;

use idempotency_e2e::{executions, fresh_key, rule, with_rules};
use idempotency_stack::{Cluster, Host, Process, Route};
use serde_json::{json, Value};

use crate::tools;

const PAGE: &str = include_str!("browser.html");
/// A browser that has said nothing by then will say nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Serves the page, and takes what it has found out.
struct Site {
    address: SocketAddr,
    found: Receiver<Value>,
}

impl Site {
    fn start() -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, found) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                // A browser opens connections that it never uses.
                std::thread::spawn(move || drop(serve(stream, &sender)));
            }
        });
        Site { address, found }
    }

    fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    fn found(&self) -> Value {
        let found = self.found.recv_timeout(PATIENCE);
        found.unwrap_or_else(|_| panic!("the page at {} says nothing", self.origin()))
    }
}

fn serve(stream: TcpStream, found: &Sender<Value>) -> std::io::Result<()> {
    let mut answer = stream.try_clone()?;
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    let is_report = line.starts_with("POST ");
    let is_page = line.starts_with("GET /?");
    let mut length = 0;
    while !line.trim_end().is_empty() {
        line.clear();
        lines.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body)?;
    if is_report {
        let said = serde_json::from_slice(&body);
        let _ = found.send(said.unwrap_or_else(|error| json!(error.to_string())));
    }
    let (status, body) = match (is_page, is_report) {
        (true, _) => ("200 OK", PAGE),
        (_, true) => ("200 OK", ""),
        _ => ("404 Not Found", ""),
    };
    let length = body.len();
    write!(
        answer,
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn open(chromium: &std::path::Path, profile: &std::path::Path, url: &str) -> Process {
    let mut command = Command::new(chromium);
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
        ])
        .args(["--no-first-run", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(url);
    let started = Process::start("chromium", command, profile.join("chromium.log"));
    started.expect("Chromium starts")
}

/// What each page says of one answer.
fn readable(answer: &Value, status: u16, replayed: bool) {
    assert_eq!(answer["status"], status, "{answer}");
    let marker = if replayed { json!("true") } else { Value::Null };
    assert_eq!(answer["replayed"], marker, "{answer}");
}

fn blocked(answer: &Value) {
    assert!(answer["blocked"].is_string(), "{answer}");
}

fn refused(answer: &Value, status: u16, name: &str) {
    readable(answer, status, false);
    let body = answer["body"].as_str().unwrap_or_default();
    let document: Value = serde_json::from_str(body).unwrap_or_default();
    let kind = document["type"].as_str().unwrap_or_default();
    assert!(kind.ends_with(name), "{answer}");
}

/// First answer, replay, 422 and 409, as one page sees them.
fn all_readable(answers: &Value) {
    readable(&answers["first"], 201, false);
    readable(&answers["replay"], 201, true);
    assert_eq!(answers["replay"]["body"], answers["first"]["body"]);
    refused(&answers["reused"], 422, "key-reused");
    refused(&answers["busy"], 409, "in-flight");
    assert_eq!(answers["busy"]["retry_after"], "1", "{answers}");
    let expires = answers["replay"]["expires"].as_str().unwrap_or_default();
    assert!(expires.starts_with('@'), "{answers}");
}

/// By the upstream's CORS headers, and by those of Envoy's own filter outside ours.
#[test]
fn pages_read_first_answers_replays_and_refusals() {
    let Some(chromium) = tools::chromium() else {
        return;
    };
    let (shop, other) = (Site::start(), Site::start());
    let origin = shop.origin();
    let named = json!({ "cors": { "origins": [&origin], "credentials": true } });
    let mut total = named.clone();
    total["replay_headers"] = json!(["x-total"]);
    let rules = [
        rule("/upstream", total),
        rule("/open", named),
        rule("/gateway", json!({})),
    ];
    let outside = Route {
        cors_origin: Some(origin.clone()),
        ..Route::new("/gateway", Cluster::Upstream)
    };
    let stack = with_rules(&rules)
        .gateway(move |gateway| gateway.routes.insert(0, outside))
        .start();

    let ways = by_host!(
        "the gateway's own CORS is Envoy's filter",
        envoy: &["upstream", "open", "gateway"][..],
        kong: &["upstream", "open"][..],
        layer: &["upstream", "open"][..],
    );
    let keys: HashMap<&str, [String; 2]> = ways
        .iter()
        .map(|way| {
            (
                *way,
                ["done", "busy"].map(|what| fresh_key(&format!("{way}-{what}"))),
            )
        })
        .collect();
    let asked = json!({
        "gateway": format!("http://{}", stack.address()),
        "shop": &origin,
        "other": other.origin(),
        "ways": ways,
        "keys": keys,
    });
    let profile = tempfile::tempdir().expect("a directory");
    let asked: String = asked
        .to_string()
        .bytes()
        .map(|byte| format!("%{byte:02x}"))
        .collect();
    let _browser = open(&chromium, profile.path(), &format!("{origin}/?{asked}"));

    let said = shop.found();
    for way in ways {
        all_readable(&said[*way]);
    }
    assert_eq!(
        said["upstream"]["replay"]["total"], "7",
        "exposed by the upstream: {said}"
    );
    let said = other.found();
    // Its preflight is answered for the shop only.
    blocked(&said["upstream"]["replay"]);
    if Host::chosen().is_envoy() {
        blocked(&said["gateway"]["replay"]);
    }
    // What everyone may read is replayed to everyone; the rule names the shop alone for refusals.
    readable(&said["open"]["replay"], 201, true);
    blocked(&said["open"]["reused"]);
    for [done, busy] in keys.values() {
        assert_eq!(executions(&stack, done), 1, "{done}");
        assert_eq!(executions(&stack, busy), 1, "{busy}");
    }
}
