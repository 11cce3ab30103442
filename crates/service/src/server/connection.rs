//! Serving one connection, within limits.

use super::delivery::{Charged, Delivered, HeldByAnswer};
use super::io::WatchedStream;
use super::strangers::Guest;
use super::watch::{Request, Watch};
use crate::api::{App, Arrival, Dispatch, Problem};
use crate::auth::{Shown, Way};
use crate::budget::{Room, REQUEST_BYTES};
use crate::peer::Address;
use crate::telemetry::refusals::Closed;
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::future::{poll_fn, Future};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

/// Streams of one HTTP/2 connection. Waits and calls share it, so it is well above what one
/// gateway worker keeps in flight; a worker that does not know the limit yet may send more, and
/// have the rest refused. What the streams of callers that are known hold is bounded by the common
/// budget, what those of strangers hold by their account.
const HTTP2_STREAMS: u32 = 4096;
/// Streams of one HTTP/2 connection that its client has reset before we took them up; one more ends
/// the connection, and every call on it. A gateway resets what has timed out, so after a moment
/// in which the service stood still there may be as many of them as of streams. (The library's
/// limit, 20, is for clients that nobody knows.)
const HTTP2_RESET_STREAMS: usize = HTTP2_STREAMS as usize;
/// Pings find HTTP/2 peers that are gone without a word.
const HTTP2_PING: Duration = Duration::from_secs(20);
/// Longest head of an HTTP/2 request, and largest buffer of an HTTP/1.1 connection, in which a
/// head must have room. The longest that a gateway or an operator sends has about 7 KiB.
const HTTP2_HEAD_BYTES: u32 = 16 * 1024;
const HTTP1_BUFFER_BYTES: usize = 32 * 1024;
/// Requests that a connection without a valid token may have open at one time.
const STRANGERS_REQUESTS: usize = 32;

/// What all requests of a connection share.
pub(super) struct ConnectionContext {
    pub app: Arc<App>,
    pub dispatch: Dispatch,
    pub way: Way,
    /// Of the operators' page.
    pub page: bool,
    /// Over TLS.
    pub tls: bool,
    /// What its client showed in the handshake.
    pub shown: Shown,
    pub from: Address,
    pub watch: Arc<Watch>,
    pub guest: Arc<Guest>,
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Http {
    /// Whatever its first bytes say.
    Any,
    /// HTTP/1.1, as was agreed on.
    One,
    /// HTTP/2, as was agreed on.
    Two,
}

impl ConnectionContext {
    /// Serves the stream until it ends, by itself or because it must.
    pub(super) async fn serve<S>(self, stream: S, http: Http)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let connection = Arc::new(self);
        let watched = WatchedStream::new(stream, connection.watch.clone(), connection.tls);
        let stream = TokioIo::new(watched);
        let of_requests = connection.clone();
        let service = service_fn(move |request| of_requests.clone().begin(request));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .max_buf_size(HTTP1_BUFFER_BYTES)
            .header_read_timeout(None);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_pending_accept_reset_streams(HTTP2_RESET_STREAMS)
            .max_header_list_size(HTTP2_HEAD_BYTES)
            .keep_alive_interval(HTTP2_PING)
            .keep_alive_timeout(HTTP2_PING);
        let builder = match http {
            Http::Any => builder,
            Http::One => builder.http1_only(),
            Http::Two => builder.http2_only(),
        };
        let serving = builder.serve_connection(stream, service);
        tokio::pin!(serving);
        let app = &connection.app;
        let gave_way = connection.guest.told_to_go();
        let mut look = tokio::time::interval(app.limits.look_interval());
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut stopping, mut idle) = (false, false);
        let closed = loop {
            tokio::select! {
                biased;
                ended = poll_fn(|cx| {
                    connection.watch.new_round();
                    serving.as_mut().poll(cx)
                }) => {
                    if connection.watch.is_greedy() {
                        break Closed::Greedy;
                    }
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = told_to_go(&gave_way, &connection.watch), if !connection.watch.is_known() => {
                    // It may have shown a token since.
                    if !connection.watch.is_known() {
                        break Closed::GaveWay;
                    }
                }
                () = app.stopping.cancelled(), if !stopping => {
                    stopping = true;
                    serving.as_mut().graceful_shutdown();
                }
                _ = look.tick() => match connection.watch.verdict(&app.limits) {
                    // A gateway is told that the connection ends, and may still send what is on
                    // its way; then it has until the next look.
                    Some(Closed::Idle) if connection.watch.is_known() && !idle => {
                        idle = true;
                        serving.as_mut().graceful_shutdown();
                    }
                    Some(why) => break why,
                    None => {}
                },
            }
        };
        app.metrics.refusals.closed(closed);
        tracing::debug!(from = %connection.from, why = closed.name(), "connection closed");
    }

    /// A head is complete. What is decided here is decided before the next head is looked at.
    fn begin(
        self: Arc<Self>,
        request: hyper::Request<Incoming>,
    ) -> impl Future<Output = io::Result<http::Response<Delivered>>> {
        let arrival = Arrival {
            way: self.way,
            page: self.page,
            from: self.from,
            tls: self.tls,
            presented: self.app.presented(&self.shown, request.headers()),
        };
        if !self.watch.is_known() && self.app.knows(&request, &arrival) {
            self.watch.becomes_known();
            self.guest.leave();
        }
        let open = self.watch.begin(&self.app.limits);
        let charged = (!self.watch.is_known()).then(|| {
            if self.watch.requests() > STRANGERS_REQUESTS {
                self.watch.asks_too_much();
            }
            Charged::new(self.guest.clone(), REQUEST_BYTES)
        });
        async move {
            if self.watch.is_greedy() {
                return Err(io::Error::other("too many requests at once"));
            }
            let response = self.dispatch.answer(request, arrival).await;
            self.deliver(response, open, charged)
        }
    }

    /// Lets the answer hold what it needs until it was taken.
    fn deliver(
        &self,
        mut response: Response,
        request: Request,
        mut charged: Option<Charged>,
    ) -> io::Result<http::Response<Delivered>> {
        let limits = &self.app.limits;
        request.answered(limits);
        let room = match &mut charged {
            Some(charged) => {
                charged.add(length(&response));
                None
            }
            None => Some(self.room(&mut response)?),
        };
        let held = HeldByAnswer {
            _request: request,
            _room: room,
            _charged: charged,
        };
        Ok(response.map(|body| Delivered::new(body, held)))
    }

    /// Room for an answer to a caller that is known. Where there is none, the answer is a refusal;
    /// where there is none for that, none at all.
    fn room(&self, response: &mut Response) -> io::Result<Room> {
        let budget = &self.app.budget;
        if let Some(room) = budget.take_for_answer(length(response)) {
            return Ok(room);
        }
        *response = Problem::overloaded("Too many requests and answers at once.").into_response();
        budget
            .take_for_answer(length(response))
            .ok_or_else(|| io::Error::other("no room for an answer"))
    }
}

/// Ready when a stranger's connection must give way to a newer one.
pub(super) async fn told_to_go(gave_way: &CancellationToken, watch: &Watch) {
    gave_way.cancelled().await;
    tokio::time::sleep(watch.grace()).await;
}

/// Every answer of ours has a known length.
fn length(response: &Response) -> usize {
    let length = response.body().size_hint().lower();
    usize::try_from(length).unwrap_or(usize::MAX)
}
