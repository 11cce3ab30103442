//! The journal, over a real socket: what was executed is in it before anything else happens.

use std::path::Path;
use std::time::Duration;

use idempotency_demo_upstream::{serve, Journal, Ledger};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

#[tokio::test]
async fn an_execution_is_written_when_it_begins_and_when_it_ends() {
    let dir = std::env::temp_dir().join(format!("journal-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("journal.jsonl");
    let journal = Journal::open(&path, vec!["x-tenant".to_owned()]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Ledger::new(10).with_journal(journal)));

    // The header's parameters win over the query's.
    let request = "POST /charges?status=500 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
        idempotency-key: k\r\nidempotency-fence: 7\r\nidempotency-attempt: 2\r\nx-tenant: t\r\n\
        x-other: o\r\nx-charge: status=202&delay_ms=60000\r\ncontent-length: 2\r\n\r\n{}";
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    while lines(&path).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let quick = request.replace("delay_ms=60000", "delay_ms=0");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(quick.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");

    let lines = lines(&path);
    let events: Vec<_> = lines.iter().map(|line| &line["event"]).collect();
    assert_eq!(events, ["started", "started", "finished"], "{lines:?}");
    let (first, second, end) = (&lines[0], &lines[1], &lines[2]);
    for begun in [first, second] {
        assert_eq!(begun["path"], "/charges");
        assert_eq!(begun["key"], "k");
        assert_eq!(begun["fence"], "7");
        assert_eq!(begun["attempt"], "2");
        assert_eq!(begun["headers"], serde_json::json!({ "x-tenant": "t" }));
        assert_eq!(begun["body_sha256"].as_str().unwrap().len(), 64);
    }
    assert_eq!(end["id"], second["id"]);
    assert_ne!(first["id"], second["id"]);
    assert!(end["at"].as_u64() >= second["at"].as_u64());
    let id = second["id"].as_str().unwrap();
    assert!(
        answer.contains(&format!("location: /charges/{id}")),
        "{answer}"
    );
    std::fs::remove_dir_all(&dir).unwrap();
}
