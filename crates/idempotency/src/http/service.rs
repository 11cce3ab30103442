//! The service that the layer makes, and how it decides about each request.

use super::layer::TenantOf;
use super::observe::{self, Watching};
use super::protect::{self, Protected};
use super::request_body::RequestBody;
use super::response_body::ResponseBody;
use super::run::LayerAnswer;
use super::{answer, head, BoxError};
use crate::counters::Counter;
use crate::error::Error;
use crate::guard::Guard;
use crate::operations::LockTerms;
use crate::seldom::Seldom;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body;
use idempotency_core::config::{Mode, Policy};
use idempotency_core::decide::{decide, Verdict};
use idempotency_core::problem::{Problem, ProblemSettings};
use idempotency_core::reply::LocalReply;
use idempotency_core::settings::Settings;
use idempotency_protocol::{About, AttemptKind};
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Poll};
use tower_service::Service;

/// What all requests through one layer share.
pub(super) struct LayerContext {
    pub guard: Guard,
    /// `None`: the configuration was rejected.
    pub settings: Option<Arc<Settings>>,
    pub tenant: Option<TenantOf>,
    /// Who asks, for people.
    pub client: Option<TenantOf>,
    /// Times are the rules', not the guard's.
    pub by_rules: bool,
    /// Refusals without an answer of the store, in the log.
    pub refusals: Seldom,
    /// What would have been, in the log.
    pub observations: Seldom,
}

impl LayerContext {
    pub fn count(&self, counter: Counter) {
        self.guard.shared.counters.count(counter);
    }

    /// Counts, and tells seldom, what would have been answered.
    pub fn observed(&self, rule: &str, counter: Counter) {
        self.count(counter);
        if let Some(unsaid) = self.observations.say() {
            let would = format!("{counter:?}");
            tracing::info!(rule, would, unsaid, "observed");
        }
    }

    /// On what terms a request of this rule locks its key.
    pub fn terms(&self, policy: &Policy) -> Result<LockTerms, Error> {
        if !self.by_rules {
            return self.guard.lock_terms();
        }
        Ok(LockTerms {
            lease_ms: policy.lease_ms,
            ttl_ms: policy.ttl_ms,
            unknown_ttl_ms: policy.unknown_ttl_ms,
            on_unknown: policy.on_unknown,
            kind: AttemptKind::Guard,
            margin_ms: policy.lease_margin_ms,
        })
    }

    /// What the record says of a request.
    pub fn about(&self, request: &idempotency_core::request::Request, parts: &Parts) -> Arc<About> {
        let client = self.client.as_ref().and_then(|client| client(parts));
        let mut about = About {
            gateway: self.guard.program_name().to_owned(),
            client: client.unwrap_or_default(),
            ..request.about()
        };
        about.shorten();
        Arc::new(about)
    }

    /// An answer in place of the handler's.
    pub fn problem<B>(&self, problem: Problem, reply: LocalReply) -> Response<ResponseBody<B>> {
        self.count(Counter::Problem(problem));
        answer::response(reply)
    }
}

/// A service whose requests are executed once per key. Made by
/// [`IdempotencyLayer`](super::IdempotencyLayer).
#[derive(Clone)]
pub struct IdempotencyService<S> {
    inner: S,
    context: Arc<LayerContext>,
}

impl<S: std::fmt::Debug> std::fmt::Debug for IdempotencyService<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdempotencyService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S> IdempotencyService<S> {
    pub(super) fn new(inner: S, context: Arc<LayerContext>) -> IdempotencyService<S> {
        IdempotencyService { inner, context }
    }
}

impl<S, B, R> Service<Request<B>> for IdempotencyService<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, S::Error>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready goes with the request.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let context = &self.context;
        let (mut parts, body) = request.into_parts();
        let Some(settings) = &context.settings else {
            return match parts.method {
                Method::GET | Method::HEAD | Method::OPTIONS => {
                    head::strip_ours(&mut parts.headers);
                    ResponseFuture::passing(inner.call(passed(parts, body)))
                }
                _ => ResponseFuture::ready(misconfigured(context)),
            };
        };
        let head = head::of(&parts, body.is_end_stream());
        let tenants = head::Tenants {
            parts: &parts,
            of: context.tenant.as_ref(),
        };
        let decision = decide(settings, head, &tenants);
        let carried = head::fence(&parts.headers);
        head::strip(&mut parts.headers, &decision.strip);
        match decision.verdict {
            Verdict::Pass => ResponseFuture::passing(inner.call(passed(parts, body))),
            Verdict::Observed(refused) => {
                context.count(Counter::Observed(refused.problem));
                ResponseFuture::passing(inner.call(passed(parts, body)))
            }
            Verdict::Refuse(refused, reply) => {
                ResponseFuture::ready(context.problem(refused.problem, reply))
            }
            Verdict::Protect { request, hasher } if request.policy().mode == Mode::Observe => {
                let about = context.about(&request, &parts);
                let (watch, watching) = observe::begin(context, &request, about, *hasher, &body);
                let body = RequestBody::watched(body, watch);
                let call = inner.call(Request::from_parts(parts, body));
                ResponseFuture::observing(call, watching)
            }
            Verdict::Protect { request, hasher } => {
                let protected = Protected {
                    context: Arc::clone(context),
                    about: context.about(&request, &parts),
                    request,
                    parts,
                    carried,
                };
                ResponseFuture::boxed(protect::answer(protected, *hasher, body, inner))
            }
        }
    }
}

fn passed<B>(parts: Parts, body: B) -> Request<RequestBody<B>> {
    Request::from_parts(parts, RequestBody::passed(body))
}

fn misconfigured<B>(context: &LayerContext) -> Response<ResponseBody<B>> {
    let problem = Problem::Misconfigured;
    context.problem(problem, problem.reply(&ProblemSettings::DEFAULT, None))
}

pin_project! {
    /// The answer to one request.
    pub struct ResponseFuture<F, R, E> {
        #[pin]
        kind: ResponseFutureKind<F, R, E>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum ResponseFutureKind<F, R, E> {
        /// Not protected.
        Passing { #[pin] call: F },
        /// Looked at.
        Observing { #[pin] call: F, watching: Option<Watching> },
        /// Protected.
        Boxed { answer: Pin<Box<dyn Future<Output = LayerAnswer<R, E>> + Send>> },
        /// Refused.
        Ready { response: Option<Response<ResponseBody<R>>> },
    }
}

impl<F, R, E> std::fmt::Debug for ResponseFuture<F, R, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F, R, E> ResponseFuture<F, R, E> {
    fn passing(call: F) -> Self {
        let kind = ResponseFutureKind::Passing { call };
        ResponseFuture { kind }
    }

    fn observing(call: F, watching: Watching) -> Self {
        let watching = Some(watching);
        let kind = ResponseFutureKind::Observing { call, watching };
        ResponseFuture { kind }
    }

    fn boxed(answer: impl Future<Output = LayerAnswer<R, E>> + Send + 'static) -> Self {
        let answer: Pin<Box<dyn Future<Output = LayerAnswer<R, E>> + Send>> = Box::pin(answer);
        let kind = ResponseFutureKind::Boxed { answer };
        ResponseFuture { kind }
    }

    fn ready(response: Response<ResponseBody<R>>) -> Self {
        let response = Some(response);
        let kind = ResponseFutureKind::Ready { response };
        ResponseFuture { kind }
    }
}

impl<F, R, E> Future for ResponseFuture<F, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    type Output = LayerAnswer<R, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Passing { call } => {
                let response = ready!(call.poll(cx))?;
                Poll::Ready(Ok(response.map(ResponseBody::passed)))
            }
            KindProjection::Observing { call, watching } => {
                let response = ready!(call.poll(cx))?;
                Poll::Ready(Ok(match watching.take() {
                    Some(watching) => watching.response(response),
                    None => response.map(ResponseBody::passed),
                }))
            }
            KindProjection::Boxed { answer } => answer.as_mut().poll(cx),
            KindProjection::Ready { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                // Polled again after its end, which nobody may.
                None => Poll::Pending,
            },
        }
    }
}
