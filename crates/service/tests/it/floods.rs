//! Floods by clients that have no token, and what they cannot stop.

use crate::support::child::Dir;
use crate::support::http2::{frame, head, preface, DATA, END_HEADERS, END_STREAM, HEADERS};
use crate::support::*;
use idempotency_protocol::{Answer, Request, CONTENT_TYPE, OPERATIONS_PATH};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Limits that a test can reach: at most 64 connections per listener, 32 of them of strangers, 16
/// of those of one address.
const SMALL: [&str; 12] = [
    "--max-connections",
    "64",
    "--max-waiters",
    "8",
    "--max-stranger-bytes",
    "2MiB",
    "--header-timeout",
    "500ms",
    "--write-timeout",
    "500ms",
    "--durability",
    "relaxed",
];

/// How a connection of a flood begins.
#[derive(Clone, Copy, Debug)]
enum Begin {
    Silence,
    Preface,
    WholePreface,
    Head,
    Answered,
    Refused,
    /// The body never comes.
    Body,
}

impl Begin {
    const ALL: [Begin; 7] = [
        Begin::Silence,
        Begin::Preface,
        Begin::WholePreface,
        Begin::Head,
        Begin::Answered,
        Begin::Refused,
        Begin::Body,
    ];

    async fn open(self, address: SocketAddr) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let refused = |length: usize| {
            format!(
                "POST {OPERATIONS_PATH} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n"
            )
        };
        let (octets, answered) = match self {
            Begin::Silence => (Vec::new(), false),
            Begin::Preface => (b"PRI".to_vec(), false),
            Begin::WholePreface => (preface(65_535), false),
            Begin::Head => (b"POST /v1/oper".to_vec(), false),
            Begin::Answered => (b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), true),
            Begin::Refused => (refused(0).into_bytes(), true),
            Begin::Body => (refused(1 << 20).into_bytes(), true),
        };
        stream.write_all(&octets).await.ok()?;
        if answered {
            stream.read(&mut [0; 64]).await.ok()?;
        }
        Some(stream)
    }
}

/// Reads until the other side closes.
async fn closed(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
}

/// A payment: locked and recorded.
async fn pay(client: &Client, name: &str) {
    let me = owner();
    granted(client.one(acquire(name, me)).await);
    let done = client.one(complete(name, me, "paid")).await;
    assert!(matches!(done, Answer::Completed { .. }), "{done:?}");
}

fn ways(child: &Child) -> [Client; 3] {
    let unix = Client::unix(&child.dir.socket()).token(GATEWAY);
    [unix, child.gateway(), child.gateway().http2()]
}

/// Case 22: each way to hold a connection, four times as many as there are places. Payments go on
/// over both listeners on new connections, probes are answered, and all places come back by
/// themselves.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_held_hold_nobody_up() {
    let child = Child::embedded(Dir::new(), &SMALL);
    for begin in Begin::ALL {
        let mut held = tokio::task::JoinSet::new();
        for _ in 0..256 {
            held.spawn(begin.open(child.address));
        }
        for (n, client) in ways(&child).iter().enumerate() {
            pay(client, &format!("during-{begin:?}-{n}")).await;
            assert_eq!(client.get("/healthz").await.status, 200);
        }
        let held: Vec<_> = held.join_all().await.into_iter().flatten().collect();
        for (n, client) in ways(&child).iter().enumerate() {
            pay(client, &format!("held-{begin:?}-{n}")).await;
        }
        let all = async {
            for stream in held {
                closed(stream).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, all).await;
        assert!(in_time.is_ok(), "{begin:?} is still open");
    }
    // The one that asks.
    eventually("all places are free", || async {
        child.metric("idempotencyd_connections").await == 1
    })
    .await;
    let by = |reason: &str| {
        let name = format!("idempotencyd_connections_closed_total{{reason=\"{reason}\"}}");
        let child = &child;
        async move { child.metric(&name).await }
    };
    assert!(by("gave-way").await > 0);
    assert!(by("slow-head").await > 0);
    assert!(by("idle").await > 0);
}

/// A connection that was there before the flood, and has shown its token, stays; one that waits
/// for another's execution, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_takes_no_gateway_s_connection() {
    let child = Child::embedded(Dir::new(), &SMALL);
    let gateway = child.gateway();
    let me = owner();
    let fence = granted(gateway.one(acquire("slow", me)).await).fence;
    let waiting = {
        let (gateway, wait) = (gateway.http2(), wait("slow", fence, 10_000));
        tokio::spawn(async move { gateway.wait(&wait).await })
    };
    eventually("it waits", || async {
        child.metric("idempotencyd_waiters").await == 1
    })
    .await;
    let mut kept = TcpStream::connect(child.address).await.unwrap();
    let asks =
        format!("GET /healthz HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {GATEWAY}\r\n\r\n");
    let mut answer = [0; 4096];
    kept.write_all(asks.as_bytes()).await.unwrap();
    assert!(kept.read(&mut answer).await.unwrap() > 0);
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..256 {
        let address = child.address;
        held.spawn(async move {
            if let Some(stream) = Begin::Preface.open(address).await {
                closed(stream).await;
            }
        });
    }
    held.join_all().await;
    kept.write_all(asks.as_bytes()).await.unwrap();
    let n = kept.read(&mut answer).await.unwrap();
    assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
    gateway.one(complete("slow", me, "paid")).await;
    assert_eq!(replayed(&waiting.await.unwrap()), b"paid");
}

/// Gateways are asked to leave idle connections: told over HTTP/2, closed over HTTP/1.1.
#[tokio::test]
async fn an_idle_gateway_is_told_before_its_connection_closes() {
    let settings = idempotency_service::Settings {
        idle_timeout: Some("100ms".parse().unwrap()),
        ..settings()
    };
    let server = TestServer::with(settings).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut octets = preface(65_535);
    let ends = END_STREAM | END_HEADERS;
    octets.extend(frame(HEADERS, ends, 1, &head("GET", "/healthz", true)));
    stream.write_all(&octets).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(PATIENCE, read).await.unwrap();
    let mut kinds = Vec::new();
    let mut rest = &answer[..];
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]);
        kinds.push(rest[3]);
        rest = &rest[9 + usize::try_from(length).unwrap()..];
    }
    assert!(kinds.contains(&0x7), "GOAWAY is among {kinds:?}");
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let asks =
        format!("GET /healthz HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {GATEWAY}\r\n\r\n");
    stream.write_all(asks.as_bytes()).await.unwrap();
    let closing = tokio::time::timeout(PATIENCE, closed(stream)).await;
    assert!(closing.is_ok());
}

/// Sends, and goes on reading nothing. It ends when the service closes.
async fn send_only(address: SocketAddr, octets: Vec<u8>) {
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return;
    };
    if stream.write_all(&octets).await.is_err() {
        return;
    }
    // Nothing of what comes is taken, only the end is waited for.
    while stream.ready(tokio::io::Interest::WRITABLE).await.is_ok() {
        if stream.write_all(&frame(0x6, 0, 0, &[0; 8])).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Requests on streams of one connection that takes no body of an answer.
fn streams(count: u32, method: &str, path: &str, token: bool, body: Option<&[u8]>) -> Vec<u8> {
    let mut octets = preface(0);
    let head = head(method, path, token);
    for stream in (0..count).map(|n| 2 * n + 1) {
        match body {
            None => octets.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, &head)),
            Some(body) => {
                octets.extend(frame(HEADERS, END_HEADERS, stream, &head));
                octets.extend(frame(DATA, END_STREAM, stream, body));
            }
        }
    }
    octets
}

/// Case 23, without a token: answers that nobody takes, heads that do not end. What is held stays
/// within the bound of operations.md, payments go on, and slow readers and writers are closed.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_hold_no_more_memory_than_their_account() {
    const BOUND: usize = 8 << 20;
    let args = [
        "--max-connections",
        "1000",
        "--max-waiters",
        "8",
        "--max-stranger-bytes",
        "8MiB",
        "--header-timeout",
        "2s",
        "--write-timeout",
        "2s",
        "--durability",
        "relaxed",
    ];
    let child = Child::embedded(Dir::new(), &args);
    for (n, client) in ways(&child).iter().enumerate() {
        pay(client, &format!("warm-{n}")).await;
    }
    let before = child.resident();
    let mut flood = tokio::task::JoinSet::new();
    let metrics = streams(8000, "GET", "/metrics", false, None);
    let few = streams(30, "GET", "/metrics", false, None);
    let no_body = streams(8000, "HEAD", "/healthz", false, None);
    let mut head = b"GET /healthz HTTP/1.1\r\nx: ".to_vec();
    head.resize(400_000, b'x');
    for n in 0..400 {
        let octets = match n % 4 {
            0 if n < 40 => metrics.clone(),
            0 => few.clone(),
            1 if n < 40 => no_body.clone(),
            1 => few.clone(),
            _ => head.clone(),
        };
        flood.spawn(send_only(child.address, octets));
    }
    let mut most = 0;
    let mut round = 0;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !flood.is_empty() {
        for (n, client) in ways(&child).iter().enumerate() {
            pay(client, &format!("flood-{round}-{n}")).await;
        }
        round += 1;
        most = most.max(child.resident());
        while flood.try_join_next().is_some() {}
        assert!(
            tokio::time::Instant::now() < deadline,
            "{} are open",
            flood.len()
        );
    }
    let held = most.saturating_sub(before);
    println!(
        "strangers: {} KiB held, {round} rounds of payments",
        held >> 10
    );
    assert!(held < BOUND + SLACK, "{} KiB held", held >> 10);
    eventually("all places are free", || async {
        child.metric("idempotencyd_connections").await == 1
    })
    .await;
    let closed = "idempotencyd_connections_closed_total{reason=\"greedy\"}";
    assert!(child.metric(closed).await > 0);
}

/// What the allocator and the store's own buffers may add.
const SLACK: usize = 16 << 20;

/// Case 23, with a token: many bodies that do not end, and large answers that nobody takes. The
/// bound holds, and small calls of others still find room.
#[tokio::test(flavor = "multi_thread")]
async fn callers_with_a_token_hold_no_more_memory_than_the_budget() {
    const BOUND: usize = 32 << 20;
    let args = [
        "--max-body-bytes",
        "2MiB",
        "--max-buffered-bytes",
        "32MiB",
        "--body-timeout",
        "2s",
        "--write-timeout",
        "2s",
        "--max-wait",
        "1s",
        "--durability",
        "relaxed",
    ];
    let child = Child::embedded(Dir::new(), &args);
    let gateway = child.gateway();
    let me = owner();
    granted(gateway.one(acquire("large", me)).await);
    let large = "x".repeat(1 << 20);
    gateway.one(complete("large", me, &large)).await;
    for (n, client) in ways(&child).iter().enumerate() {
        pay(client, &format!("warm-{n}")).await;
    }
    let before = child.resident();
    let call = Request {
        operations: vec![acquire("large", owner())],
    }
    .encode();
    let replays = streams(200, "POST", OPERATIONS_PATH, true, Some(&call));
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..4 {
        flood.spawn(send_only(child.address, replays.clone()));
        flood.spawn(unfinished_bodies(child.address));
    }
    let mut most = 0;
    let mut round = 0;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !flood.is_empty() {
        for (n, client) in ways(&child).iter().enumerate() {
            pay(client, &format!("flood-{round}-{n}")).await;
        }
        round += 1;
        most = most.max(child.resident());
        while flood.try_join_next().is_some() {}
        assert!(
            tokio::time::Instant::now() < deadline,
            "{} are open",
            flood.len()
        );
    }
    let held = most.saturating_sub(before);
    println!(
        "with tokens: {} KiB held, {round} rounds of payments",
        held >> 10
    );
    assert!(held < BOUND + SLACK, "{} KiB held", held >> 10);
    eventually("the room is free", || async {
        child.metric("idempotencyd_buffered_bytes").await == 0
    })
    .await;
}

/// 60 kB each, without an end, on as many streams as are allowed.
async fn unfinished_bodies(address: SocketAddr) {
    let Ok(stream) = TcpStream::connect(address).await else {
        return;
    };
    let (mut reader, mut writer) = stream.into_split();
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while reader.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    });
    let head = head("POST", OPERATIONS_PATH, true);
    let _ = writer.write_all(&preface(65_535)).await;
    for stream in (0..1000_u32).map(|n| 2 * n + 1) {
        let mut octets = frame(HEADERS, END_HEADERS, stream, &head);
        for _ in 0..4 {
            octets.extend(frame(DATA, 0, stream, &[0; 15_000]));
        }
        if writer.write_all(&octets).await.is_err() {
            break;
        }
    }
    // The service answers 408; then there is nothing more to hold.
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(writer);
    let _ = reading.await;
}

/// An answer that is taken too slowly over HTTP/1.1.
#[tokio::test]
async fn a_slow_reader_is_closed() {
    let settings = idempotency_service::Settings {
        write_timeout: Some("300ms".parse().unwrap()),
        ..settings()
    };
    let server = TestServer::with(settings).await;
    let gateway = server.client().token(GATEWAY);
    let me = owner();
    granted(gateway.one(acquire("large", me)).await);
    let large = "x".repeat(15 << 20);
    gateway.one(complete("large", me, &large)).await;
    let body = Request {
        operations: vec![acquire("large", owner())],
    }
    .encode();
    let head = format!(
        "POST {OPERATIONS_PATH} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {GATEWAY}\r\n\
         content-type: {CONTENT_TYPE}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    // It takes a little, again and again, and is closed all the same.
    let mut taken = 0;
    let mut some = vec![0; 20_000];
    let closed = "idempotencyd_connections_closed_total{reason=\"not-read\"}";
    eventually("it is closed", || {
        let closing = server.metric(closed);
        async move { closing.await == 1 }
    })
    .await;
    while let Ok(n @ 1..) = stream.read(&mut some).await {
        taken += n;
    }
    assert!(taken < large.len(), "{taken}");
    assert_eq!(server.metric("idempotencyd_buffered_bytes").await, 0);
}
