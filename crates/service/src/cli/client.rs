//! A small HTTP client for one request to a running service.

use bytes::Bytes;
use http::{header, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServiceUrl {
    /// `http://host:port`.
    Http(String),
    /// `unix:/path`.
    Unix(PathBuf),
}

impl FromStr for ServiceUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<ServiceUrl, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("`unix:` needs a path".into());
            }
            return Ok(ServiceUrl::Unix(PathBuf::from(path)));
        }
        let Some(rest) = text.strip_prefix("http://") else {
            return Err("write http://host:port or unix:/path".into());
        };
        let authority = rest.trim_end_matches('/');
        let parsed: http::uri::Authority = authority
            .parse()
            .map_err(|_| "write http://host:port or unix:/path".to_owned())?;
        if authority.contains('@') {
            return Err("a URL holds no credentials; use --token-file".into());
        }
        Ok(ServiceUrl::Http(match parsed.port() {
            Some(_) => authority.to_owned(),
            None => format!("{authority}:80"),
        }))
    }
}

/// A service, and the token to show it.
pub(crate) struct Client {
    pub url: ServiceUrl,
    pub token: Option<String>,
    pub timeout: Duration,
}

/// An answer.
pub(crate) struct Answer {
    pub status: u16,
    pub body: Bytes,
}

impl Client {
    /// Sends one request and reads its whole answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> Result<Answer, String> {
        let exchange = async {
            match &self.url {
                ServiceUrl::Http(authority) => {
                    let stream = TcpStream::connect(authority)
                        .await
                        .map_err(|e| format!("cannot connect to {authority}: {e}"))?;
                    self.exchange(stream, authority, method, target, body).await
                }
                ServiceUrl::Unix(path) => {
                    let stream = UnixStream::connect(path)
                        .await
                        .map_err(|e| format!("cannot connect to {}: {e}", path.display()))?;
                    self.exchange(stream, "localhost", method, target, body)
                        .await
                }
            }
        };
        tokio::time::timeout(self.timeout, exchange)
            .await
            .unwrap_or_else(|_| Err("the service did not answer in time".into()))
    }

    async fn exchange<S>(
        &self,
        stream: S,
        host: &str,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> Result<Answer, String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let broken = |e: hyper::Error| format!("the service did not answer: {e}");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let driver = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, host)
            .header(header::CONNECTION, "close");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| format!("the request cannot be sent: {e}"))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(broken)?
            .to_bytes();
        driver.abort();
        Ok(Answer { status, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let parse = |text: &str| text.parse::<ServiceUrl>();
        assert_eq!(
            parse("http://h:1/").unwrap(),
            ServiceUrl::Http("h:1".into())
        );
        assert_eq!(parse("http://h").unwrap(), ServiceUrl::Http("h:80".into()));
        assert_eq!(parse("unix:/x").unwrap(), ServiceUrl::Unix("/x".into()));
        for bad in [
            "",
            "h:1",
            "https://h",
            "unix:",
            "http://",
            "http://u:p@h",
            "http://h/path",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
