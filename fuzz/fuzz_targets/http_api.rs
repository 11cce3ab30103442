//! The service's HTTP API, over a Unix socket into the same process: it answers whatever it is sent
//! with a whole answer that is no failure of its own, and goes on.
#![no_main]

use idempotency_service::{Server, Settings};
use idempotency_store::Memory;
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

const TOKENS: [&str; 4] = [
    "gateway-secret-0123456789",
    "upstream-secret-0123456789",
    "operator-secret-0123456789",
    "nobody",
];

const TARGETS: [(&str, &str); 10] = [
    ("POST", "/v1/operations"),
    ("POST", "/v1/wait"),
    ("POST", "/v1/settle"),
    ("GET", "/v1/record"),
    ("GET", "/v1/records"),
    ("POST", "/v1/record/resolve"),
    ("DELETE", "/v1/record"),
    ("GET", "/healthz"),
    ("GET", "/metrics"),
    ("GET", "/readyz"),
];

struct World {
    runtime: Runtime,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("s");
        let settings = Settings {
            listen: vec![format!("unix:{}", socket.display())],
            store: Some("memory".into()),
            gateway_tokens: vec![format!("gw:{}", TOKENS[0])],
            upstream_tokens: vec![format!("up:{}", TOKENS[1])],
            operator_tokens: vec![format!("op:{}", TOKENS[2])],
            ..Settings::default()
        };
        let config = settings.check().expect("settings");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let server = Server::bind(config, Arc::new(Memory::default()));
        let server = runtime.block_on(server).expect("a server");
        runtime.spawn(server.run(std::future::pending()));
        World {
            runtime,
            socket,
            _dir: dir,
        }
    })
}

/// What is sent: a request around the bytes, or the bytes as they are.
fn message(data: &[u8]) -> Vec<u8> {
    let [how, token, rest @ ..] = data else {
        return data.to_vec();
    };
    let Some((method, target)) = TARGETS.get(usize::from(*how)) else {
        return rest.to_vec();
    };
    let token = TOKENS[usize::from(*token) % TOKENS.len()];
    // The query up to a line feed, then the body.
    let mut parts = rest.splitn(2, |b| *b == b'\n');
    let query = parts.next().unwrap_or_default();
    let query: String = query
        .iter()
        .filter(|b| b.is_ascii_graphic())
        .map(|b| char::from(*b))
        .collect();
    let body = parts.next().unwrap_or_default();
    let kind = match *target {
        "/v1/operations" | "/v1/wait" => "application/vnd.idempotency-gateway.v1",
        _ => "application/octet-stream",
    };
    let head = format!(
        "{method} {target}?{query} HTTP/1.1\r\nhost: idempotencyd\r\nauthorization: Bearer {token}\r\n\
         content-type: {kind}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

async fn exchange(socket: &PathBuf, message: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket)
        .await
        .expect("the service listens");
    // It may answer and close before it has read all.
    let _ = stream.write_all(message).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

fuzz_target!(|data: &[u8]| {
    let world = world();
    let message = message(data);
    let answer = world.runtime.block_on(async {
        let answer = exchange(&world.socket, &message);
        // A wait may take its time, but ends when its client has gone.
        tokio::time::timeout(Duration::from_secs(8), answer).await
    });
    let answer = answer.expect("an answer, or the end");
    let Some(line) = answer
        .split(|b| *b == b'\r')
        .next()
        .filter(|line| !line.is_empty())
    else {
        return;
    };
    let line = String::from_utf8_lossy(line);
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
    let status: Option<u16> = status.and_then(|status| status.parse().ok());
    let Some(status) = status else {
        // The preface of HTTP/2 is answered with frames.
        assert!(message.starts_with(b"PRI"), "no HTTP: {line}");
        return;
    };
    assert!((200..600).contains(&status), "{line}");
    assert_ne!(status, 500, "{}", String::from_utf8_lossy(&answer));
    let head = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("a whole head");
    let head_text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    if !message.starts_with(b"HEAD") && status != 204 && !head_text.contains("http/1.0") {
        assert!(
            head_text.contains("content-length:"),
            "no length: {head_text}"
        );
    }
});
