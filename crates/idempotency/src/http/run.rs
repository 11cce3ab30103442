//! What runs a handler. It belongs to the guard, not to the client's connection.

use super::head;
use super::not_sent::source;
use super::request_body::{Pieces, RequestBody};
use super::response_body::{Cut, Piece, ResponseBody};
use super::service::LayerContext;
use super::{answer, BoxError};
use crate::claim::Claim;
use crate::counters::Counter;
use crate::patience::{unless_cut, until};
use crate::settle::Settled;
use bytes::Bytes;
use http::header::{HeaderName, CONTENT_TYPE};
use http::response::Parts;
use http::{HeaderMap, Request as HttpRequest, Response};
use http_body::{Body, Frame};
use idempotency_core::config::OnCompleteFailure;
use idempotency_core::ending::{End, Ending};
use idempotency_core::problem::Problem;
use idempotency_core::reply;
use idempotency_core::request::Request;
use std::future::{poll_fn, Future};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::{pin, Pin};
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{timeout_at, Instant};
use tower_service::Service;

/// Answers of known length up to this wait whole: the client sees nothing before the record is stored, and
/// the record's expiry can travel in a header.
const HOLD_LIMIT: u64 = 64 * 1024;
/// Pieces of a streamed answer that wait for a slow client.
const QUEUE: usize = 2;

/// A running execution.
pub(super) struct Run {
    pub context: Arc<LayerContext>,
    pub request: Arc<Request>,
    pub claim: Claim,
    /// The fence that the request is executed under.
    pub fence: u64,
}

/// What the layer answers, or the inner service's error.
pub(super) type LayerAnswer<R, E> = Result<Response<ResponseBody<R>>, E>;

/// Runs it; the answer, or nothing if it ended without one.
///
/// It begins in the caller's task. As soon as it has to wait for anything it moves to a task of its own, before the
/// caller can be dropped. One that never waits (a handler with everything in memory, a store in memory) costs no task,
/// and the server's connection no second turn.
pub(super) fn start<S, B, R>(
    run: Run,
    mut inner: S,
    request: HttpRequest<RequestBody<B>>,
) -> impl Future<Output = Option<LayerAnswer<R, S::Error>>> + Send
where
    S: Service<HttpRequest<RequestBody<B>>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let (teller, answer) = oneshot::channel();
    let tasks = run.context.guard.shared.tasks.clone();
    let work = Box::pin(async move {
        let call = async move { inner.call(request).await };
        run.execute(call, teller).await;
    });
    // What it was made of is not kept beside it.
    async move {
        if let Some(work) = begun(work).await {
            tasks.spawn(work);
        }
        answer.await.ok()
    }
}

/// Polls it once, and gives it back if it has not ended.
async fn begun<F: Future<Output = ()>>(work: Pin<Box<F>>) -> Option<Pin<Box<F>>> {
    let mut work = Some(work);
    poll_fn(|cx| {
        let ended = work
            .as_mut()
            .is_none_or(|work| work.as_mut().poll(cx).is_ready());
        Poll::Ready(if ended { None } else { work.take() })
    })
    .await
}

/// A panic, or the end of the process, came first.
struct CutOff;

impl Run {
    async fn execute<R, E>(
        self,
        call: impl Future<Output = Result<Response<R>, E>>,
        teller: oneshot::Sender<LayerAnswer<R, E>>,
    ) where
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let shared = Arc::clone(&self.context.guard.shared);
        let end = Instant::now() + self.context.guard.renewed_for();
        let called = unless_cut(&shared.cut, caught(call)).await;
        match called {
            Some(Ok(Ok(response))) => self.respond(response, teller, end).await,
            Some(Ok(Err(error))) => {
                self.claim.end_here(End::Unknown).await;
                let _ = teller.send(Err(error));
            }
            // The client learns that from the teller, which is dropped.
            Some(Err(CutOff)) | None => {
                self.claim.end_here(End::Unknown).await;
            }
        }
    }

    async fn respond<R, E>(
        self,
        response: Response<R>,
        teller: oneshot::Sender<LayerAnswer<R, E>>,
        end: Instant,
    ) where
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let Run {
            context,
            request,
            claim,
            fence,
        } = self;
        let (mut parts, body) = response.into_parts();
        // All of them: a gateway of ours may stand behind the handler, and may have refused.
        let headers = head::fields(&parts.headers);
        let policies = &request.settings.policies;
        let ours = |name: &&HeaderName| reply::is_ours(policies, name.as_str().as_bytes());
        let ours: Vec<HeaderName> = parts.headers.keys().filter(ours).cloned().collect();
        for name in ours {
            parts.headers.remove(name);
        }
        let status = parts.status.as_u16();
        let source = source(&parts.extensions);
        let sent = Some((claim.key(), fence));
        let ending = Ending::answered(&request, sent, &source, status, &headers);
        let length = headers.content_length().or(body.size_hint().exact());
        let copying = Copying {
            context,
            request,
            claim,
            ending,
            end,
        };
        let body = pin!(body);
        match length {
            _ if body.is_end_stream() => copying.hold(parts, body, teller).await,
            Some(length) if length <= HOLD_LIMIT => copying.hold(parts, body, teller).await,
            length => copying.stream(parts, body, length, teller).await,
        }
    }
}

/// An answer on its way to the client and into the record.
struct Copying {
    context: Arc<LayerContext>,
    request: Arc<Request>,
    claim: Claim,
    ending: Ending,
    /// The execution lasts no longer.
    end: Instant,
}

/// What comes next of an answer.
enum NextPiece {
    Frame(Frame<Bytes>),
    End,
    Cut(BoxError),
}

impl Copying {
    /// The client gets the answer when it is recorded.
    async fn hold<R, E>(
        mut self,
        mut parts: Parts,
        mut body: Pin<&mut R>,
        teller: oneshot::Sender<LayerAnswer<R, E>>,
    ) where
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let mut pieces = Pieces::default();
        let mut trailers: Option<HeaderMap> = None;
        while !body.is_end_stream() {
            match self.next(body.as_mut()).await {
                NextPiece::End => break,
                NextPiece::Frame(frame) => match frame.into_data() {
                    Ok(data) if pieces.len() as u64 <= HOLD_LIMIT => pieces.push(data),
                    // Longer than it says.
                    Ok(_) => return self.cut_off().await,
                    Err(other) => trailers = other.into_trailers().ok(),
                },
                // The client has nothing of it yet, and learns from the teller, which is dropped.
                NextPiece::Cut(_) => return self.cut_off().await,
            }
        }
        let (context, request) = (Arc::clone(&self.context), Arc::clone(&self.request));
        let key = self.claim.key().clone();
        let (settled, withhold) = self.settle().await;
        let response = if withhold {
            let problem = Problem::OutcomeUnrecorded;
            context.problem(problem, request.problem(Some(&key), problem, None))
        } else {
            if let Settled::Recorded {
                expires_at_ms: Some(at),
            } = settled
            {
                let (name, value) = reply::expires(at);
                answer::add(&mut parts.headers, &name, &value);
            }
            Response::from_parts(parts, ResponseBody::whole(pieces.join(), trailers))
        };
        let _ = teller.send(Ok(response));
    }

    /// The client gets the answer as it comes, but for its end: the last piece, where it is known which
    /// one that is.
    async fn stream<R, E>(
        mut self,
        parts: Parts,
        mut body: Pin<&mut R>,
        length: Option<u64>,
        teller: oneshot::Sender<LayerAnswer<R, E>>,
    ) where
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let (client, pieces) = mpsc::channel(QUEUE);
        let mut client = Client {
            pieces: client,
            has_left: false,
            is_event_stream: is_event_stream(&parts.headers),
        };
        let response = Response::from_parts(parts, ResponseBody::stream(pieces, length));
        client.has_left = teller.send(Ok(response)).is_err();
        let (mut left, mut held) = (length, None);
        let end = self.end;
        loop {
            match self.next(body.as_mut()).await {
                NextPiece::Frame(frame) => {
                    if let (Some(left), Some(data)) = (&mut left, frame.data_ref()) {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    let is_last = left == Some(0) || frame.is_trailers();
                    let goes = match is_last {
                        true => held.replace(frame).into_iter().chain(None),
                        false => held.take().into_iter().chain(Some(frame)),
                    };
                    for frame in goes {
                        client.send(Piece::Frame(frame), end).await;
                    }
                    if client.has_left && client.is_event_stream && self.ending.keeps_nothing() {
                        // It may never end, and nobody listens.
                        break;
                    }
                }
                NextPiece::End => break,
                NextPiece::Cut(error) => {
                    self.cut_off().await;
                    client.send(Piece::Cut(error), end).await;
                    return;
                }
            }
        }
        let context = Arc::clone(&self.context);
        let (_, withhold) = self.settle().await;
        if withhold {
            context.count(Counter::Problem(Problem::OutcomeUnrecorded));
            client.send(Piece::Cut(Cut::Withheld.into()), end).await;
            return;
        }
        if let Some(frame) = held {
            client.send(Piece::Frame(frame), end).await;
        }
        client.send(Piece::End, end).await;
    }

    /// The next piece of the answer, copied.
    async fn next<R>(&mut self, body: Pin<&mut R>) -> NextPiece
    where
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let mut body = body;
        let frame = caught(poll_fn(move |cx| body.as_mut().poll_frame(cx)));
        let cut = &self.context.guard.shared.cut;
        let frame = match unless_cut(cut, until(self.end, frame)).await {
            Some(Some(Ok(frame))) => frame,
            // The process ends, the execution's time is over, or its body has panicked.
            None | Some(None | Some(Err(CutOff))) => return NextPiece::Cut(Cut::Ended.into()),
        };
        match frame {
            None => NextPiece::End,
            Some(Err(error)) => NextPiece::Cut(error.into()),
            Some(Ok(frame)) => {
                match frame.data_ref() {
                    Some(data) => self.ending.body(data),
                    None => self.ending.trailers(),
                }
                NextPiece::Frame(frame)
            }
        }
    }

    /// Records half an answer: what the status proved stays proven, and nothing else is.
    async fn cut_off(self) {
        self.claim.end_here(self.ending.cut().end()).await;
    }

    /// Records how it ended; whether the client must not have the answer.
    async fn settle(self) -> (Settled, bool) {
        let end = self.ending.end();
        let is_outcome = matches!(end, End::Done(_));
        let settled = self.claim.end_here(end).await;
        let policy = self.request.policy().on_complete_failure;
        let withhold = is_outcome
            && policy == OnCompleteFailure::Withhold
            && !matches!(settled, Settled::Recorded { .. });
        (settled, withhold)
    }
}

/// The client of a streamed answer.
struct Client {
    pieces: mpsc::Sender<Piece>,
    has_left: bool,
    is_event_stream: bool,
}

impl Client {
    /// A client that takes nothing for longer than the execution may last counts as gone.
    async fn send(&mut self, piece: Piece, end: Instant) {
        if !self.has_left {
            let sent = timeout_at(end, self.pieces.send(piece)).await;
            self.has_left = !matches!(sent, Ok(Ok(())));
        }
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let kind = kind.and_then(|kind| kind.split(|b| *b == b';').next());
    kind.is_some_and(|k| k.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
}

/// The result of a future, or that it panicked.
async fn caught<F: Future>(future: F) -> Result<F::Output, CutOff> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let poll = AssertUnwindSafe(|| future.as_mut().poll(cx));
        match catch_unwind(poll) {
            Ok(poll) => poll.map(Ok),
            Err(_) => Poll::Ready(Err(CutOff)),
        }
    })
    .await
}
