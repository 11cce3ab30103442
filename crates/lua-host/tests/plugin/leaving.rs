//! Clients that leave, streams, and workers that are told to end.

use crate::Pair;
use idempotency_lua_host::client::{post, Answer};
use idempotency_lua_host::until;
use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A client of HTTP/2, as a process that can be killed.
fn http2(to: SocketAddr, target: &str, key: &str, what: &str) -> Child {
    Command::new("curl")
        .args(["--silent", "--http2-prior-knowledge", "--data", "x"])
        .args(["-H", "Content-Type: text/plain"])
        .args(["-H", &format!("Idempotency-Key: {key}")])
        .args(["-H", &format!("X-Do: {what}")])
        .args(["--write-out", "\n%{http_code}"])
        .arg(format!("http://{to}{target}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("curl, which scripts/test.sh installs")
}

fn retried(pair: &Pair, target: &str, key: &str, what: &str) -> Answer {
    let request = post(target, key, "x").with("X-Do", what);
    let mut answer = Answer::default();
    let settled = || {
        answer = request.send(pair.host.address());
        !answer.text().contains("in-flight")
    };
    assert!(until(Duration::from_secs(10), settled), "{key}");
    answer
}

#[test]
fn a_client_that_leaves_while_the_upstream_works_changes_nothing() {
    let Some(pair) = Pair::usual() else {
        return;
    };
    let mut kinds = Vec::new();
    for n in 0..3 {
        let key = format!("leaves-1-{n}");
        let stream = post("/pay", &key, "x")
            .with("X-Do", "wait")
            .begin(pair.host.address());
        pair.upstream.await_execution(&key);
        drop(stream);
        kinds.push(key);
        let key = format!("leaves-2-{n}");
        let mut client = http2(pair.host.http2(), "/pay", &key, "wait");
        pair.upstream.await_execution(&key);
        client.kill().unwrap();
        client.wait().unwrap();
        kinds.push(key);
    }
    for _ in &kinds {
        pair.upstream.go_on();
    }
    for key in &kinds {
        let replay = retried(&pair, "/pay", key, "wait");
        assert_eq!(replay.status, 201, "{key}: {replay:?}");
        assert_eq!(replay.header("idempotency-replayed"), Some("true"), "{key}");
        assert_eq!(pair.upstream.executed(key).len(), 1, "{key}");
    }
    assert_eq!(pair.host.state()["leases"], 0);
}

#[test]
fn a_client_that_leaves_at_once_is_executed_once_or_not_at_all() {
    let Some(pair) = Pair::usual() else {
        return;
    };
    for n in 0..40 {
        let key = format!("at-once-{n}");
        let what = if n % 2 == 0 { "large" } else { "" };
        let stream = post("/pay", &key, "x")
            .with("X-Do", what)
            .begin(pair.host.address());
        if n % 4 > 1 {
            pair.upstream.await_execution(&key);
        }
        drop(stream);
    }
    for n in 0..40 {
        let key = format!("at-once-{n}");
        let what = if n % 2 == 0 { "large" } else { "" };
        let answer = retried(&pair, "/pay", &key, what);
        assert_eq!(answer.status, 201, "{key}");
        assert_eq!(pair.upstream.executed(&key).len(), 1, "{key}");
    }
}

#[test]
fn streams_stream_and_go_on_without_their_client() {
    let Some(pair) = Pair::usual() else {
        return;
    };
    let request = post("/stream", "events", "x").with("X-Do", "events");
    let mut stream = request.begin(pair.host.address());
    // The first event comes while the upstream waits before the second.
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    while !seen.windows(7).any(|w| w == b"data: 0") {
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0);
        seen.extend_from_slice(&piece[..read]);
    }
    assert!(!seen.windows(7).any(|w| w == b"data: 1"));
    for _ in 0..3 {
        pair.upstream.go_on();
    }
    stream.read_to_end(&mut seen).unwrap();
    let first = Answer::parse(&seen);
    assert_eq!((first.status, first.whole), (200, true));
    assert_eq!(first.body, b"data: 0\n\ndata: 1\n\ndata: 2\n\n");
    let replay = request.send(pair.host.address());
    assert_eq!(replay.header("idempotency-replayed"), Some("true"));
    assert_eq!(replay.body, first.body);

    for (key, port) in [
        ("events-1", pair.host.address()),
        ("events-2", pair.host.http2()),
    ] {
        let mut client = http2(port, "/stream", key, "events");
        if port == pair.host.address() {
            client.kill().unwrap();
            client.wait().unwrap();
            let request = post("/stream", key, "x").with("X-Do", "events");
            let left = request.begin(port);
            pair.upstream.await_execution(key);
            drop(left);
        } else {
            pair.upstream.await_execution(key);
            client.kill().unwrap();
            client.wait().unwrap();
        }
        for _ in 0..3 {
            pair.upstream.go_on();
        }
        let replay = retried(&pair, "/stream", key, "events");
        assert_eq!(
            replay.text(),
            "data: 0\n\ndata: 1\n\ndata: 2\n\n",
            "{key}: {replay:?}"
        );
        assert_eq!(pair.upstream.executed(key).len(), 1, "{key}");
    }
}

#[test]
fn workers_that_are_told_to_end_finish_and_record_what_they_execute() {
    let Some(mut pair) = Pair::usual() else {
        return;
    };
    let to = pair.host.address();
    let run = |key: &str| {
        let request = post("/pay", key, "x").with("X-Do", "wait");
        std::thread::spawn(move || request.send(to))
    };
    let reloaded: Vec<_> = (0..6).map(|n| run(&format!("reload-{n}"))).collect();
    (0..6).for_each(|n| pair.upstream.await_execution(&format!("reload-{n}")));
    pair.host.reload();
    let again = || pair.host.log().contains("gracefully shutting down");
    assert!(until(Duration::from_secs(10), again));
    (0..6).for_each(|_| pair.upstream.go_on());
    for (n, answer) in reloaded.into_iter().enumerate() {
        let first = answer.join().unwrap();
        assert_eq!(first.status, 201, "{n}");
        let replay = retried(&pair, "/pay", &format!("reload-{n}"), "wait");
        assert_eq!(replay.body, first.body, "{n}");
        assert_eq!(pair.upstream.executed(&format!("reload-{n}")).len(), 1);
    }
    let quitting: Vec<_> = (0..6).map(|n| run(&format!("quit-{n}"))).collect();
    (0..6).for_each(|n| pair.upstream.await_execution(&format!("quit-{n}")));
    pair.host.quit();
    (0..6).for_each(|_| pair.upstream.go_on());
    for answer in quitting {
        assert_eq!(answer.join().unwrap().status, 201);
    }
    assert!(until(Duration::from_secs(20), || pair.host.is_over()));
    // All of them are recorded: none is left in flight, none is unknown.
    let listed = pair.host.service.get("/v1/records?limit=100");
    let text = listed.unwrap_or_default().text();
    assert_eq!(text.matches("\"completed\"").count(), 12, "{text}");
}

#[test]
fn http2_without_a_length_is_refused_and_with_one_it_is_like_any() {
    let Some(pair) = Pair::usual() else {
        return;
    };
    let said = |client: Child| {
        let output = client.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let first = said(http2(pair.host.http2(), "/pay", "h2", ""));
    let second = said(http2(pair.host.http2(), "/pay", "h2", ""));
    assert!(first.ends_with("\n201"), "{first}");
    assert_eq!(first, second);
    assert_eq!(pair.upstream.executed("h2").len(), 1);
    let without = || {
        let mut client = Command::new("curl")
            .args(["--silent", "--http2-prior-knowledge", "-X", "POST"])
            .args(["--upload-file", "-", "-H", "Idempotency-Key: h2-none"])
            .args(["--write-out", "\n%{http_code}"])
            .arg(format!("http://{}/pay", pair.host.http2()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It may have its answer, and be gone, before it has sent all.
        let _ = std::io::Write::write_all(&mut client.stdin.take().unwrap(), b"x");
        said(client)
    };
    // nginx resets a stream whose body it does not want behind the answer, and this curl then sometimes drops the
    // answer (status 000). It must come all the same, and nothing else.
    let mut statuses = Vec::new();
    let refused = || {
        statuses.push(without().rsplit('\n').next().map(str::to_owned));
        statuses.last() == Some(&Some("411".to_owned()))
    };
    assert!(until(Duration::from_secs(10), refused), "{statuses:?}");
    let known = |status: &Option<String>| matches!(status.as_deref(), Some("411" | "000"));
    assert!(statuses.iter().all(known), "{statuses:?}");
    assert!(pair.upstream.executed("h2-none").is_empty());
}
