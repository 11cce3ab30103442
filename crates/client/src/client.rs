//! Requests to a running service.

use crate::connect::Connector;
use crate::tls::{meaning_of, Tls, TlsFiles};
use crate::url::ServiceUrl;
use bytes::Bytes;
use http::{header, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Idle connections are closed after this.
const IDLE: Duration = Duration::from_secs(30);

/// A service, and the token to show it. Connections are kept and used again. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    url: ServiceUrl,
    token: Option<HeaderValue>,
    timeout: Duration,
    http: legacy::Client<Connector, Full<Bytes>>,
}

/// Does not show the token.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("url", &self.url)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// An answer, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Its body.
    pub body: Bytes,
}

/// There is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nothing came in time.
    #[error("the service did not answer in time")]
    Late,
    /// Nobody is there, or the connection was cut.
    #[error("{0}")]
    Broken(String),
    /// The token, the target or the content type cannot be sent, or a file for TLS cannot be used.
    #[error("the request cannot be sent: {0}")]
    Unsendable(String),
}

impl Client {
    /// A client of this service, without a token and with a timeout of three seconds. The authorities of the machine
    /// may vouch for a service at an `https` address; [`Client::tls`] names others.
    pub fn new(url: ServiceUrl) -> Client {
        Client::over(url, Tls::default())
    }

    fn over(url: ServiceUrl, tls: Tls) -> Client {
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE);
        let connector = Connector {
            url: url.clone(),
            tls: Arc::new(tls),
        };
        Client {
            http: builder.build(connector),
            url,
            token: None,
            timeout: Duration::from_secs(3),
        }
    }

    /// Shows this token with every request.
    ///
    /// # Errors
    ///
    /// [`CallError::Unsendable`] if it cannot be the value of a header.
    pub fn token(mut self, token: &str) -> Result<Client, CallError> {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| CallError::Unsendable("the token has other than visible ASCII".into()))?;
        value.set_sensitive(true);
        self.token = Some(value);
        Ok(self)
    }

    /// Trusts these authorities, and shows this certificate. Means nothing for addresses other than `https`.
    ///
    /// # Errors
    ///
    /// [`CallError::Unsendable`] if a file cannot be used.
    pub fn tls(self, files: TlsFiles) -> Result<Client, CallError> {
        let tls = Tls::new(files).map_err(CallError::Unsendable)?;
        Ok(Client {
            token: self.token,
            timeout: self.timeout,
            ..Client::over(self.url, tls)
        })
    }

    /// How long one exchange may take, from the connection to the last byte.
    pub fn timeout(mut self, longest: Duration) -> Client {
        self.timeout = longest;
        self
    }

    pub(crate) fn longest(&self) -> Duration {
        self.timeout
    }

    /// Sends one request, and reads its whole answer. `target` is a path with its query; `kind` is the
    /// content type of a body that is not empty.
    ///
    /// # Errors
    ///
    /// If there is no whole answer. An answer that says no is an answer.
    pub async fn send(
        &self,
        method: Method,
        target: &str,
        kind: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, CallError> {
        self.send_within(self.timeout, method, target, kind, body.into())
            .await
    }

    pub(crate) async fn send_within(
        &self,
        longest: Duration,
        method: Method,
        target: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<Answer, CallError> {
        let request = self.request(method, target, kind, body)?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(told)?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await;
            let body = body
                .map_err(|e| CallError::Broken(format!("the service did not answer: {e}")))?
                .to_bytes();
            Ok(Answer { status, body })
        };
        let exchanged = tokio::time::timeout(longest, exchange).await;
        exchanged.unwrap_or(Err(CallError::Late))
    }

    fn request(
        &self,
        method: Method,
        target: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, CallError> {
        let authority = match &self.url {
            ServiceUrl::Http(authority) | ServiceUrl::Https(authority) => authority,
            ServiceUrl::Unix(_) => "localhost",
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{authority}{target}"));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token);
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        request
            .body(Full::new(body))
            .map_err(|error| CallError::Unsendable(error.to_string()))
    }
}

/// The innermost cause is the one that helps.
fn told(error: legacy::Error) -> CallError {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    // With TLS 1.3 the service says no to our certificate when we have shaken hands already.
    let refused = cause.downcast_ref::<io::Error>().and_then(meaning_of);
    if let Some(text) = refused {
        return CallError::Broken(text);
    }
    CallError::Broken(match error.is_connect() {
        true => cause.to_string(),
        false => format!("the service did not answer: {cause}"),
    })
}
