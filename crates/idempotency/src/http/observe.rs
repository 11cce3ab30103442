//! Observe mode: what would have been is counted, and nothing is changed. Neither the request nor its answer
//! is held, so they and the store's answers come in any order.

use super::head;
use super::not_sent::source;
use super::response_body::ResponseBody;
use super::service::LayerContext;
use crate::acquire::Refused;
use crate::claim::Claim;
use crate::counters::Counter;
use crate::entry::Entry;
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame};
use idempotency_core::ending::Ending;
use idempotency_core::fingerprint::Hasher;
use idempotency_core::problem::Problem;
use idempotency_core::request::{Identity, Request};
use idempotency_protocol::{About, LookupKey, Outcome};
use std::sync::Arc;
use tokio::sync::oneshot;

/// What is asked about: the key, and what the request is.
type WatchedKey = (LookupKey, Fingerprint);

/// Begins to watch a request.
pub(super) fn begin<B: Body>(
    context: &Arc<LayerContext>,
    request: &Arc<Request>,
    about: Arc<About>,
    hasher: Hasher,
    body: &B,
) -> (RequestWatch, Watching) {
    let (asks, asked) = oneshot::channel();
    let (answers, answered) = oneshot::channel();
    let observer = Observer {
        context: Arc::clone(context),
        request: Arc::clone(request),
        about,
    };
    context
        .guard
        .shared
        .tasks
        .spawn(observer.watch(asked, answered));
    let mut watch = RequestWatch {
        context: Arc::clone(context),
        request: Arc::clone(request),
        seen: 0,
        hasher: Some(hasher),
        asks: Some(asks),
    };
    if body.is_end_stream() {
        watch.finish();
    }
    let watching = Watching {
        request: Arc::clone(request),
        answers,
    };
    (watch, watching)
}

/// Looks at the body of a request as it passes.
pub(super) struct RequestWatch {
    context: Arc<LayerContext>,
    request: Arc<Request>,
    seen: usize,
    /// Gone with the end of the body, or when there is nothing to be asked.
    hasher: Option<Hasher>,
    asks: Option<oneshot::Sender<WatchedKey>>,
}

impl RequestWatch {
    /// A frame has passed, or the end has come.
    pub fn saw<E>(&mut self, frame: Option<Result<&Frame<Bytes>, E>>, is_over: bool) {
        match frame {
            None => self.finish(),
            Some(Err(_)) => self.hasher = None,
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.data(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    let mut trailers = trailers.clone();
                    head::strip_ours(&mut trailers);
                    let trailers = head::fields(&trailers);
                    if self.request.unwelcome_trailer(&trailers).is_some() {
                        self.would_refuse(Problem::UnsupportedRequest);
                    }
                }
                if is_over {
                    self.finish();
                }
            }
        }
    }

    fn data(&mut self, data: &Bytes) {
        self.seen = self.seen.saturating_add(data.len());
        if self.seen > self.request.policy().max_body_bytes {
            self.would_refuse(Problem::BodyTooLarge);
        } else if let Some(hasher) = &mut self.hasher {
            hasher.update(data);
        }
    }

    fn would_refuse(&mut self, problem: Problem) {
        if self.hasher.take().is_some() {
            let rule = &self.request.rule.name;
            self.context.observed(rule, Counter::Observed(problem));
        }
    }

    fn finish(&mut self) {
        let Some(hasher) = self.hasher.take() else {
            return;
        };
        match (self.request.identify(hasher), self.asks.take()) {
            (Identity::Known(key, fingerprint), Some(asks)) => {
                let _ = asks.send((key, Fingerprint(fingerprint)));
            }
            (Identity::Refused(problem, _), _) => {
                let rule = &self.request.rule.name;
                self.context.observed(rule, Counter::Observed(problem));
            }
            (Identity::Known(..) | Identity::Pass, _) => {}
        }
    }
}

/// Waits for the answer to a request that is watched. Dropped before, there was none.
pub(super) struct Watching {
    request: Arc<Request>,
    answers: oneshot::Sender<Ending>,
}

impl Watching {
    /// The answer has begun.
    pub fn response<R: Body>(self, response: Response<R>) -> Response<ResponseBody<R>> {
        let headers = head::fields(response.headers());
        let status = response.status().as_u16();
        let source = source(response.extensions());
        let ending = Ending::answered(&self.request, None, &source, status, &headers);
        let mut watch = ResponseWatch {
            answered: Some((ending, self.answers)),
            left: headers.content_length(),
        };
        if response.body().is_end_stream() {
            watch.finish();
        }
        response.map(|body| ResponseBody::watched(body, watch))
    }
}

/// Looks at the body of an answer as it passes. Dropped before its end, the answer was cut.
pub(super) struct ResponseWatch {
    answered: Option<(Ending, oneshot::Sender<Ending>)>,
    /// What is left of the announced length. A server that has sent all of it may not poll for the end of the body.
    left: Option<u64>,
}

impl ResponseWatch {
    /// A frame has passed, or the end has come.
    pub fn saw<E>(&mut self, frame: Option<Result<&Frame<Bytes>, E>>, is_over: bool) {
        match frame {
            None => self.finish(),
            Some(Err(_)) => self.cut(),
            Some(Ok(frame)) => {
                if let Some((ending, _)) = &mut self.answered {
                    match frame.data_ref() {
                        Some(data) => ending.body(data),
                        None => ending.trailers(),
                    }
                }
                if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                if is_over || self.left == Some(0) {
                    self.finish();
                }
            }
        }
    }

    fn finish(&mut self) {
        if let Some((ending, answers)) = self.answered.take() {
            let _ = answers.send(ending);
        }
    }

    fn cut(&mut self) {
        if let Some((ending, answers)) = self.answered.take() {
            let _ = answers.send(ending.cut());
        }
    }
}

impl Drop for ResponseWatch {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Asks the store what would have been, and tells it what was.
struct Observer {
    context: Arc<LayerContext>,
    request: Arc<Request>,
    about: Arc<About>,
}

impl Observer {
    async fn watch(
        self,
        asked: oneshot::Receiver<WatchedKey>,
        answered: oneshot::Receiver<Ending>,
    ) {
        let Ok((key, fingerprint)) = asked.await else {
            return;
        };
        let Some(claim) = self.ask(key, fingerprint).await else {
            return;
        };
        let cut = self.context.guard.shared.cut.clone();
        let answered = cut.run_until_cancelled(answered).await;
        let ending = match answered {
            Some(Ok(ending)) => ending,
            Some(Err(_)) | None => Ending::Unknown,
        };
        claim.end_here(ending.end()).await;
    }

    /// Counts what the answer would have been; the claim, if there is one.
    async fn ask(&self, key: LookupKey, fingerprint: Fingerprint) -> Option<Claim> {
        let terms = self.context.terms(self.request.policy()).ok()?;
        let guard = &self.context.guard;
        let about = Arc::clone(&self.about);
        let asked = guard
            .ask_keeping(Arc::new(key), fingerprint, terms, about)
            .await;
        let (counter, claim) = match asked {
            Ok(Entry::Execute(execution)) => {
                (Counter::ObservedExecution, Some(execution.into_claim()))
            }
            Ok(Entry::Replay(done)) => match *done.0.outcome {
                Outcome::Response(_) => (Counter::ObservedReplay, None),
                Outcome::Tombstone(_) => (Counter::Observed(Problem::NotReplayable), None),
            },
            Ok(Entry::InFlight(_)) => (Counter::Observed(Problem::InFlight), None),
            Ok(Entry::Mismatch) => (Counter::Observed(Problem::KeyReused), None),
            Ok(Entry::NotComparable) => (Counter::Observed(Problem::NotComparable), None),
            Ok(Entry::Unknown(_)) => (Counter::Observed(Problem::OutcomeUnknown), None),
            Err(Refused {
                error: Error::Quota(_),
                ..
            }) => (Counter::Observed(Problem::TenantQuota), None),
            // It may have been granted all the same; its outcome will tell the record.
            Err(Refused { claim, .. }) => (Counter::Observed(Problem::StoreUnavailable), claim),
        };
        self.context.observed(&self.request.rule.name, counter);
        claim
    }
}
