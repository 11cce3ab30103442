//! Case 9: SIGTERM drains. This program is the server, too, in a process of its own: signals are for
//! processes.

use axum::routing::post;
use axum::Router;
use idempotency::http::IdempotencyLayer;
use idempotency::store::{Embedded, EmbeddedOptions};
use idempotency::Guard;
use rustix::process::{kill_process, Pid, Signal};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// In the server's environment: where its store is.
const STORE: &str = "SIGTERM_TEST_STORE";

fn main() {
    match std::env::var_os(STORE) {
        Some(store) => serve(Path::new(&store)),
        None => {
            println!("running 1 test");
            case_9_sigterm_drains();
            println!("test case_9_sigterm_drains ... ok");
        }
    }
}

/// Its handlers end when a line comes on stdin; what happens is told on stdout, line by line.
#[tokio::main]
async fn serve(store: &Path) {
    let store = Embedded::open(EmbeddedOptions::new(store)).expect("a store");
    let guard = Guard::new(Arc::new(store));
    let layer = IdempotencyLayer::new(guard.clone()).global();
    let (leave, leaves) = mpsc::channel::<()>(1);
    std::thread::spawn(move || {
        for _ in std::io::stdin().lines() {
            let _ = leave.blocking_send(());
        }
    });
    let leaves = Arc::new(tokio::sync::Mutex::new(leaves));
    let create = move || {
        let leaves = Arc::clone(&leaves);
        async move {
            println!("runs");
            leaves.lock().await.recv().await;
            "created"
        }
    };
    let app = Router::new().route("/orders", post(create)).layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .expect("a signal handler");
    let stop = async move {
        term.recv().await;
        println!("stops");
    };
    let server = axum::serve(listener, app).with_graceful_shutdown(stop);
    server.await.expect("a server");
    println!("closed");
    let drained = guard.drain(Duration::from_secs(20)).await;
    guard.store().close().await;
    println!("drained: {drained}");
}

struct Server {
    child: Child,
    told: BufReader<std::process::ChildStdout>,
    address: SocketAddr,
}

impl Server {
    fn start(store: &Path) -> Server {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new(program)
            .env(STORE, store)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        let address = line.trim().parse().unwrap();
        Server {
            child,
            told,
            address,
        }
    }

    fn await_line(&mut self, wanted: &str) {
        let mut line = String::new();
        self.told.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), wanted);
    }

    fn begin(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let request = "POST /orders HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\
                       idempotency-key: k\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    fn terminate(&self) {
        let id = Pid::from_child(&self.child);
        kill_process(id, Signal::TERM).unwrap();
    }

    fn let_handler_go(&mut self) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(b"\n").unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn case_9_sigterm_drains() {
    let dir = tempfile::tempdir().unwrap();
    // Without a client: the handler is the drain's to wait for.
    let mut server = Server::start(dir.path());
    let client = server.begin();
    server.await_line("runs");
    drop(client);
    server.terminate();
    server.await_line("stops");
    server.await_line("closed");
    server.let_handler_go();
    server.await_line("drained: true");
    assert!(server.child.wait().unwrap().success());

    let server = Server::start(dir.path());
    let replay = read(server.begin());
    assert!(replay.contains("idempotency-replayed: true"), "{replay}");
    assert!(replay.ends_with("created"), "{replay}");
    drop(server);

    // With a client: it gets its answer.
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let client = server.begin();
    server.await_line("runs");
    server.terminate();
    server.await_line("stops");
    server.let_handler_go();
    let answer = read(client);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("created"), "{answer}");
    server.await_line("closed");
    server.await_line("drained: true");
    assert!(server.child.wait().unwrap().success());
}
