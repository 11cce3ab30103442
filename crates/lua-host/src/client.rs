//! Requests and answers of HTTP/1.1, byte by byte.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer as it came.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// 0: none came.
    pub status: u16,
    /// In their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Without its framing.
    pub body: Vec<u8>,
    /// By its framing, it is all there.
    pub whole: bool,
}

/// With the beginning of its body, as text.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Answer { status, whole, .. } = self;
        let text: String = self.text().chars().take(300).collect();
        write!(f, "{status} whole={whole} {:?} {text:?}", self.headers)
    }
}

impl Answer {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        all.find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The headers that belong to the answer, and not to how it was sent, or when.
    pub fn lasting(&self) -> Vec<(String, String)> {
        const OF_SENDING: [&str; 9] = [
            "date",
            "server",
            "connection",
            "content-length",
            "transfer-encoding",
            "idempotency-replayed",
            "idempotency-expires",
            "age",
            "set-cookie",
        ];
        let lasts = |(name, _): &&(String, String)| !OF_SENDING.contains(&name.as_str());
        let mut lasting: Vec<_> = self.headers.iter().filter(lasts).cloned().collect();
        // Of different names, Kong keeps no order.
        lasting.sort();
        lasting
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Reads what a server wrote until it closed the connection.
    pub fn parse(bytes: &[u8]) -> Answer {
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
            return Answer::default();
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let rest = &bytes[end + 4..];
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = Answer {
            status: status.and_then(|s| s.parse().ok()).unwrap_or(0),
            headers,
            body: rest.to_vec(),
            whole: true,
        };
        if answer.header("transfer-encoding") == Some("chunked") {
            (answer.body, answer.whole) = unchunked(rest);
        } else if let Some(length) = answer.header("content-length") {
            answer.whole = length.parse() == Ok(rest.len());
        }
        answer
    }
}

fn unchunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = String::from_utf8_lossy(&rest[..end]).into_owned();
        let Ok(size) = usize::from_str_radix(&size, 16) else {
            break;
        };
        rest = &rest[end + 2..];
        if size == 0 {
            return (body, true);
        }
        if rest.len() < size + 2 {
            body.extend_from_slice(&rest[..rest.len().min(size)]);
            break;
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
    (body, false)
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// A POST with this key.
pub fn post(target: &str, key: &str, body: impl AsRef<[u8]>) -> Request {
    Request {
        method: "POST".to_owned(),
        target: target.to_owned(),
        headers: vec![
            ("Host".to_owned(), "api.test".to_owned()),
            ("Idempotency-Key".to_owned(), key.to_owned()),
            ("Content-Type".to_owned(), "text/plain".to_owned()),
        ],
        body: body.as_ref().to_vec(),
    }
}

impl Request {
    /// The same with another method.
    pub fn method(mut self, method: &str) -> Request {
        self.method = method.to_owned();
        self
    }

    /// The same with one header more.
    pub fn with(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same without that header.
    pub fn without(mut self, name: &str) -> Request {
        self.headers.retain(|(n, _)| n != name);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !self.body.is_empty() || self.method != "GET" {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        head += "Connection: close\r\n\r\n";
        [head.as_bytes(), &self.body].concat()
    }

    /// Sends it, and leaves the connection open.
    pub fn begin(&self, to: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(to).expect("the gateway listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream.write_all(&self.bytes()).unwrap();
        stream
    }

    /// Sends it, and reads the answer to its end.
    pub fn send(&self, to: SocketAddr) -> Answer {
        let mut stream = self.begin(to);
        let mut bytes = Vec::new();
        // A connection that is broken off may be reset; what came counts.
        let _ = stream.read_to_end(&mut bytes);
        Answer::parse(&bytes)
    }
}
