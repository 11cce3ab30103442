//! An upstream that reads requests as leniently as any that is out there.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A request as this upstream has understood it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The method that it acts by: that of an override header, if there is one.
    pub method: String,
    /// The path that it acts by.
    pub path: String,
    /// The header fields as WSGI names them, without `HTTP_`, trailers among them; the values of
    /// fields that have one name there are joined by commas.
    pub fields: BTreeMap<String, String>,
}

impl Seen {
    /// A field, by any of its spellings.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(&wsgi_name(name)).map(String::as_str)
    }
}

/// An HTTP/1.1 upstream that reads header names as WSGI does, merges trailers into the headers,
/// believes every header that replaces method or path, and decodes paths until nothing is left to
/// decode. It notes each request under its `X-Run` and answers 201.
#[derive(Debug)]
pub struct Lenient {
    address: SocketAddr,
    seen: Arc<Mutex<BTreeMap<String, Vec<Seen>>>>,
}

impl Lenient {
    /// Starts it. It runs as long as the tests do.
    ///
    /// # Panics
    ///
    /// If there is no port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0");
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = match bound {
            Ok(bound) => bound,
            Err(error) => panic!("no port: {error}"),
        };
        let seen = Arc::<Mutex<BTreeMap<String, Vec<Seen>>>>::default();
        let shared = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = shared.clone();
                // A broken connection is the gateway's affair.
                std::thread::spawn(move || drop(serve(stream, &seen)));
            }
        });
        Self { address, seen }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests of a run, in order.
    pub fn seen(&self, run: &str) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(run).cloned().unwrap_or_default()
    }
}

/// The name of a field in CGI and WSGI.
fn wsgi_name(name: &str) -> String {
    let upper = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_uppercase(),
        false => '_',
    };
    name.chars().map(upper).collect()
}

fn serve(mut stream: TcpStream, seen: &Mutex<BTreeMap<String, Vec<Seen>>>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = Lines {
        stream: &mut stream,
        received: Vec::new(),
    };
    let start = reader.line()?;
    let mut parts = start.split(' ');
    let method = parts.next().unwrap_or_default().to_owned();
    let target = parts.next().unwrap_or_default().to_owned();
    let mut fields = BTreeMap::new();
    reader.fields(&mut fields)?;
    let chunked = fields
        .get("TRANSFER_ENCODING")
        .is_some_and(|v| v.contains("chunked"));
    if chunked {
        loop {
            let size = usize::from_str_radix(reader.line()?.trim(), 16).unwrap_or(0);
            if size == 0 {
                break;
            }
            reader.skip(size + 2)?;
        }
        reader.fields(&mut fields)?;
    } else {
        let length = fields.get("CONTENT_LENGTH").and_then(|v| v.parse().ok());
        reader.skip(length.unwrap_or(0))?;
    }
    let field = |name: &str| fields.get(name).cloned();
    let overridden = [
        "X_HTTP_METHOD_OVERRIDE",
        "X_HTTP_METHOD",
        "X_METHOD_OVERRIDE",
    ]
    .iter()
    .find_map(|name| field(name));
    let moved = field("X_ORIGINAL_URL").or_else(|| field("X_REWRITE_URL"));
    let request = Seen {
        method: overridden.unwrap_or(method).to_ascii_uppercase(),
        path: routed(&moved.unwrap_or(target)),
        fields,
    };
    let run = request.field("x-run").unwrap_or_default().to_owned();
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.entry(run).or_default().push(request);
    drop(seen);
    stream.write_all(
        b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\
          connection: close\r\n\r\nok",
    )
}

/// The path by which this upstream acts.
fn routed(target: &str) -> String {
    let path = target
        .split(['?', '#', ';', '\0'])
        .next()
        .unwrap_or_default();
    let path = match path.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => path,
    };
    let mut path = path.as_bytes().to_vec();
    for _ in 0..3 {
        path = decoded(&path);
    }
    let text = String::from_utf8_lossy(&path);
    let text: String = text.chars().map(in_ascii).collect();
    let mut kept: Vec<&str> = Vec::new();
    for segment in text.split(['/', '\\']) {
        match segment.trim_start().trim_end_matches(['.', ' ']) {
            "" if segment.trim() == ".." => drop(kept.pop()),
            "" => {}
            script if script.ends_with(".php") => {}
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

fn in_ascii(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => {
            let code = u32::from(c) - 0xff01 + 0x21;
            char::from_u32(code).unwrap_or(c)
        }
        '\u{2044}' | '\u{2215}' => '/',
        c => c,
    }
}

/// `%XX` and `%uXXXX` decoded once.
fn decoded(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = path;
    let hex = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let wide = tail.strip_prefix(b"u").and_then(|t| t.get(..4));
        let narrow = tail.get(..2);
        if let Some(c) = wide.and_then(hex).and_then(char::from_u32) {
            out.extend_from_slice(c.to_string().as_bytes());
            rest = tail.get(5..).unwrap_or_default();
        } else if let Some(value) = narrow.and_then(hex).and_then(|v| u8::try_from(v).ok()) {
            out.push(value);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            out.push(b'%');
        }
    }
    out
}

struct Lines<'s> {
    stream: &'s mut TcpStream,
    received: Vec<u8>,
}

impl Lines<'_> {
    fn more(&mut self) -> std::io::Result<()> {
        let mut piece = [0; 16 * 1024];
        let size = self.stream.read(&mut piece)?;
        self.received
            .extend_from_slice(piece.get(..size).unwrap_or_default());
        match size {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(end) = self.received.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.received.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.more()?;
        }
    }

    fn skip(&mut self, bytes: usize) -> std::io::Result<()> {
        while self.received.len() < bytes {
            self.more()?;
        }
        self.received.drain(..bytes);
        Ok(())
    }

    fn fields(&mut self, fields: &mut BTreeMap<String, String>) -> std::io::Result<()> {
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                return Ok(());
            };
            let joined = fields.entry(wsgi_name(name)).or_default();
            if !joined.is_empty() {
                joined.push(',');
            }
            joined.push_str(value.trim());
        }
    }
}
