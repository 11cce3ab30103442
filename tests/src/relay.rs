//! Servers inside the test: one that answers whatever a test wants, and one that stands between
//! Envoy and the idempotency service.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use idempotency_protocol::{Answer, Operation, Request, Response, OPERATIONS_PATH};

/// Longest a held call waits for its release, should a test forget it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that such a server has received.
#[derive(Debug, Clone)]
pub struct Received {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Received {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name);
        values.next().map(|(_, value)| value.as_str())
    }

    /// Whether it carries an operation of this name (`acquire`, `complete`, …).
    pub fn is(&self, operation: &str) -> bool {
        self.operations().iter().any(|o| o.name() == operation)
    }

    /// The operations that it carries, if it is a call of the gateway.
    pub fn operations(&self) -> Vec<Operation> {
        if self.target != OPERATIONS_PATH {
            return Vec::new();
        }
        let decoded = Request::decode(Bytes::from(self.body.clone()));
        let items = decoded.map(|received| received.items).unwrap_or_default();
        items.into_iter().flatten().collect()
    }

    fn read(stream: &mut TcpStream) -> Option<Self> {
        let mut octets = Vec::new();
        let end = loop {
            if let Some(at) = octets.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            read_some(stream, &mut octets)?;
        };
        let head = String::from_utf8_lossy(&octets[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut received = Self {
            method,
            target,
            headers,
            body: Vec::new(),
        };
        let length = received.header("content-length").unwrap_or("0");
        let length: usize = length.parse().ok()?;
        let mut body = octets.split_off(end + 4);
        while body.len() < length {
            read_some(stream, &mut body)?;
        }
        received.body = body;
        Some(received)
    }
}

/// Appends what comes next; `None` at the end.
fn read_some(stream: &mut TcpStream, octets: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 16 * 1024];
    let size = stream.read(&mut buffer).ok().filter(|size| *size > 0)?;
    octets.extend_from_slice(&buffer[..size]);
    Some(())
}

/// What is written to the connection before it is closed; `None`: nothing.
pub type Raw = Option<Vec<u8>>;

type Handler = dyn Fn(&Received) -> Raw + Send + Sync;

/// A small HTTP/1.1 server: one request per connection, answered by a closure that may take its
/// time.
pub struct Server {
    address: SocketAddr,
    handler: Arc<RwLock<Arc<Handler>>>,
    stopped: Arc<AtomicBool>,
}

impl Server {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub fn start(handler: impl Fn(&Received) -> Raw + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let handler: Arc<Handler> = Arc::new(handler);
        let handler = Arc::new(RwLock::new(handler));
        let stopped = Arc::new(AtomicBool::new(false));
        let server = Self {
            address,
            handler: handler.clone(),
            stopped: stopped.clone(),
        };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let handler = handler.clone();
                thread::spawn(move || serve(stream, &handler));
            }
        });
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers the next requests by another closure.
    pub fn handle(&self, handler: impl Fn(&Received) -> Raw + Send + Sync + 'static) {
        let mut slot = self.handler.write().unwrap_or_else(PoisonError::into_inner);
        *slot = Arc::new(handler);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; it leaves, and the port is free.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, handler: &RwLock<Arc<Handler>>) {
    let _ = stream.set_nodelay(true);
    let Some(received) = Received::read(&mut stream) else {
        return;
    };
    let handler = handler
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if let Some(answer) = handler(&received) {
        let _ = stream.write_all(&answer);
    }
}

/// A raw answer whose connection is closed after it.
pub fn raw(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// A raw answer of an idempotency service.
pub fn answers(answers: Vec<Answer>) -> Vec<u8> {
    raw(200, "", &Response { answers }.encode())
}

/// Stands between Envoy and the service. What a test does not touch passes.
pub struct Relay {
    server: Server,
    target: Arc<RwLock<Option<SocketAddr>>>,
}

/// One call of the gateway on its way through a [`Relay`].
pub struct Call<'a> {
    /// The call.
    pub received: &'a Received,
    target: SocketAddr,
}

impl Call<'_> {
    /// Whether it carries an operation of this name.
    pub fn is(&self, operation: &str) -> bool {
        self.received.is(operation)
    }

    /// Asks the service and returns its raw answer; `None` if it gives none.
    pub fn forward(&self) -> Raw {
        let mut stream = TcpStream::connect(self.target).ok()?;
        let Received {
            method,
            target,
            headers,
            body,
        } = self.received;
        let mut head = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
        for (name, value) in headers.iter().filter(|(n, _)| n != "connection") {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(answer).filter(|answer| !answer.is_empty())
    }
}

impl Relay {
    /// Starts one that passes everything on, once it is told where to.
    pub fn start() -> Self {
        let target = Arc::new(RwLock::new(None));
        let server = Server::start(through(target.clone(), |call| call.forward()));
        Self { server, target }
    }

    /// Where it listens: the service's address for Envoy.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Where the service is.
    pub fn lead_to(&self, service: SocketAddr) {
        let mut slot = self.target.write().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(service);
    }

    /// Does something else with the next calls.
    pub fn on_call(&self, hook: impl Fn(&Call) -> Raw + Send + Sync + 'static) {
        self.server.handle(through(self.target.clone(), hook));
    }

    /// Passes the next calls on.
    pub fn pass(&self) {
        self.on_call(|call| call.forward());
    }
}

fn through(
    target: Arc<RwLock<Option<SocketAddr>>>,
    hook: impl Fn(&Call) -> Raw + Send + Sync + 'static,
) -> impl Fn(&Received) -> Raw + Send + Sync + 'static {
    move |received| {
        let target = (*target.read().unwrap_or_else(PoisonError::into_inner))?;
        hook(&Call { received, target })
    }
}

/// A place where calls stop until they are let go.
#[derive(Debug)]
pub struct Gate {
    open: AtomicBool,
    arrivals: Mutex<mpsc::Sender<()>>,
    arrived: Mutex<mpsc::Receiver<()>>,
}

impl Default for Gate {
    fn default() -> Self {
        let (arrivals, arrived) = mpsc::channel();
        Self {
            open: AtomicBool::new(false),
            arrivals: Mutex::new(arrivals),
            arrived: Mutex::new(arrived),
        }
    }
}

impl Gate {
    /// Called at the gate: returns when it is open.
    pub fn stop_here(&self) {
        let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = arrivals.send(());
        drop(arrivals);
        idempotency_stack::until(PATIENCE, || self.open.load(Ordering::Acquire));
    }

    /// Waits until somebody is at the gate.
    ///
    /// # Panics
    ///
    /// If nobody comes.
    pub fn await_arrival(&self) {
        let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let arrival = arrived.recv_timeout(Duration::from_secs(20));
        assert!(arrival.is_ok(), "nobody came to the gate within 20 s");
    }

    /// Lets everybody go, those to come too.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
    }
}
