//! An ordinary client: one connection, HTTP/1.1 or HTTP/2.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::Runtime;
use tokio::sync::{watch, Mutex};

use crate::answer::{Answer, Broken};
use crate::gap;
use crate::pieces::pieces;
use crate::request::Request;

/// How long an answer may take in all. Longer than any wait that tests configure.
const PATIENCE: Duration = Duration::from_secs(60);

/// Size of the pieces of a body that is held.
const HELD_PIECE: usize = 16 * 1024;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
type Body = BoxBody<Bytes, Error>;

/// The protocol between client and gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    /// HTTP/1.1.
    One,
    /// HTTP/2 with prior knowledge.
    Two,
}

impl Http {
    /// Both, for tests that hold for either.
    pub const BOTH: [Http; 2] = [Http::One, Http::Two];
}

enum Sender {
    One(Mutex<http1::SendRequest<Body>>),
    Two(http2::SendRequest<Body>),
}

/// A connection to the gateway. Requests on it share it: one after the other over HTTP/1.1,
/// together over HTTP/2 (from several threads).
pub struct Connection {
    address: SocketAddr,
    sender: Sender,
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let built = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        match built {
            Ok(runtime) => runtime,
            Err(error) => panic!("no runtime: {error}"),
        }
    })
}

impl Connection {
    /// Connects.
    ///
    /// # Panics
    ///
    /// If nobody listens there.
    pub fn new(http: Http, address: SocketAddr) -> Self {
        match Self::try_new(http, address) {
            Ok(connection) => connection,
            Err(error) => panic!("cannot connect to {address}: {error}"),
        }
    }

    /// Connects, where nobody may listen.
    ///
    /// # Errors
    ///
    /// If nobody does.
    pub fn try_new(http: Http, address: SocketAddr) -> Result<Self, Error> {
        let sender = runtime().block_on(connect(http, address))?;
        Ok(Self { address, sender })
    }

    /// Connects with HTTP/1.1.
    ///
    /// # Panics
    ///
    /// If nobody listens there.
    pub fn http1(address: SocketAddr) -> Self {
        Self::new(Http::One, address)
    }

    /// Connects with HTTP/2.
    ///
    /// # Panics
    ///
    /// If nobody listens there.
    pub fn http2(address: SocketAddr) -> Self {
        Self::new(Http::Two, address)
    }

    /// Sends a request and reads its answer.
    ///
    /// # Panics
    ///
    /// Without a whole answer.
    pub fn send(&self, request: &Request) -> Answer {
        match self.try_send(request) {
            Ok(answer) => answer,
            Err(broken) => panic!(
                "no whole answer to {} {}: {broken:?}",
                request.method, request.target
            ),
        }
    }

    /// As [`Self::send`], for requests whose answer may be cut.
    ///
    /// # Errors
    ///
    /// Without a whole answer.
    ///
    /// # Panics
    ///
    /// If the request is none, e.g. a header value with a line feed.
    pub fn try_send(&self, request: &Request) -> Result<Answer, Broken> {
        gap::bridge(request, || runtime().block_on(self.ask(request)))
    }

    async fn ask(&self, request: &Request) -> Result<Answer, Broken> {
        let answer = tokio::time::timeout(PATIENCE, self.exchange(request));
        answer.await.unwrap_or_else(|_| {
            Err(Broken {
                partial: None,
                why: format!("no whole answer within {PATIENCE:?}"),
            })
        })
    }

    /// Sends a request, waits for a condition and then takes the request back: over HTTP/2 the
    /// stream is reset and the connection stays.
    ///
    /// # Panics
    ///
    /// If the condition does not come about.
    pub fn start_and_cancel(&self, request: &Request, condition: impl FnMut() -> bool) {
        let cancelled = tokio::sync::Notify::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                runtime().block_on(async {
                    tokio::select! {
                        answer = self.exchange(request) => panic!("answered: {answer:?}"),
                        () = cancelled.notified() => {}
                    }
                });
            });
            crate::eventually("the request can be cancelled", condition);
            cancelled.notify_one();
        });
    }

    /// Starts so many requests together over HTTP/2, with bodies that lack their end, and holds them
    /// until `done` returns; it is told how many bytes of bodies the gateway has taken.
    ///
    /// # Panics
    ///
    /// Over HTTP/1.1, and if the request is none.
    pub fn hold(&self, request: &Request, times: usize, done: impl FnOnce(&AtomicU64)) {
        let Sender::Two(sender) = &self.sender else {
            panic!("one request at a time over HTTP/1.1");
        };
        let taken = Arc::new(AtomicU64::new(0));
        let (over, _) = watch::channel(false);
        let tasks: Vec<_> = (0..times)
            .map(|_| {
                let mut head = request.clone();
                head.body.clear();
                let Ok((built, _)) = self.build(&head) else {
                    panic!("{} {} is no request", request.method, request.target);
                };
                let (feed, body) = pieces();
                let built = built.map(|_| body.boxed());
                let (mut sender, taken) = (sender.clone(), taken.clone());
                let body = Bytes::from(request.body.clone());
                let mut over = over.subscribe();
                runtime().spawn(async move {
                    let answer = sender.send_request(built);
                    let feeding = async {
                        let pieces = async {
                            for at in (0..body.len()).step_by(HELD_PIECE) {
                                let piece = body.slice(at..body.len().min(at + HELD_PIECE));
                                let size = piece.len() as u64;
                                if !feed.send(Frame::data(piece)).await {
                                    return;
                                }
                                taken.fetch_add(size, Ordering::Relaxed);
                            }
                            std::future::pending::<()>().await;
                        };
                        tokio::select! {
                            () = pieces => {}
                            _ = over.changed() => {}
                        }
                        // A body that is only let go of ends as if it were whole.
                        feed.cut();
                    };
                    let _ = tokio::join!(answer, feeding);
                })
            })
            .collect();
        done(&taken);
        over.send_replace(true);
        runtime().block_on(async {
            for task in tasks {
                let _ = task.await;
            }
        });
    }

    async fn exchange(&self, request: &Request) -> Result<Answer, Broken> {
        let (request, feed) = match self.build(request) {
            Ok(built) => built,
            Err(error) => panic!("{} {}: {error}", request.method, request.target),
        };
        if let Some(feed) = feed {
            // An answer may come before the body is sent; then its rest goes nowhere.
            tokio::spawn(feed);
        }
        let sent = match &self.sender {
            Sender::One(sender) => {
                let mut sender = sender.lock().await;
                match sender.ready().await {
                    Ok(()) => sender.send_request(request).await,
                    Err(error) => Err(error),
                }
            }
            Sender::Two(sender) => sender.clone().send_request(request).await,
        };
        let response = sent.map_err(|error| Broken {
            partial: None,
            why: words(&error),
        })?;
        read(response).await
    }

    fn build(
        &self,
        request: &Request,
    ) -> Result<
        (
            hyper::Request<Body>,
            Option<impl std::future::Future<Output = ()>>,
        ),
        Error,
    > {
        let uri = match self.sender {
            Sender::One(_) => request.target.clone(),
            Sender::Two(_) => format!("http://localhost{}", request.target),
        };
        let mut builder = hyper::Request::builder()
            .method(request.method.as_str())
            .uri(uri);
        if matches!(self.sender, Sender::One(_)) && !request.has("host") {
            builder = builder.header("host", "localhost");
        }
        for (name, value) in &request.headers {
            builder = builder.header(name.as_str(), HeaderValue::from_bytes(value)?);
        }
        let Some(size) = request.chunks else {
            let body = Full::new(Bytes::from(request.body.clone()));
            let body = body.map_err(|never| match never {}).boxed();
            return Ok((builder.body(body)?, None));
        };
        let mut trailers = HeaderMap::new();
        for (name, value) in &request.trailers {
            trailers.append(
                HeaderName::from_bytes(name.as_bytes())?,
                HeaderValue::from_bytes(value)?,
            );
        }
        if !trailers.is_empty() && matches!(self.sender, Sender::One(_)) {
            for name in trailers.keys() {
                builder = builder.header("trailer", name.as_str());
            }
        }
        let (sender, body) = pieces();
        let pieces: Vec<_> = request
            .body
            .chunks(size)
            .map(Bytes::copy_from_slice)
            .collect();
        let feed = async move {
            for piece in pieces {
                if !sender.send(Frame::data(piece)).await {
                    return;
                }
            }
            if !trailers.is_empty() {
                let _ = sender.send(Frame::trailers(trailers)).await;
            }
        };
        Ok((builder.body(body.boxed())?, Some(feed)))
    }

    /// Where it leads.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn connect(http: Http, address: SocketAddr) -> Result<Sender, Error> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let io = TokioIo::new(stream);
    // The connections' errors reach the requests on them.
    Ok(match http {
        Http::One => {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Sender::One(Mutex::new(sender))
        }
        Http::Two => {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Sender::Two(sender)
        }
    })
}

async fn read(response: hyper::Response<Incoming>) -> Result<Answer, Broken> {
    let (parts, mut body) = response.into_parts();
    let mut answer = Answer {
        status: parts.status.as_u16(),
        headers: pairs(&parts.headers),
        ..Answer::default()
    };
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                return Err(Broken {
                    partial: Some(answer),
                    why: words(&error),
                })
            }
        };
        match frame.into_data() {
            Ok(data) => answer.body.extend_from_slice(&data),
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    answer.trailers = pairs(&trailers);
                }
            }
        }
    }
    Ok(answer)
}

fn pairs(map: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    map.iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_owned()))
        .collect()
}

/// An error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(&format!(": {error}"));
        cause = error.source();
    }
    words
}
