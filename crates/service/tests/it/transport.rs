//! Sockets, protocol versions, connections.

use crate::support::http2::frame;
use crate::support::*;
use http::{Method, Version};
use idempotency_protocol::{Answer, Request, CONTENT_TYPE, OPERATIONS_PATH, WAIT_PATH};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::test]
async fn http2_with_prior_knowledge_on_both_sockets() {
    let server = TestServer::start().await;
    for (i, client) in [server.client(), Client::unix(&server.socket)]
        .iter()
        .enumerate()
    {
        let client = client.http2().token(GATEWAY);
        let me = owner();
        let name = format!("k{i}");
        let reply = client.get("/healthz").await;
        assert_eq!(reply.version, Version::HTTP_2);
        granted(client.one(acquire(&name, me)).await);
        client.one(complete(&name, me, &"x".repeat(300_000))).await;
        assert_eq!(
            replayed(&client.one(acquire(&name, owner())).await).len(),
            300_000
        );
        let fence = granted(client.one(acquire(&format!("{name}-2"), me)).await).fence;
        let timed_out = client.wait(&wait(&format!("{name}-2"), fence, 10)).await;
        assert_eq!(timed_out, Answer::TimedOut);
    }
}

/// After a moment in which the service stood still, a gateway has reset all that has timed out;
/// the calls that come next on the same connection must not be lost for that.
#[tokio::test]
async fn calls_that_were_given_up_take_no_other_with_them() {
    const RESETS: u32 = 1000;
    let server = TestServer::start().await;
    // GET http://a/healthz, in HPACK's static table and literals.
    // The token makes it a gateway, which may have so many of them.
    let token = format!("Bearer {GATEWAY}");
    let mut head = b"\x82\x86\x01\x01a\x04\x08/healthz".to_vec();
    head.extend([0x0f, 0x08, u8::try_from(token.len()).unwrap()]);
    head.extend(token.as_bytes());
    let (headers, reset, go_away, end) = (0x1, 0x3, 0x7, 0x5);
    let mut octets = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    octets.extend(frame(0x4, 0, 0, &[]));
    let streams = (0..RESETS).map(|n| 2 * n + 1);
    for stream in streams.clone() {
        octets.extend(frame(headers, end, stream, &head));
    }
    for stream in streams {
        octets.extend(frame(reset, 0, stream, &8_u32.to_be_bytes()));
    }
    let last = 2 * RESETS + 1;
    octets.extend(frame(headers, end, last, &head));

    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&octets).await.unwrap();
    let answered = async {
        loop {
            let mut start = [0; 9];
            stream.read_exact(&mut start).await.unwrap();
            let length = u32::from_be_bytes([0, start[0], start[1], start[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            stream.read_exact(&mut payload).await.unwrap();
            assert_ne!(start[3], go_away, "{payload:?}");
            if start[3] == headers && start[5..] == last.to_be_bytes() {
                // `:status 200`, also from the static table.
                assert_eq!(payload[0], 0x88);
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.unwrap();
}

#[tokio::test]
async fn unix_socket_speaks_http1() {
    let server = TestServer::start().await;
    let client = Client::unix(&server.socket).token(GATEWAY);
    granted(client.one(acquire("k", owner())).await);
}

/// Every route and every way to miss one; the client checks the length of each answer.
#[tokio::test]
async fn every_answer_has_a_length() {
    let server = TestServer::start().await;
    let methods = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::OPTIONS,
    ];
    for client in [
        server.client(),
        server.client().http2(),
        Client::unix(&server.socket),
    ] {
        for token in ["", GATEWAY, UPSTREAM, OPERATOR] {
            let client = if token.is_empty() {
                client.clone()
            } else {
                client.token(token)
            };
            for method in &methods {
                for target in [
                    OPERATIONS_PATH,
                    "/v1/wait",
                    "/v1/settle",
                    "/v1/record?key=k",
                    "/v1/records",
                    "/v1/record/resolve",
                    "/healthz",
                    "/readyz",
                    "/metrics",
                    "/",
                    "/v1/operations/",
                    "/%00",
                ] {
                    let reply = client.send(method.clone(), target, "").await;
                    assert!(reply.status < 500, "{method} {target}: {}", reply.status);
                    if reply.status >= 400 {
                        let kind = reply.header("content-type");
                        assert_eq!(kind, Some("application/problem+json"), "{method} {target}");
                    }
                }
            }
        }
    }
}

async fn read_answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await.unwrap();
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).unwrap();
    let length: usize = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "))
        .unwrap_or_else(|| panic!("no length: {head}"))
        .parse()
        .unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    head
}

#[tokio::test]
async fn keep_alive_and_close() {
    let server = TestServer::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..3 {
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
    let last = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(last).await.unwrap();
    read_answer(&mut stream).await;
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0, "closed");
}

#[tokio::test]
async fn chunked_requests_and_expect_continue() {
    let server = TestServer::start().await;
    let body = Request {
        operations: vec![acquire("k", owner())],
    }
    .encode();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST {OPERATIONS_PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {GATEWAY}\r\n\
         content-type: {CONTENT_TYPE}\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim[..], b"HTTP/1.1 100 Continue\r\n\r\n");
    for chunk in body.chunks(7) {
        stream
            .write_all(format!("{:x}\r\n", chunk.len()).as_bytes())
            .await
            .unwrap();
        stream.write_all(chunk).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_slow_head_is_cut_and_an_idle_connection_with_a_token_is_not() {
    let mut settings = settings();
    settings.header_timeout = Some("100ms".parse().unwrap());
    let server = TestServer::with(settings).await;
    let known =
        format!("GET /healthz HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {GATEWAY}\r\n\r\n");
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(known.as_bytes()).await.unwrap();
    read_answer(&mut idle).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"POST /v1/oper").await.unwrap();
    // Both end well after the idle one could have.
    for stream in [&mut slow, &mut silent] {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 16]))
            .await
            .unwrap();
        assert_eq!(read.unwrap_or(0), 0);
    }
    let slow_heads = "idempotencyd_connections_closed_total{reason=\"slow-head\"}";
    assert_eq!(server.metric(slow_heads).await, 2);
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(read_answer(&mut idle).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn garbage_instead_of_http() {
    let server = TestServer::start().await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"PRI * HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    assert_eq!(server.client().get("/healthz").await.status, 200);
}

#[tokio::test]
async fn connections_over_the_limit_wait_their_turn() {
    let mut settings = settings();
    settings.max_connections = Some(2);
    settings.max_waiters = Some(1);
    let server = TestServer::with(settings).await;
    let known =
        format!("GET /healthz HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {GATEWAY}\r\n\r\n");
    let open = || async {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(known.as_bytes()).await.unwrap();
        stream
    };
    let mut first = open().await;
    let mut second = open().await;
    read_answer(&mut first).await;
    read_answer(&mut second).await;
    let mut third = open().await;
    // The Unix socket has places of its own.
    let unix = Client::unix(&server.socket).token(GATEWAY);
    granted(unix.one(acquire("k", owner())).await);
    drop(first);
    // Answered only because a place came free.
    assert!(read_answer(&mut third).await.starts_with("HTTP/1.1 200"));
}

/// A sender that is still writing would meet a broken connection, and Kong's host reads no answer
/// after that.
#[tokio::test]
async fn a_refusal_waits_for_the_body_that_is_under_way() {
    let mut settings = settings();
    settings.max_body_bytes = Some("1KiB".parse().unwrap());
    let server = TestServer::with(settings).await;
    let message = format!("content-type: {CONTENT_TYPE}\r\n");
    let with = |token: &str, rest: &str| format!("authorization: Bearer {token}\r\n{rest}");
    let operations = format!("POST {OPERATIONS_PATH}");
    let wait = format!("POST {WAIT_PATH}");
    for (line, fields, status) in [
        (operations.as_str(), with("unknown", &message), 401),
        (&operations, message.clone(), 401),
        (&operations, with(OPERATOR, &message), 403),
        (
            &operations,
            with(GATEWAY, "content-type: text/plain\r\n"),
            415,
        ),
        (&operations, with(GATEWAY, &message), 413),
        (&wait, with("unknown", &message), 401),
        (&wait, with(OPERATOR, &message), 403),
        ("POST /v1/settle", with("unknown", ""), 401),
        ("POST /v1/record/resolve", with(GATEWAY, ""), 403),
        ("POST /nowhere", with(GATEWAY, ""), 404),
        ("PUT /v1/operations", with(GATEWAY, &message), 405),
        (
            "POST /v1/settle",
            "origin: http://x.example\r\n".to_owned(),
            403,
        ),
    ] {
        let what = format!("{line} {fields:?}");
        let head =
            format!("{line} HTTP/1.1\r\nhost: localhost\r\n{fields}content-length: 4000\r\n\r\n");
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[0; 1000]).await.unwrap();
        let early = timeout(Duration::from_millis(50), stream.peek(&mut [0; 16])).await;
        assert!(early.is_err(), "{what}: answered before the body was sent");
        stream.write_all(&[0; 3000]).await.unwrap();
        let answer = read_answer(&mut stream).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{what}: {answer}"
        );
        // Nothing was cut: the connection serves the next request.
        let next = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(next).await.unwrap();
        let next = read_answer(&mut stream).await;
        assert!(next.starts_with("HTTP/1.1 200"), "{what}: {next}");
    }
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_ever_nor_ask_for_a_body() {
    let server = TestServer::start().await;
    for (field, sent) in [("x-nothing: 1", 10), ("expect: 100-continue", 0)] {
        let head = format!(
            "POST {OPERATIONS_PATH} HTTP/1.1\r\nhost: localhost\r\n\
             content-type: {CONTENT_TYPE}\r\ncontent-length: 4000\r\n{field}\r\n\r\n"
        );
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![0; sent]).await.unwrap();
        let answer = timeout(PATIENCE, read_answer(&mut stream)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401"), "{field}: {answer}");
        let end = timeout(PATIENCE, stream.read(&mut [0; 16])).await.unwrap();
        assert_eq!(end.unwrap_or(0), 0, "{field}: closed");
    }
}
