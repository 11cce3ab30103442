//! Every parameter over a real socket, byte for byte.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use idempotency_demo_upstream::{serve, Ledger};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Ledger::new(1000)));
    address
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    /// As on the wire: chunk sizes included.
    body: Vec<u8>,
    reset: bool,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Sends octets and reads until the connection ends.
async fn raw(address: SocketAddr, request: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut octets = Vec::new();
    let reset = stream.read_to_end(&mut octets).await.is_err();
    if octets.is_empty() {
        assert!(reset, "an empty answer is a reset");
        return None;
    }
    let end = octets
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(octets[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    Some(Answer {
        status,
        headers,
        body: octets[end + 4..].to_vec(),
        reset,
    })
}

async fn send(address: SocketAddr, method: &str, target: &str, extra: &str) -> Option<Answer> {
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nIdempotency-Key: k\r\n\
         {extra}Content-Length: 3\r\n\r\nabc"
    );
    raw(address, request.as_bytes()).await
}

async fn post(address: SocketAddr, query: &str) -> Answer {
    send(address, "POST", &format!("/charges?{query}"), "")
        .await
        .unwrap()
}

async fn get(address: SocketAddr, target: &str) -> Answer {
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    raw(address, request.as_bytes()).await.unwrap()
}

/// Asks until the executions satisfy the condition.
async fn until(address: SocketAddr, what: &str, condition: impl Fn(&Value, &Value) -> bool) {
    let started = Instant::now();
    loop {
        let counts = get(address, "/executions").await.json();
        let log = get(address, "/executions/log").await.json();
        if condition(&counts, &log) {
            return;
        }
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{what}: {counts} {log}"
        );
    }
}

#[tokio::test]
async fn a_charge_is_counted_and_differs_each_time() {
    let address = upstream().await;
    let first = post(address, "").await;
    let second = post(address, "").await;
    assert_eq!((first.status, second.status), (201, 201));
    assert_ne!(first.body, second.body);
    assert_eq!(first.json()["seq"], 1);
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(
        first.header("content-length").unwrap(),
        first.body.len().to_string(),
        "a charge tells its length"
    );
    let location = first.header("location").unwrap();
    assert_eq!(
        location,
        format!("/charges/{}", first.json()["id"].as_str().unwrap())
    );

    raw(address, b"PUT /other/path HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let counts = get(address, "/executions").await;
    assert_eq!(
        counts.text(),
        r#"{"total":3,"by_key":{"":1,"k":2},"cut":0}"#
    );

    let reset = raw(address, b"POST /reset HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(reset.status, 204);
    let counts = get(address, "/executions").await;
    assert_eq!(counts.text(), r#"{"total":0,"by_key":{},"cut":0}"#);
}

#[tokio::test]
async fn unprotected_helpers_execute_nothing() {
    let address = upstream().await;
    for path in ["/", "/healthz", "/executions", "/executions/log"] {
        assert_eq!(get(address, path).await.status, 200, "{path}");
    }
    assert_eq!(get(address, "/executions").await.json()["total"], 0);
}

#[tokio::test]
async fn the_log_tells_what_was_received() {
    let address = upstream().await;
    let extra = "idempotency-fence: 17\r\nidempotency-attempt: 2\r\nIdempotency-Key: l\r\n";
    send(address, "PATCH", "/charges/7?a=b", extra)
        .await
        .unwrap();
    post(address, "").await;
    let log = get(address, "/executions/log").await;
    assert_eq!(log.header("x-log-dropped"), Some("0"));
    let log = log.json();
    let first = &log[0];
    assert_eq!(first["seq"], 1);
    assert_eq!(first["method"], "PATCH");
    assert_eq!(first["path"], "/charges/7");
    assert_eq!(first["query"], "a=b");
    assert_eq!(first["key"], "k, l");
    assert_eq!(first["fence"], "17");
    assert_eq!(first["attempt"], "2");
    assert_eq!(
        first["body_sha256"],
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(first["finished"], true);
    assert_eq!(first["aborted"], false);
    assert!(first["finished_at"].as_u64() >= first["started_at"].as_u64());
    assert_eq!(log[1]["fence"], Value::Null);
}

#[tokio::test]
async fn status_and_headers() {
    let address = upstream().await;
    let query = "status=503&retry_after=7&set_cookie=1&header=x-a:1&header=x-a:%202%20&\
                 header=content-type:text/html";
    let answer = post(address, query).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), Some("7"));
    assert_eq!(answer.header("content-type"), Some("text/html"));
    let values = |name: &str| -> Vec<_> {
        answer
            .headers
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
            .collect()
    };
    assert_eq!(values("x-a"), ["1", "2"]);
    assert_eq!(values("set-cookie").len(), 2);
}

#[tokio::test]
async fn bodies() {
    let address = upstream().await;
    assert_eq!(post(address, "body=hello%20you").await.text(), "hello you");
    assert_eq!(post(address, "bytes=1").await.body.len(), 1);
    let big = post(address, "bytes=1048577").await;
    assert_eq!(big.body.len(), 1_048_577);
    assert_eq!(big.header("content-length"), Some("1048577"));
    assert_ne!(big.body, post(address, "bytes=1048577").await.body);
    for (query, status) in [
        ("content_length=0", 201),
        ("bytes=0", 201),
        ("status=200&body=", 200),
    ] {
        let answer = post(address, query).await;
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{query}");
        assert_eq!(answer.header("content-length"), Some("0"), "{query}");
    }
    for (query, status) in [
        ("no_content=1", 204),
        ("status=204", 204),
        ("status=304", 304),
    ] {
        let answer = post(address, query).await;
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{query}");
        assert_eq!(answer.header("content-type"), None, "{query}");
    }
    until(address, "all were taken whole", |counts, log| {
        let whole = |entry: &Value| entry["finished"] == true && entry["aborted"] == false;
        counts["total"] == 10 && log.as_array().unwrap().iter().all(whole)
    })
    .await;
}

#[tokio::test]
async fn head_has_the_headers_and_no_body() {
    let address = upstream().await;
    let answer = send(address, "HEAD", "/charges?bytes=77", "")
        .await
        .unwrap();
    assert_eq!((answer.status, answer.body.len()), (201, 0));
    assert_eq!(answer.header("content-length"), Some("77"));
    until(address, "delivered", |_, log| log[0]["aborted"] == false).await;
}

#[tokio::test]
async fn chunks_and_their_pauses() {
    let address = upstream().await;
    let answer = post(address, "chunked=1&body=abcdefgh").await;
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.header("content-length"), None);
    assert_eq!(
        answer.text(),
        "2\r\nab\r\n2\r\ncd\r\n2\r\nef\r\n2\r\ngh\r\n0\r\n\r\n"
    );
    let answer = post(address, "chunk_bytes=5&body=abcdefgh").await;
    assert_eq!(answer.text(), "5\r\nabcde\r\n3\r\nfgh\r\n0\r\n\r\n");
    let started = Instant::now();
    post(address, "chunk_delay_ms=40&body=abcd").await;
    assert!(started.elapsed() >= Duration::from_millis(120));
}

#[tokio::test]
async fn trailers_need_te_over_http1() {
    let address = upstream().await;
    let query = "/charges?trailers=1&body=ab";
    let with = send(address, "POST", query, "TE: trailers\r\n")
        .await
        .unwrap();
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(with.header("trailer"), Some("x-charge-digest"));
    assert_eq!(
        with.text(),
        format!("2\r\nab\r\n0\r\nx-charge-digest: {digest}\r\n\r\n")
    );
    let without = send(address, "POST", query, "").await.unwrap();
    assert_eq!(without.text(), "2\r\nab\r\n0\r\n\r\n");
}

#[tokio::test]
async fn trailers_over_http2() {
    use http_body_util::{BodyExt, Full};
    let address = upstream().await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, Full<&[u8]>>(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    let connection = tokio::spawn(connection);
    let request = |query: &str| {
        let uri = format!("http://x/charges?{query}");
        hyper::Request::post(uri)
            .body(Full::new(b"abc" as &[u8]))
            .unwrap()
    };
    let answer = sender
        .send_request(request("trailers=1&body=ab"))
        .await
        .unwrap();
    assert_eq!(answer.version(), hyper::Version::HTTP_2);
    let all = answer.into_body().collect().await.unwrap();
    assert!(all.trailers().unwrap().contains_key("x-charge-digest"));
    assert_eq!(all.to_bytes(), "ab");

    assert!(sender.send_request(request("reset=before")).await.is_err());
    sender
        .ready()
        .await
        .expect("a reset ends the stream, not the connection");
    let cut = sender
        .send_request(request("reset=mid&bytes=100"))
        .await
        .unwrap();
    assert!(cut.into_body().collect().await.is_err());
    drop(sender);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn delay_holds_the_whole_answer() {
    let address = upstream().await;
    let started = Instant::now();
    post(address, "delay_ms=120").await;
    assert!(started.elapsed() >= Duration::from_millis(120));
}

#[tokio::test]
async fn resets() {
    let address = upstream().await;
    assert!(send(address, "POST", "/charges?reset=before", "")
        .await
        .is_none());
    let headers = post(address, "reset=headers&bytes=1000").await;
    assert_eq!((headers.status, headers.body.len()), (201, 0));
    assert_eq!(headers.header("content-length"), Some("1000"));
    let mid = post(address, "reset=mid&bytes=1000").await;
    assert_eq!((mid.status, mid.body.len()), (201, 500));
    let mid = post(address, "reset=mid&chunked=1&body=abcdefgh").await;
    assert_eq!(mid.text(), "2\r\nab\r\n2\r\ncd\r\n", "no last chunk");
    assert!(!mid.reset);
    until(address, "all executed, none delivered", |counts, log| {
        let aborted = |entry: &Value| entry["finished"] == true && entry["aborted"] == true;
        counts["by_key"]["k"] == 4 && log.as_array().unwrap().iter().all(aborted)
    })
    .await;
}

#[tokio::test]
async fn echo() {
    let address = upstream().await;
    let echo = send(
        address,
        "POST",
        "/charges?echo=1",
        "X-Bin: \u{e9}\r\nx-two: 1\r\nx-two: 2\r\n",
    )
    .await
    .unwrap()
    .json();
    assert_eq!(echo["length"], 3);
    assert_eq!(echo["method"], "POST");
    assert_eq!(echo["uri"], "/charges?echo=1");
    assert!(echo["body_sha256"]
        .as_str()
        .unwrap()
        .starts_with("ba7816bf"));
    let pairs = echo["headers"].as_array().unwrap();
    assert_eq!(pairs.iter().filter(|pair| pair[0] == "x-two").count(), 2);
}

#[tokio::test]
async fn a_charge_outlives_its_client() {
    let address = upstream().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /charges?delay_ms=150 HTTP/1.1\r\nHost: x\r\nIdempotency-Key: gone\r\n";
    stream
        .write_all(format!("{head}Content-Length: 1\r\n\r\nx").as_bytes())
        .await
        .unwrap();
    until(address, "counted", |counts, _| {
        counts["by_key"]["gone"] == 1
    })
    .await;
    drop(stream);
    until(address, "finished for nobody", |_, log| {
        log[0]["finished"] == true && log[0]["aborted"] == true
    })
    .await;
}

#[tokio::test]
async fn a_cut_request_is_not_executed() {
    let address = upstream().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /charges HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf";
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    until(address, "cut", |counts, _| {
        counts["cut"] == 1 && counts["total"] == 0
    })
    .await;
}

#[tokio::test]
async fn bad_parameters_execute_nothing() {
    let address = upstream().await;
    let answer = post(address, "status=99").await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("`status`"));
    assert_eq!(get(address, "/executions").await.json()["total"], 0);
}

#[tokio::test]
async fn expect_continue_is_answered() {
    let address = upstream().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /charges?body=ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                Expect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(
        rest.starts_with("HTTP/1.1 201") && rest.ends_with("ok"),
        "{rest}"
    );
}
