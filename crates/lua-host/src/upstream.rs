//! An upstream that counts what it executes, and misbehaves where a request asks for it (`X-Do`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// One request that was executed.
#[derive(Clone, Debug)]
pub struct Execution {
    /// Method and target as they came.
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Execution {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        all.find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

#[derive(Default)]
struct State {
    executed: Mutex<Vec<Execution>>,
    /// Answers that wait ([`Upstream::go_on`]).
    gate: Mutex<u64>,
    opened: Condvar,
}

/// A running upstream. (Its threads end with the program.)
#[derive(Clone)]
pub struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
}

impl Upstream {
    /// Starts it on a free port.
    pub fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Upstream { address, state }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was executed with this key, in its order.
    pub fn executed(&self, key: &str) -> Vec<Execution> {
        let executed = self.state.executed.lock().unwrap();
        let of_key = |e: &&Execution| e.header("idempotency-key") == Some(key);
        executed.iter().filter(of_key).cloned().collect()
    }

    /// Waits until this key was executed.
    pub fn await_execution(&self, key: &str) {
        let there = || !self.executed(key).is_empty();
        assert!(crate::process::until(Duration::from_secs(10), there));
    }

    /// Lets one answer go on that waits (`X-Do: wait`).
    pub fn go_on(&self) {
        *self.state.gate.lock().unwrap() += 1;
        self.state.opened.notify_all();
    }
}

impl State {
    fn wait(&self) {
        let gate = self.gate.lock().unwrap();
        let patience = Duration::from_secs(20);
        let (mut gate, _) = self
            .opened
            .wait_timeout_while(gate, patience, |open| *open == 0)
            .unwrap();
        *gate = gate.saturating_sub(1);
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Execution> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut headers = Vec::new();
    loop {
        let mut field = String::new();
        reader.read_line(&mut field).ok()?;
        let field = field.trim_end();
        if field.is_empty() {
            break;
        }
        let (name, value) = field.split_once(':')?;
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let mut execution = Execution {
        line: line.trim_end().to_owned(),
        headers,
        body: Vec::new(),
    };
    let length = execution.header("content-length");
    let length = length.and_then(|l| l.parse().ok()).unwrap_or(0);
    execution.body = vec![0; length];
    reader.read_exact(&mut execution.body).ok()?;
    Some(execution)
}

/// All bytes, so that whoever takes a body for text is found out.
fn binary(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 % 256) as u8).collect()
}

fn serve(stream: TcpStream, state: &State) {
    let Ok(mut out) = stream.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(stream);
    while let Some(execution) = read(&mut reader) {
        let what = execution.header("x-do").unwrap_or_default().to_owned();
        let number = {
            let mut executed = state.executed.lock().unwrap();
            executed.push(execution);
            executed.len()
        };
        if !answer(&mut out, &what, number, state) {
            return;
        }
    }
}

const HEAD: &str = "Content-Type: application/octet-stream\r\nETag: \"e\"\r\nLocation: /made\r\n\
    Link: <a>; rel=a\r\nLink: <b>; rel=b\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Own: \u{e4}\r\n\
    Idempotency-Replayed: forged\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n";

fn send(out: &mut TcpStream, head: &str, body: &[u8]) -> bool {
    out.write_all(&[head.as_bytes(), body].concat()).is_ok()
}

/// Answers; whether the connection goes on.
fn answer(out: &mut TcpStream, what: &str, number: usize, state: &State) -> bool {
    let plain = |status: &str, extra: &str, body: &[u8]| {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\n{HEAD}{extra}Content-Length: {length}\r\n\r\n");
        (head, body.to_vec())
    };
    let mut body = format!("execution {number} ").into_bytes();
    body.extend(binary(256));
    let (head, body) = match what {
        "reset" => {
            let socket = socket2::SockRef::from(&*out);
            let _ = socket.set_linger(Some(Duration::ZERO));
            return false;
        }
        "close" => return false,
        "silent" => {
            std::thread::sleep(Duration::from_secs(20));
            return false;
        }
        "no-http" => {
            send(out, "hello\r\n\r\n", b"");
            return false;
        }
        "two-lengths" => (
            format!("HTTP/1.1 201 Created\r\n{HEAD}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            b"ab".to_vec(),
        ),
        "cut" => {
            let head = format!("HTTP/1.1 201 Created\r\n{HEAD}Content-Length: 100\r\n\r\n");
            send(out, &head, b"half");
            return false;
        }
        "cut-large" => {
            let head = format!("HTTP/1.1 201 Created\r\n{HEAD}Content-Length: 1000000\r\n\r\n");
            send(out, &head, &binary(300_000));
            return false;
        }
        "cut-chunks" => {
            let head = format!("HTTP/1.1 201 Created\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n");
            send(out, &head, b"5\r\nhello\r\n");
            return false;
        }
        "chunks" => {
            let head = format!("HTTP/1.1 201 Created\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n");
            return send(out, &head, b"5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\n\r\n");
        }
        "trailers" => {
            let head = format!("HTTP/1.1 201 Created\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n");
            return send(out, &head, b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n");
        }
        "to-the-end" => {
            send(out, &format!("HTTP/1.1 201 Created\r\n{HEAD}\r\n"), &body);
            return false;
        }
        "events" => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            send(out, head, b"");
            for event in 0..3 {
                let text = format!("data: {event}\n\n");
                let chunk = format!("{:x}\r\n{text}\r\n", text.len());
                if !send(out, &chunk, b"") {
                    return false;
                }
                state.wait();
            }
            return send(out, "0\r\n\r\n", b"");
        }
        "wait" => {
            state.wait();
            plain("201 Created", "", &body)
        }
        "interim" => {
            send(out, "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n", b"");
            plain("201 Created", "", &body)
        }
        "empty" => plain("201 Created", "", b""),
        "no-content" => (
            "HTTP/1.1 204 No Content\r\nETag: \"e\"\r\n\r\n".to_owned(),
            Vec::new(),
        ),
        "large" => plain("201 Created", "", &binary(1 << 20)),
        status if status.len() == 3 && status.parse::<u16>().is_ok() => {
            plain(&format!("{status} Said"), "", &body)
        }
        _ => plain("201 Created", "", &body),
    };
    send(out, &head, &body)
}
