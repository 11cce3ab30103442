//! Load on the service, over its wire protocol: HTTP/1.1, connections that stay open, one call at a
//! time on each.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use idempotency_protocol::{Operation, Received, Request, Response, CONTENT_TYPE, OPERATIONS_PATH};
use idempotency_stack::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

use crate::work::{acquire, complete, Expected, Lap};

/// Where the service is.
#[derive(Debug, Clone)]
pub enum Place {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// What is asked of it.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where it is.
    pub place: Place,
    /// The gateway's token.
    pub token: String,
    /// Connections that are kept busy.
    pub connections: usize,
    /// Operations in a call.
    pub batch: u64,
    /// How long.
    pub time: Duration,
    /// Not for a time, but until there are so many keys.
    pub keys: Option<u64>,
    /// Names the keys.
    pub run: String,
}

impl Load {
    /// New keys, each acquired and then completed, on one thread: the calling one.
    ///
    /// # Errors
    ///
    /// If a call fails, or an answer is not the expected one.
    pub fn firsts(&self, body: &Bytes) -> Result<Lap, Error> {
        let body = body.clone();
        self.drive(move |run, some| {
            let acquires = some.clone().map(|n| acquire(run, n, n)).collect();
            let completes = some.map(|n| complete(run, n, &body)).collect();
            vec![
                (acquires, Expected::Granted),
                (completes, Expected::Completed),
            ]
        })
    }

    /// Keys 0 to `known`, which are completed, in turn.
    ///
    /// # Errors
    ///
    /// If a call fails, or an answer is not the expected one.
    pub fn replays(&self, known: u64) -> Result<Lap, Error> {
        self.drive(move |run, some| {
            let again = some.map(|n| acquire(run, n % known.max(1), u64::MAX));
            vec![(again.collect(), Expected::Stored)]
        })
    }

    /// So many new keys, each acquired and completed (a batch more where it does not divide them).
    ///
    /// # Errors
    ///
    /// If a call fails, or an answer is not the expected one.
    pub fn exactly(&self, keys: u64, body: &Bytes) -> Result<Lap, Error> {
        Self {
            keys: Some(keys),
            ..self.clone()
        }
        .firsts(body)
    }

    fn drive<F>(&self, calls: F) -> Result<Lap, Error>
    where
        F: Fn(&str, std::ops::Range<u64>) -> Vec<(Vec<Operation>, Expected)>
            + Clone
            + Send
            + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| Error::new(error.to_string()))?;
        runtime.block_on(async {
            let mut open = Vec::new();
            for _ in 0..self.connections {
                open.push(Connection::open(&self.place).await?);
            }
            let next = Arc::new(AtomicU64::new(0));
            let since = Instant::now();
            let mut tasks = JoinSet::new();
            for mut connection in open {
                let (load, next, calls) = (self.clone(), Arc::clone(&next), calls.clone());
                tasks.spawn(async move {
                    let mut took = Vec::new();
                    loop {
                        let first = next.fetch_add(load.batch, Ordering::Relaxed);
                        if load
                            .keys
                            .map_or(since.elapsed() >= load.time, |keys| first >= keys)
                        {
                            break;
                        }
                        for (operations, end) in calls(&load.run, first..first + load.batch) {
                            let count = operations.len();
                            let message = load.message(operations);
                            let begun = Instant::now();
                            let answer = connection.call(&message).await?;
                            took.push(begun.elapsed());
                            let answers = Response::decode(answer).and_then(Received::all);
                            let answers = answers.map_err(|error| error.to_string())?;
                            (0..count).try_for_each(|at| end.check(answers.get(at)))?;
                        }
                    }
                    Ok::<_, String>(took)
                });
            }
            let mut all = Vec::new();
            while let Some(done) = tasks.join_next().await {
                let done = done.map_err(|error| Error::new(error.to_string()))?;
                all.extend(done.map_err(Error::new)?);
            }
            Ok(Lap::of(all, self.batch, since))
        })
    }

    fn message(&self, operations: Vec<Operation>) -> Vec<u8> {
        let body = Request { operations }.encode();
        let mut message = format!(
            "POST {OPERATIONS_PATH} HTTP/1.1\r\nhost: service\r\nauthorization: Bearer {}\r\n\
             content-type: {CONTENT_TYPE}\r\ncontent-length: {}\r\n\r\n",
            self.token,
            body.len()
        )
        .into_bytes();
        message.extend_from_slice(&body);
        message
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

struct Connection {
    stream: Box<dyn Stream>,
    read: Vec<u8>,
}

impl Connection {
    async fn open(place: &Place) -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::new(format!("{place:?}: {error}"));
        let stream: Box<dyn Stream> = match place {
            Place::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                Box::new(stream)
            }
            Place::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(failed)?),
        };
        Ok(Self {
            stream,
            read: Vec::with_capacity(128 << 10),
        })
    }

    /// Sends a message and returns the body of its answer, which must be a 200.
    async fn call(&mut self, message: &[u8]) -> Result<Bytes, String> {
        let failed = |error: std::io::Error| format!("the connection broke: {error}");
        self.stream.write_all(message).await.map_err(failed)?;
        self.read.clear();
        loop {
            if let Some((start, end)) = extent(&self.read)? {
                if self.read.len() >= end {
                    let body = self.read.get(start..end).unwrap_or_default();
                    return Ok(Bytes::copy_from_slice(body));
                }
            }
            let got = self.stream.read_buf(&mut self.read).await.map_err(failed)?;
            if got == 0 {
                return Err("the service closed the connection".to_owned());
            }
        }
    }
}

/// Where the body of an answer begins and ends; `None`: its head is not all there.
fn extent(answer: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let start = head + 4;
    let head = String::from_utf8_lossy(answer.get(..head).unwrap_or_default());
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(format!("not a 200: {head}"));
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let named = name.eq_ignore_ascii_case("content-length");
        named.then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    let length = length.ok_or_else(|| format!("an answer without a length: {head}"))?;
    Ok(Some((start, start + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        assert_eq!(extent(b"HTTP/1.1 200 OK\r\nContent-Le"), Ok(None));
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(extent(answer), Ok(Some((38, 41))));
        assert!(extent(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(extent(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
