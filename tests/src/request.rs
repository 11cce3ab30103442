//! What is sent.

use crate::answer::{Answer, Broken};
use crate::connection::Connection;
use crate::wire::Wire;
use idempotency_stack::Stack;

/// A request, for any client.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    /// Size of the pieces; `None`: with `content-length`.
    pub(crate) chunks: Option<usize>,
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
}

impl Request {
    /// A request with any method; `target` is path and query.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            chunks: None,
            trailers: Vec::new(),
        }
    }

    /// A `GET`.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A `POST`.
    pub fn post(target: &str) -> Self {
        Self::new("POST", target)
    }

    /// Adds `Idempotency-Key`, as it stands.
    pub fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends the body without `content-length`, in pieces of so many bytes.
    pub fn chunked(mut self, size: usize) -> Self {
        self.chunks = Some(size.max(1));
        self
    }

    /// Adds a trailer; the body then has no `content-length`.
    pub fn trailer(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.trailers
            .push((name.to_owned(), value.as_ref().to_owned()));
        self.chunks.get_or_insert(1024);
        self
    }

    /// The same request with another target.
    pub fn target(mut self, target: &str) -> Self {
        target.clone_into(&mut self.target);
        self
    }

    /// The same request with another method.
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// Sends it to the gateway over HTTP/1.1, on a connection of its own.
    ///
    /// # Panics
    ///
    /// Without a whole answer.
    pub fn send(&self, stack: &Stack) -> Answer {
        Connection::http1(stack.address()).send(self)
    }

    /// As [`Self::send`], over HTTP/2.
    ///
    /// # Panics
    ///
    /// Without a whole answer.
    pub fn send_h2(&self, stack: &Stack) -> Answer {
        Connection::http2(stack.address()).send(self)
    }

    /// As [`Self::send`], for requests whose answer may be cut.
    ///
    /// # Errors
    ///
    /// Without a whole answer.
    pub fn try_send(&self, stack: &Stack) -> Result<Answer, Broken> {
        Connection::http1(stack.address()).try_send(self)
    }

    /// Writes all of it on a new socket and reads nothing.
    pub fn start(&self, stack: &Stack) -> Wire {
        Wire::with(stack.address(), self)
    }

    /// The head as HTTP/1.1, with the empty line and the header that announces the body.
    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        let mut line = |name: &str, value: &[u8]| {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        };
        if !self.has("host") {
            line("host", b"localhost");
        }
        for (name, value) in &self.headers {
            line(name, value);
        }
        if self.chunks.is_some() {
            line("transfer-encoding", b"chunked");
        } else if !self.body.is_empty() || self.method == "POST" {
            line("content-length", self.body.len().to_string().as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// The body as it goes over the wire: with its chunks and trailers.
    pub fn tail(&self) -> Vec<u8> {
        let Some(size) = self.chunks else {
            return self.body.clone();
        };
        let mut tail = Vec::new();
        for piece in self.body.chunks(size) {
            tail.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            tail.extend_from_slice(piece);
            tail.extend_from_slice(b"\r\n");
        }
        tail.extend_from_slice(b"0\r\n");
        for (name, value) in &self.trailers {
            tail.extend_from_slice(format!("{name}: ").as_bytes());
            tail.extend_from_slice(value);
            tail.extend_from_slice(b"\r\n");
        }
        tail.extend_from_slice(b"\r\n");
        tail
    }

    /// Head and body as HTTP/1.1.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        bytes.extend(self.tail());
        bytes
    }

    /// The key, if it has exactly one.
    pub(crate) fn key_value(&self) -> Option<&[u8]> {
        let named = |(n, _): &&(String, Vec<u8>)| n.eq_ignore_ascii_case("idempotency-key");
        let mut keys = self.headers.iter().filter(named);
        match (keys.next(), keys.next()) {
            (Some((_, key)), None) => Some(key),
            _ => None,
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.headers
            .iter()
            .any(|(n, _)| n.eq_ignore_ascii_case(name))
    }
}
