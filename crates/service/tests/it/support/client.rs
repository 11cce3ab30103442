//! A client that checks of every answer that it has a length.

use super::PATIENCE;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use idempotency_protocol::{
    Answer, Operation, Response, Wait, CONTENT_TYPE, OPERATIONS_PATH, WAIT_PATH,
};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{TcpStream, UnixStream};

#[derive(Clone, Debug)]
enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Sends each request on a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    target: Target,
    token: Option<String>,
    http2: bool,
    headers: Vec<(&'static str, String)>,
    tunnel: Option<Tunnel>,
}

/// TLS around a TCP connection.
#[derive(Clone, Debug)]
pub struct Tunnel {
    pub config: Arc<rustls::ClientConfig>,
    /// The name that the service's certificate must have.
    pub name: &'static str,
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn answers(&self) -> Vec<Answer> {
        assert_eq!(self.status, 200, "{:?}", self.body);
        Response::decode(self.body.clone()).unwrap().all().unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().unwrap())
    }

    /// Checks that this is a problem document of that name.
    pub fn problem(&self, status: u16, name: &str) -> serde_json::Value {
        assert_eq!(self.status, status, "{:?}", self.body);
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        let json = self.json();
        let kind = json["type"].as_str().unwrap();
        assert!(kind.ends_with(&format!(":{name}")), "{kind} is not {name}");
        assert_eq!(json["status"], status);
        json
    }
}

/// A connection that is used again.
pub struct Kept {
    sender: conn::http1::SendRequest<Full<Bytes>>,
}

impl Kept {
    /// The status of the answer.
    pub async fn post(&mut self, target: &str, body: impl Into<Bytes>) -> u16 {
        let request = Request::post(target)
            .header("host", "localhost")
            .header("content-type", CONTENT_TYPE)
            .body(Full::new(body.into()))
            .unwrap();
        self.sender.ready().await.unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        response.into_body().collect().await.unwrap();
        status
    }
}

impl Client {
    pub fn tcp(address: SocketAddr) -> Client {
        Client::new(Target::Tcp(address))
    }

    pub fn unix(path: &Path) -> Client {
        Client::new(Target::Unix(path.to_owned()))
    }

    fn new(target: Target) -> Client {
        Client {
            target,
            token: None,
            http2: false,
            headers: Vec::new(),
            tunnel: None,
        }
    }

    pub fn over(&self, tunnel: Tunnel) -> Client {
        Client {
            tunnel: Some(tunnel),
            ..self.clone()
        }
    }

    pub fn token(&self, token: &str) -> Client {
        Client {
            token: Some(token.into()),
            ..self.clone()
        }
    }

    pub fn http2(&self) -> Client {
        Client {
            http2: true,
            ..self.clone()
        }
    }

    pub fn header(&self, name: &'static str, value: &str) -> Client {
        let mut client = self.clone();
        client.headers.push((name, value.into()));
        client
    }

    pub async fn get(&self, target: &str) -> Reply {
        self.send(Method::GET, target, "").await
    }

    pub async fn post(&self, target: &str, body: impl Into<Bytes>) -> Reply {
        self.send(Method::POST, target, body).await
    }

    pub async fn json(&self, target: &str, body: serde_json::Value) -> Reply {
        self.post(target, body.to_string()).await
    }

    pub async fn operate(&self, operations: Vec<Operation>) -> Vec<Answer> {
        let body = idempotency_protocol::Request { operations }.encode();
        self.post(OPERATIONS_PATH, body).await.answers()
    }

    pub async fn one(&self, operation: Operation) -> Answer {
        self.operate(vec![operation]).await.pop().unwrap()
    }

    pub async fn wait(&self, wait: &Wait) -> Answer {
        self.post(WAIT_PATH, wait.encode())
            .await
            .answers()
            .pop()
            .unwrap()
    }

    pub async fn send(&self, method: Method, target: &str, body: impl Into<Bytes>) -> Reply {
        let sent = self.try_send(method, target, body.into()).await;
        sent.unwrap_or_else(|error| panic!("{target}: {error}"))
    }

    pub async fn try_send(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<Reply, String> {
        let request = self.request(method, target, body);
        let exchange = async {
            match &self.target {
                Target::Tcp(address) => {
                    let stream = TcpStream::connect(address)
                        .await
                        .map_err(|e| e.to_string())?;
                    let Some(tunnel) = &self.tunnel else {
                        return self.exchange(stream, request).await;
                    };
                    let connector = tokio_rustls::TlsConnector::from(tunnel.config.clone());
                    let name = tunnel.name.try_into().unwrap();
                    let stream = connector.connect(name, stream).await;
                    let stream = stream.map_err(|e| e.to_string())?;
                    self.exchange(stream, request).await
                }
                Target::Unix(path) => {
                    let stream = UnixStream::connect(path).await.map_err(|e| e.to_string())?;
                    self.exchange(stream, request).await
                }
            }
        };
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .map_err(|_| "no answer".to_owned())?
    }

    fn request(&self, method: Method, target: &str, body: Bytes) -> Request<Full<Bytes>> {
        let uri = if self.http2 {
            format!("http://localhost{target}")
        } else {
            target.to_owned()
        };
        let mut request = Request::builder().method(method).uri(uri);
        if !self.http2 {
            request = request
                .header("host", "localhost")
                .header("connection", "close");
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let path = target.split('?').next().unwrap_or_default();
        let message = [OPERATIONS_PATH, WAIT_PATH].contains(&path);
        if message && !self.headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", CONTENT_TYPE);
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.body(Full::new(body)).unwrap()
    }

    /// One connection of HTTP/1.1 over TLS for many requests.
    pub async fn keep(&self) -> Kept {
        let (Target::Tcp(address), Some(tunnel)) = (&self.target, &self.tunnel) else {
            panic!("only over TLS");
        };
        let stream = TcpStream::connect(address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(tunnel.config.clone());
        let name = tunnel.name.try_into().unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        let (sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Kept { sender }
    }

    async fn exchange<S>(&self, stream: S, request: Request<Full<Bytes>>) -> Result<Reply, String>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(stream);
        // The innermost cause is what TLS says.
        let failed = |e: hyper::Error| {
            let mut cause: &dyn std::error::Error = &e;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            cause.to_string()
        };
        let head = request.method() == Method::HEAD;
        let (sent, connection) = if self.http2 {
            let (mut sender, connection) = conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .map_err(failed)?;
            let connection = tokio::spawn(connection);
            (sender.send_request(request).await, connection)
        } else {
            let (mut sender, connection) = conn::http1::handshake(io).await.map_err(failed)?;
            let connection = tokio::spawn(connection);
            (sender.send_request(request).await, connection)
        };
        // In TLS 1.3 a server refuses a certificate after the client's part of the handshake: the connection says so.
        let response = match sent {
            Ok(response) => response,
            Err(error) => {
                return Err(match connection.await.unwrap() {
                    Err(why) => failed(why),
                    Ok(()) => failed(error),
                })
            }
        };
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(failed)?.to_bytes();
        let length = parts
            .headers
            .get("content-length")
            .map(|v| v.to_str().unwrap());
        let length = length.unwrap_or_else(|| panic!("no content-length: {parts:?}"));
        if !head {
            assert_eq!(length, body.len().to_string());
        }
        Ok(Reply {
            status: parts.status.as_u16(),
            version: parts.version,
            headers: parts.headers,
            body,
        })
    }
}
