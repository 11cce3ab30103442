//! An upstream that answers word for word.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What it answers to requests whose path ends so.
pub type Script = &'static [(&'static str, &'static [u8])];

/// An HTTP/1.1 upstream that answers with the bytes of its script and closes the connection. It
/// counts what it was asked under the request's `Idempotency-Key`.
#[derive(Debug)]
pub struct Scripted {
    address: SocketAddr,
    counts: Arc<Mutex<HashMap<String, u64>>>,
}

impl Scripted {
    /// Starts it. It runs as long as the tests do.
    ///
    /// # Panics
    ///
    /// If there is no port.
    pub fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0");
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = match bound {
            Ok(bound) => bound,
            Err(error) => panic!("no port: {error}"),
        };
        let counts = Arc::<Mutex<HashMap<String, u64>>>::default();
        let shared = counts.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counts = shared.clone();
                // A broken connection is the gateway's affair.
                std::thread::spawn(move || drop(serve(stream, script, &counts)));
            }
        });
        Self { address, counts }
    }

    /// How often a request with this key has arrived.
    pub fn executions(&self, key: &str) -> u64 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(key).copied().unwrap_or(0)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn serve(
    mut stream: TcpStream,
    script: Script,
    counts: &Mutex<HashMap<String, u64>>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut received = Vec::new();
    let end = loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        read_more(&mut stream, &mut received)?;
    };
    let head = String::from_utf8_lossy(received.get(..end).unwrap_or_default()).into_owned();
    let field = |name: &str| {
        let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let found = lines.find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_owned())
    };
    let length: usize = field("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    while received.len() < end + 4 + length {
        read_more(&mut stream, &mut received)?;
    }
    let key = field("idempotency-key").unwrap_or_default();
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.entry(key).or_insert(0) += 1;
    drop(counts);
    let path = head.split(' ').nth(1).unwrap_or_default();
    let line = script
        .iter()
        .find(|(name, _)| path.ends_with(name))
        .map(|(_, answer)| *answer);
    stream.write_all(line.unwrap_or(b"HTTP/1.1 404 Not In The Script\r\ncontent-length: 0\r\n\r\n"))
}

fn read_more(stream: &mut TcpStream, received: &mut Vec<u8>) -> std::io::Result<()> {
    let mut piece = [0; 64 * 1024];
    let size = stream.read(&mut piece)?;
    received.extend_from_slice(piece.get(..size).unwrap_or_default());
    if size == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
