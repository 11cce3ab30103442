//! A server on a free port, and clients that keep every byte of an answer.

use axum::Router;
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A running server; it ends with the runtime of its test.
pub struct Server(pub SocketAddr);

pub async fn serve(app: Router) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    Server(address)
}

/// An answer, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The name of the problem that it is; empty if it is none.
    pub fn problem(&self) -> String {
        let document: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let kind = document["type"].as_str().unwrap_or_default();
        kind.rsplit(':').next().unwrap_or_default().to_owned()
    }

    pub fn is_replay(&self) -> bool {
        self.header("idempotency-replayed") == Some("true")
    }

    /// Asserts that this is the first answer again: status, bytes, and every header but those of one
    /// delivery.
    pub fn assert_replays(&self, first: &Answer) {
        assert!(self.is_replay(), "{self:?}");
        assert!(!first.is_replay(), "{first:?}");
        assert_eq!(self.status, first.status);
        assert_eq!(self.body, first.body);
        let kept = |answer: &Answer| {
            let mut headers = answer.headers.clone();
            for name in ["date", "age", "idempotency-replayed", "idempotency-expires"] {
                headers.remove(name);
            }
            headers
        };
        assert_eq!(kept(self), kept(first));
    }
}

/// A `POST` with this key.
pub fn post(path: &str, key: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let builder = Request::builder().method(Method::POST).uri(path);
    let builder = builder.header("idempotency-key", key);
    builder.body(Full::new(body.into())).unwrap()
}

impl Server {
    /// Sends it on a connection of its own, and reads the answer to its end.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        self.try_send(request).await.expect("a whole answer")
    }

    pub async fn try_send(&self, mut request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let stream = TcpStream::connect(self.0).await.unwrap();
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        request
            .headers_mut()
            .insert("host", "localhost".parse().unwrap());
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| error.to_string())?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.to_bytes(),
        })
    }

    /// Sends it, and returns the connection to read from, or to drop.
    pub async fn begin(&self, path: &str, key: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.0).await.unwrap();
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nidempotency-key: {key}\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }
}

/// Reads until this has come; everything that came.
pub async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(text) {
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).await.unwrap();
        assert!(n > 0, "the end instead of {text:?}: {read:?}");
        read.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8(read).unwrap()
}
