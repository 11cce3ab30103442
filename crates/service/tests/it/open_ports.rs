//! What a web page, or anybody else without a token, can do to a port that it reaches.

use crate::support::child::{binary, Dir};
use crate::support::*;
use http::Method;
use idempotency_protocol::{Answer, Operation, Request, CONTENT_TYPE, OPERATIONS_PATH, WAIT_PATH};
use idempotency_service::Settings;
use std::os::unix::fs::PermissionsExt;

/// What a browser sends for a page of somebody else's.
const FOREIGN: [(&str, &str, u16, &str); 5] = [
    ("host", "attacker.example", 421, "misdirected"),
    (
        "host",
        "localhost.attacker.example:7480",
        421,
        "misdirected",
    ),
    ("origin", "http://attacker.example", 403, "foreign-origin"),
    ("origin", "null", 403, "foreign-origin"),
    ("sec-fetch-site", "cross-site", 403, "foreign-origin"),
];

fn call(operations: Vec<Operation>) -> Vec<u8> {
    Request { operations }.encode()
}

/// The routes beside those of probes.
fn routes() -> Vec<(Method, &'static str, Vec<u8>)> {
    vec![
        (
            Method::POST,
            OPERATIONS_PATH,
            call(vec![acquire("r", owner())]),
        ),
        (Method::POST, WAIT_PATH, wait("r", 1, 0).encode()),
        (
            Method::POST,
            "/v1/settle?key=r&fence=1&outcome=failed",
            Vec::new(),
        ),
        (Method::GET, "/v1/record?key=r", Vec::new()),
        (Method::GET, "/v1/records", Vec::new()),
        (Method::POST, "/v1/record/resolve", Vec::new()),
        (Method::DELETE, "/v1/record?key=r&version=1", Vec::new()),
        (Method::GET, "/", Vec::new()),
    ]
}

fn insecure() -> Settings {
    Settings {
        gateway_tokens: Vec::new(),
        upstream_tokens: Vec::new(),
        operator_tokens: Vec::new(),
        insecure_no_auth: Some(true),
        ..settings()
    }
}

/// A page cannot plant an answer under a key that it guesses: what a gateway asks for afterwards
/// is executed, and that answer is replayed.
#[tokio::test]
async fn a_page_s_forgery_is_not_replayed() {
    for settings in [settings(), insecure()] {
        let server = TestServer::with(settings).await;
        let gateway = server.client().token(GATEWAY);
        let page = |name: &'static str, value: &str| server.client().header(name, value);
        let mut executions = 0;
        let pages = [
            page("content-type", "text/plain"),
            page("content-type", "application/x-www-form-urlencoded"),
            page("host", "attacker.example"),
            page("origin", "http://attacker.example"),
            page("sec-fetch-site", "cross-site"),
        ];
        for (n, page) in pages.into_iter().enumerate() {
            for (http2, client) in [(false, page.clone()), (true, page.http2())] {
                // Over HTTP/2 the client itself says where it goes.
                let name = format!("guessable-{n}-{http2}");
                let theirs = owner();
                let forged = call(vec![
                    acquire(&name, theirs),
                    complete(&name, theirs, "FORGED"),
                ]);
                let reply = client.post(OPERATIONS_PATH, forged).await;
                assert!([403, 415, 421].contains(&reply.status), "{name}: {reply:?}");

                let me = owner();
                if let Answer::Granted(_) = gateway.one(acquire(&name, me)).await {
                    executions += 1;
                    gateway.one(complete(&name, me, "true")).await;
                }
                let answer = gateway.one(acquire(&name, owner())).await;
                assert_eq!(replayed(&answer), b"true", "{name}");
            }
        }
        assert_eq!(executions, 10, "each was executed once");
    }
}

/// Every route, every sign of a foreign page, with tokens and without: not looked at, unless there
/// is a valid token.
#[tokio::test]
async fn without_a_token_nobody_foreign_is_answered() {
    for (settings, open) in [(settings(), false), (insecure(), true)] {
        let server = TestServer::with(settings).await;
        let send = |client: Client, (method, target, body): (Method, &'static str, Vec<u8>)| async move {
            client.send(method, target, body).await
        };
        for (name, value, status, problem) in FOREIGN {
            let page = server.client().header(name, value);
            for route in routes() {
                send(page.clone(), route.clone())
                    .await
                    .problem(status, problem);
                let wrong = page.token("a-token-that-nobody-configured");
                send(wrong, route.clone()).await.problem(status, problem);
                if !open {
                    for token in [GATEWAY, UPSTREAM, OPERATOR] {
                        let reply = send(page.token(token), route.clone()).await;
                        assert_ne!(reply.status, 421, "{name} {route:?}");
                        let kind = String::from_utf8_lossy(&reply.body);
                        assert!(!kind.contains("foreign-origin"), "{name} {route:?}");
                    }
                }
            }
            for probe in ["/healthz", "/readyz", "/metrics"] {
                assert_eq!(page.get(probe).await.status, 200, "{name} {probe}");
            }
        }
        let counted = "idempotencyd_foreign_requests_total{reason=\"host\"}";
        let each = u64::try_from(2 * routes().len()).unwrap();
        assert_eq!(server.metric(counted).await, 2 * each);
        // A page of ours has our own origin.
        let ours = server.client().header("origin", "http://localhost");
        let reply = ours.get("/v1/records").await;
        assert_eq!(reply.status, if open { 200 } else { 401 });
    }
}

#[tokio::test]
async fn a_configured_host_is_expected_and_unix_sockets_have_none() {
    let settings = Settings {
        allowed_hosts: vec!["idem.internal".into()],
        ..insecure()
    };
    let server = TestServer::with(settings).await;
    for (host, status) in [
        ("idem.internal:7480", 200),
        ("idempotencyd", 200),
        ("127.0.0.1:7480", 200),
        ("other.internal", 421),
    ] {
        let client = server.client().header("host", host);
        assert_eq!(client.get("/v1/records").await.status, status, "{host}");
    }
    let unix = Client::unix(&server.socket).header("host", "cluster_of_a_gateway");
    granted(unix.one(acquire("k", owner())).await);
}

#[tokio::test]
async fn one_content_type_alone() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    for (target, body) in [
        (OPERATIONS_PATH, call(vec![acquire("k", owner())])),
        (WAIT_PATH, wait("k", 1, 0).encode()),
    ] {
        for other in [
            "text/plain",
            "application/json",
            "application/octet-stream",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/vnd.idempotency-gateway.v2",
            &format!("{CONTENT_TYPE}, text/plain"),
            &format!("text/plain; {CONTENT_TYPE}"),
            "",
        ] {
            for client in [gateway.clone(), server.client()] {
                let client = client.header("content-type", other);
                let reply = client.post(target, body.clone()).await;
                reply.problem(415, "unsupported-media-type");
            }
        }
        let twice = gateway
            .header("content-type", CONTENT_TYPE)
            .header("content-type", "text/plain");
        twice
            .post(target, body.clone())
            .await
            .problem(415, "unsupported-media-type");
        assert_eq!(gateway.post(target, body).await.status, 200);
    }
}

/// Whoever guesses tokens is slowed down and told of; a gateway at the same address is not.
#[tokio::test]
async fn guessing_is_counted_logged_and_slow_and_hurts_no_gateway() {
    let server = TestServer::start().await;
    let call = call(vec![acquire("k", owner())]);
    let guess = |n: usize| {
        let client = server.client().token(&format!("guess-number-{n:08}"));
        let call = call.clone();
        async move { client.post(OPERATIONS_PATH, call).await }
    };
    // The burst that is free, and as many again: the last of them owe eight seconds.
    let mut guesses = tokio::task::JoinSet::new();
    for n in 0..128 {
        guesses.spawn(guess(n));
    }
    let counted = "idempotencyd_auth_failures_total{reason=\"unknown-token\"}";
    eventually("all have failed", || async {
        server.metric(counted).await == 128
    })
    .await;
    // Now the address owes two seconds, which a valid token does not wait for.
    let asked = std::time::Instant::now();
    let gateway = server.client().token(GATEWAY);
    for n in 0..20 {
        granted(gateway.one(acquire(&format!("valid-{n}"), owner())).await);
    }
    let valid = asked.elapsed();
    let asked = std::time::Instant::now();
    guess(999).await.problem(401, "unauthenticated");
    let invalid = asked.elapsed();
    assert!(invalid.as_millis() >= 1500, "{invalid:?}");
    assert!(valid < invalid, "{valid:?}");
    server
        .client()
        .get("/v1/records")
        .await
        .problem(401, "unauthenticated");
    let other_role = server.client().token(GATEWAY).get("/v1/records").await;
    other_role.problem(403, "wrong-role");
    for (reason, count) in [("no-token", 1), ("wrong-role", 1), ("unknown-token", 129)] {
        let counted = format!("idempotencyd_auth_failures_total{{reason=\"{reason}\"}}");
        assert_eq!(server.metric(&counted).await, count, "{reason}");
    }
    guesses.abort_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_logged_with_their_peer() {
    let child = Child::embedded(Dir::new(), &[]);
    for n in 0..5 {
        let guess = format!("guess-number-{n:08}");
        let client = Client::tcp(child.address).token(&guess);
        assert_eq!(client.get("/v1/records").await.status, 401);
    }
    let log = child.log();
    let lines: Vec<&str> = log
        .lines()
        .filter(|l| l.contains("authentication failed"))
        .collect();
    assert!((1..5).contains(&lines.len()), "not each of them: {log}");
    assert!(lines[0].contains("\"from\":\"127.0.0.1:"), "{}", lines[0]);
    assert!(!log.contains("guess-number"), "{log}");
}

/// Without tokens, on loopback with the embedded store, the service makes one and keeps it.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_made_where_nobody_configured_one() {
    let dir = Dir::new();
    let data = dir.path().join("data");
    let file = data.join("gateway-token");
    let args = ["--data-dir", data.to_str().unwrap()];
    let child = Child::start(dir, &args);
    let token = std::fs::read_to_string(&file).unwrap();
    let token = token.trim();
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let log = child.log();
    assert!(log.contains(file.to_str().unwrap()), "{log}");
    assert!(!log.contains(token), "{log}");
    let call = call(vec![acquire("k", owner())]);
    let nobody = Client::tcp(child.address);
    nobody
        .post(OPERATIONS_PATH, call.clone())
        .await
        .problem(401, "unauthenticated");
    granted(nobody.token(token).one(acquire("k", owner())).await);

    // The same after a restart; and it can be replaced without one.
    let (_, dir) = tokio::task::spawn_blocking(|| child.stop()).await.unwrap();
    let child = Child::start(dir, &args);
    let client = Client::tcp(child.address);
    let answer = client.token(token).one(acquire("k", owner())).await;
    assert!(matches!(answer, Answer::InFlight { .. }), "{answer:?}");
    std::fs::write(&file, "another-token-0123").unwrap();
    child.signal("HUP");
    eventually("the new one is in force", || {
        let client = client.token("another-token-0123");
        let call = call.clone();
        async move { client.post(OPERATIONS_PATH, call).await.status == 200 }
    })
    .await;
    let old = client.token(token).post(OPERATIONS_PATH, call).await;
    old.problem(401, "unauthenticated");
}

/// Anywhere else it does not start.
#[test]
fn without_tokens_it_starts_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    for args in [
        &["--listen", "0.0.0.0:0", "--data-dir", data][..],
        &[
            "--listen",
            "127.0.0.1:0",
            "--listen",
            "0.0.0.0:0",
            "--data-dir",
            data,
        ],
        &["--listen", "127.0.0.1:0", "--store", "memory"],
        #[cfg(feature = "redis")]
        &["--listen", "127.0.0.1:0", "--store", "redis://127.0.0.1:1"],
        #[cfg(feature = "postgres")]
        &[
            "--listen",
            "127.0.0.1:0",
            "--store",
            "postgres://127.0.0.1:1/x",
        ],
    ] {
        let output = binary().arg("serve").args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains("gateway_tokens: "), "{args:?}: {said}");
    }
    assert!(!std::path::Path::new(data).exists());
}
