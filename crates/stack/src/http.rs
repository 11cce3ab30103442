//! A small blocking HTTP/1.1 client for admin interfaces and simple tests: one request, one
//! connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A request under construction.
#[derive(Debug, Clone)]
pub struct Request {
    head: String,
    body: Vec<u8>,
    timeout: Duration,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// The body without its transfer coding.
    pub body: Vec<u8>,
}

impl Request {
    /// A request with any method; `target` is path and query.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            head: format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"),
            body: Vec::new(),
            timeout: Duration::from_secs(30),
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

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// Adds `Authorization: Bearer …`.
    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// How long each read may take; 30 s if not set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Errors
    ///
    /// Of the connection; `InvalidData` for something that is no HTTP/1.1 answer, `UnexpectedEof`
    /// for one that is cut.
    pub fn send(&self, address: SocketAddr) -> io::Result<Answer> {
        let mut stream = TcpStream::connect_timeout(&address, self.timeout)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_nodelay(true)?;
        let mut octets = self.head.clone().into_bytes();
        if !self.body.is_empty() || self.head.starts_with("POST") {
            octets.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        octets.extend_from_slice(b"\r\n");
        octets.extend_from_slice(&self.body);
        stream.write_all(&octets)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        parse(&answer, self.head.starts_with("HEAD "))
    }
}

impl Answer {
    /// The first value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `null` if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the answer is cut")
}

fn parse(octets: &[u8], head_only: bool) -> io::Result<Answer> {
    let (head, rest) = split(octets, b"\r\n\r\n").ok_or_else(cut)?;
    let head = std::str::from_utf8(head).map_err(|_| bad("the head is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| bad("no status"))?;
    if (100..200).contains(&status) && status != 101 {
        return parse(rest, head_only);
    }
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let answer = Answer {
        status,
        headers,
        body: Vec::new(),
    };
    let body = if head_only {
        Vec::new()
    } else if answer.header("transfer-encoding").is_some() {
        dechunk(rest)?
    } else if let Some(length) = answer.header("content-length") {
        let length = length.parse().map_err(|_| bad("no length"))?;
        rest.get(..length).ok_or_else(cut)?.to_vec()
    } else {
        rest.to_vec()
    };
    Ok(Answer { body, ..answer })
}

fn dechunk(mut octets: &[u8]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let (line, rest) = split(octets, b"\r\n").ok_or_else(cut)?;
        let size = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.split(';').next());
        let size = size.and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        let size = size.ok_or_else(|| bad("no chunk size"))?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(..size).ok_or_else(cut)?);
        octets = rest.get(size + 2..).ok_or_else(cut)?;
    }
}

fn split<'a>(octets: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let position = octets.windows(at.len()).position(|window| window == at)?;
    Some((octets.get(..position)?, octets.get(position + at.len()..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let plain = parse(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A:  b\r\n\r\nok",
            false,
        );
        let plain = plain.unwrap();
        assert_eq!((plain.status, plain.text().as_str()), (200, "ok"));
        assert_eq!(plain.header("x-a"), Some("b"));
        let chunked = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 x\r\n\
            Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        assert_eq!(parse(chunked, false).unwrap().body, b"abc");
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
        assert!(parse(head, true).is_ok());
        assert_eq!(
            parse(head, false).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        let cut = &chunked[..chunked.len() - 6];
        assert_eq!(
            parse(cut, false).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
