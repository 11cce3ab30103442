//! Callouts as the host makes them: HTTP/1.1, a connection each, `Connection: close`.
//!
//! Measured: an answer needs `Content-Length` or chunked encoding, else its body is lost without a
//! word; one that is cut short has its announced size and no bytes; a failure has no headers. The head
//! is sent before the body, and a write that fails is a failure, whatever the service has answered.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Between a head and its body. The host is descheduled there on a busy machine.
const BETWEEN: Duration = Duration::from_millis(1);

/// A callout, as the filter asked for it.
#[derive(Clone, Debug)]
pub struct Callout {
    /// Names can be resolved.
    pub resolver: bool,
    /// `ip:port`, `host[:port]`, `unix:/path`.
    pub target: String,
    /// With pseudo headers.
    pub headers: Vec<(Bytes, Bytes)>,
    /// The body.
    pub body: Bytes,
    /// For connecting, for each write and for each read.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// With `:status` and `:dispatch_status` first. Empty: no answer came.
    pub headers: Vec<(Bytes, Bytes)>,
    /// The size that the filter is told.
    pub size: usize,
    /// The body, if all of it is there.
    pub body: Option<Bytes>,
    /// `:dispatch_status`.
    pub status: &'static str,
}

impl Answer {
    fn failed(status: &'static str) -> Self {
        Answer {
            status,
            ..Answer::default()
        }
    }
}

enum Failure {
    Unresolved,
    Timeout,
    Broken,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Failure::Broken
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// Makes it.
pub async fn make(callout: Callout) -> Answer {
    match attempt(&callout).await {
        Ok(answer) => answer,
        Err(Failure::Unresolved) => Answer::failed("resolver failure"),
        Err(Failure::Timeout) => Answer::failed("timeout"),
        Err(Failure::Broken) => Answer::failed("broken connection"),
    }
}

async fn attempt(callout: &Callout) -> Result<Answer, Failure> {
    if !callout.resolver && is_name(&callout.target) {
        return Err(Failure::Unresolved);
    }
    let patience = callout.timeout;
    let mut stream = limit(patience, connect(&callout.target)).await?;
    limit(patience, stream.write_all(&head(callout))).await?;
    if !callout.body.is_empty() {
        tokio::time::sleep(BETWEEN).await;
        limit(patience, stream.write_all(&callout.body)).await?;
    }
    read(&mut stream, patience).await
}

fn is_name(target: &str) -> bool {
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    !target.starts_with("unix:")
        && !host.starts_with('[')
        && host.parse::<std::net::IpAddr>().is_err()
}

async fn limit<T>(
    patience: Duration,
    future: impl std::future::Future<Output = io::Result<T>>,
) -> Result<T, Failure> {
    match timeout(patience, future).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Failure::Timeout),
    }
}

async fn connect(target: &str) -> io::Result<Box<dyn Stream>> {
    if let Some(path) = target.strip_prefix("unix:") {
        return Ok(Box::new(UnixStream::connect(path).await?));
    }
    let with_port = |target: &str| match target.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => target.to_owned(),
        _ => format!("{target}:80"),
    };
    let stream = TcpStream::connect(with_port(target)).await?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

fn head(callout: &Callout) -> Vec<u8> {
    let field = |name: &str| {
        let found = callout.headers.iter().find(|(n, _)| n == name.as_bytes());
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let mut out = Vec::with_capacity(512);
    for part in [
        &field(":method")[..],
        b" ",
        &field(":path"),
        b" HTTP/1.1\r\nHost: ",
        &field(":authority"),
        b"\r\nConnection: close\r\n",
    ] {
        out.extend_from_slice(part);
    }
    let mut has_length = false;
    for (name, value) in &callout.headers {
        let skipped = [&b"host"[..], b"connection"];
        if name.starts_with(b":") || skipped.iter().any(|s| name.eq_ignore_ascii_case(s)) {
            continue;
        }
        has_length |= name.eq_ignore_ascii_case(b"content-length");
        for part in [&name[..], b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    if !has_length {
        let length = format!("Content-Length: {}\r\n", callout.body.len());
        out.extend_from_slice(length.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Reads more; false at the end of the stream.
async fn more(
    stream: &mut Box<dyn Stream>,
    patience: Duration,
    into: &mut Vec<u8>,
) -> Result<bool, Failure> {
    let mut buffer = vec![0; 16 * 1024];
    let size = limit(patience, stream.read(&mut buffer)).await?;
    into.extend(buffer.into_iter().take(size));
    Ok(size > 0)
}

async fn read(stream: &mut Box<dyn Stream>, patience: Duration) -> Result<Answer, Failure> {
    let mut received = Vec::new();
    let head = loop {
        if let Some(head) = Head::parse(&received)? {
            break head;
        }
        if !more(stream, patience, &mut received).await? {
            return Err(Failure::Broken);
        }
    };
    let mut answer = Answer {
        headers: head.fields,
        status: "ok",
        ..Answer::default()
    };
    let mut rest = received.split_off(head.size);
    match head.framing {
        // Read to the end of the connection by others, and lost here.
        Framing::None => {}
        Framing::Length(length) => {
            answer.size = length;
            while rest.len() < length && more(stream, patience, &mut rest).await? {}
            if rest.len() >= length {
                rest.truncate(length);
                answer.body = Some(rest.into());
            }
        }
        Framing::Chunked => {
            let body = loop {
                match dechunk(&rest)? {
                    Some(body) => break Some(body),
                    None if more(stream, patience, &mut rest).await? => {}
                    None => break None,
                }
            };
            answer.size = body.as_ref().map_or(0, Vec::len);
            answer.body = body.map(Bytes::from);
        }
    }
    Ok(answer)
}

enum Framing {
    None,
    Length(usize),
    Chunked,
}

struct Head {
    fields: Vec<(Bytes, Bytes)>,
    framing: Framing,
    size: usize,
}

impl Head {
    fn parse(received: &[u8]) -> Result<Option<Self>, Failure> {
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut response = httparse::Response::new(&mut headers);
        let size = match response.parse(received) {
            Ok(httparse::Status::Complete(size)) => size,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Failure::Broken),
        };
        let status = response.code.unwrap_or(0).to_string();
        let mut fields: Vec<(Bytes, Bytes)> = vec![
            (":status".into(), status.into()),
            (":dispatch_status".into(), "ok".into()),
        ];
        let mut framing = Framing::None;
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let text = std::str::from_utf8(header.value).map_err(|_| Failure::Broken)?;
                framing = Framing::Length(text.trim().parse().map_err(|_| Failure::Broken)?);
            }
            if header.name.eq_ignore_ascii_case("transfer-encoding") {
                framing = Framing::Chunked;
            }
            fields.push((
                Bytes::copy_from_slice(header.name.as_bytes()),
                Bytes::copy_from_slice(header.value),
            ));
        }
        Ok(Some(Head {
            fields,
            framing,
            size,
        }))
    }
}

/// The body of a chunked message, if it is whole.
fn dechunk(mut rest: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let mut body = Vec::new();
    loop {
        let (at, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete((at, size))) => (at, size),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Failure::Broken),
        };
        let size = usize::try_from(size).map_err(|_| Failure::Broken)?;
        if size == 0 {
            return Ok(Some(body));
        }
        let Some(chunk) = rest.get(at..at + size) else {
            return Ok(None);
        };
        body.extend_from_slice(chunk);
        rest = rest.get(at + size + 2..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Seen in a complete Kong: the service had said 401, and the filter was told nothing of it.
    #[tokio::test]
    async fn an_answer_that_does_not_wait_for_the_body_is_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sent, told) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut head).await.unwrap();
            }
            let answer = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            drop(stream);
            sent.send(()).unwrap();
        });
        let callout = Callout {
            resolver: false,
            target: address.to_string(),
            headers: vec![
                (":method".into(), "POST".into()),
                (":path".into(), "/".into()),
            ],
            // More than the socket takes without its peer.
            body: vec![0; 8 << 20].into(),
            timeout: Duration::from_secs(20),
        };
        let answer = make(callout).await;
        told.await.unwrap();
        assert!(answer.headers.is_empty(), "{answer:?}");
        assert_eq!(answer.status, "broken connection");
    }
}
