//! The clients: each keeps one connection busy.

use crate::Error;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Octets of a request's body, and of its answer's.
pub const BODY: usize = 200;

/// The keys that a run sends.
#[derive(Clone)]
pub enum Keys {
    /// A new one with every request.
    Unique(String),
    /// These in turn: the prefix, followed by 0, 1, ….
    Cycle(String, u64),
}

/// One run.
pub struct Load {
    pub address: SocketAddr,
    pub connections: usize,
    pub duration: Duration,
    pub keys: Keys,
}

impl Keys {
    fn request(&self, number: u64, to: &mut Vec<u8>) {
        let (prefix, number) = match self {
            Keys::Unique(prefix) => (prefix, number),
            Keys::Cycle(prefix, count) => (prefix, number % count),
        };
        to.clear();
        let _ = write!(
            to,
            "POST /charges HTTP/1.1\r\nHost: bench.invalid\r\nContent-Type: application/json\r\n\
             Content-Length: {BODY}\r\nIdempotency-Key: {prefix}{number}\r\n\r\n"
        );
        to.resize(to.len() + BODY, b'b');
    }
}

impl Load {
    /// Answers, and how long it took.
    pub fn run(&self) -> Result<(u64, Duration), Error> {
        self.drive(u64::MAX, Some(self.duration))
    }

    /// Each key once.
    pub fn each_once(&self, count: u64) -> Result<(), Error> {
        self.drive(count, None).map(drop)
    }

    fn drive(&self, most: u64, duration: Option<Duration>) -> Result<(u64, Duration), Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let (next, answers) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let begun = Instant::now();
            let mut clients = Vec::new();
            for _ in 0..self.connections {
                let (next, answers, keys) = (next.clone(), answers.clone(), self.keys.clone());
                let mut stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                clients.push(tokio::spawn(async move {
                    let (mut request, mut answer) = (Vec::new(), Vec::new());
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= most || duration.is_some_and(|d| begun.elapsed() >= d) {
                            return Ok(());
                        }
                        keys.request(number, &mut request);
                        stream.write_all(&request).await?;
                        read(&mut stream, &mut answer).await?;
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                }));
            }
            for client in clients {
                let ended: Result<(), std::io::Error> = client.await?;
                ended?;
            }
            Ok((answers.load(Ordering::Relaxed), begun.elapsed()))
        })
    }
}

/// One answer, which must be 201 with the expected body.
async fn read(stream: &mut TcpStream, answer: &mut Vec<u8>) -> std::io::Result<()> {
    let wrong = |what: &[u8]| std::io::Error::other(String::from_utf8_lossy(what).into_owned());
    answer.clear();
    loop {
        if stream.read_buf(answer).await? == 0 {
            return Err(wrong(b"the server has closed the connection"));
        }
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
        match end {
            Some(end) if answer.len() >= end + 4 + BODY => break,
            Some(_) if !answer.starts_with(b"HTTP/1.1 201") => return Err(wrong(answer)),
            _ => {}
        }
    }
    let right = answer.starts_with(b"HTTP/1.1 201 ") && answer.ends_with(&[b'a'; BODY]);
    right.then_some(()).ok_or_else(|| wrong(answer))
}

/// The body of an answer, on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> Result<String, Error> {
    let mut stream = std::net::TcpStream::connect(address)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    Ok(body.to_owned())
}
