//! A protected request, from its body to the one who answers it.

use super::attempt::Attempt;
use super::head::{self, Forwarding};
use super::request_body::{self, RequestBody, Unread, Whole};
use super::response_body::ResponseBody;
use super::run::{self, Run};
use super::service::LayerContext;
use super::{answer, BoxError};
use crate::acquire::Refused;
use crate::claim::Claim;
use crate::counters::Counter;
use crate::entry::Entry;
use crate::error::Error;
use crate::execution::Execution;
use crate::fingerprint::Fingerprint;
use crate::outcome::Done;
use bytes::Bytes;
use http::request::Parts;
use http::{Request as HttpRequest, Response};
use http_body::Body;
use idempotency_core::config::OnServiceFailure;
use idempotency_core::decide::too_large;
use idempotency_core::fingerprint::Hasher;
use idempotency_core::problem::Problem;
use idempotency_core::reply;
use idempotency_core::request::{Identity, Request};
use idempotency_protocol::{About, LookupKey, Outcome};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tower_service::Service;

/// A request that a rule protects.
pub(super) struct Protected {
    pub context: Arc<LayerContext>,
    pub request: Arc<Request>,
    /// What its record says of it.
    pub about: Arc<About>,
    /// As the handler gets it, but for what a grant changes.
    pub parts: Parts,
    /// The fence that it came with.
    pub carried: Option<u64>,
}

const TWICE: &str =
    "The lock on this key is this request's own: it passes two gateways or layers that \
                     share their records. One of them needs another namespace.";

/// What becomes of a request that asked for its key.
enum AcquireResult {
    Execute(Execution),
    /// Without an answer from the store, by the rule's policy.
    Unprotected(Claim),
    Replay(Done),
    Refuse(Problem, Option<&'static str>),
}

/// Answers it: by the handler, from the record, or with a refusal.
pub(super) async fn answer<S, B, R>(
    protected: Protected,
    mut hasher: Hasher,
    body: B,
    mut inner: S,
) -> Result<Response<ResponseBody<R>>, S::Error>
where
    S: Service<HttpRequest<RequestBody<B>>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let policy = protected.request.policy();
    let whole = match request_body::read(body, &mut hasher, policy.max_body_bytes).await {
        Ok(whole) => whole,
        Err(Unread::TooLarge) => {
            let detail = too_large(policy);
            return Ok(protected.refuse(None, Problem::BodyTooLarge, Some(&detail)));
        }
        Err(Unread::Broken) => {
            let detail = "The body of the request could not be read.";
            return Ok(protected.refuse(None, Problem::UnsupportedRequest, Some(detail)));
        }
    };
    if let Some(refusal) = protected.unwelcome_trailer(&whole) {
        return Ok(refusal);
    }
    let (key, fingerprint) = match protected.request.identify(hasher) {
        Identity::Known(key, fingerprint) => (Arc::new(key), Fingerprint(fingerprint)),
        Identity::Refused(problem, detail) => {
            return Ok(protected.refuse(None, problem, Some(&detail)))
        }
        Identity::Pass => {
            let call = HttpRequest::from_parts(protected.parts, RequestBody::whole(whole));
            return Ok(inner.call(call).await?.map(ResponseBody::passed));
        }
    };
    let (claim, forwarding) = match protected.ask(Arc::clone(&key), fingerprint).await {
        AcquireResult::Execute(execution) => {
            let attempt = Attempt::new(execution.grant(), &key);
            (execution.into_claim(), Forwarding::Granted(attempt))
        }
        AcquireResult::Unprotected(claim) => (claim, Forwarding::Unprotected),
        AcquireResult::Replay(done) => return Ok(protected.replay(&key, &done)),
        AcquireResult::Refuse(problem, detail) => {
            return Ok(protected.refuse(Some(&key), problem, detail))
        }
    };
    protected
        .execute(claim, key, forwarding, whole, inner)
        .await
}

impl Protected {
    /// `key`: the record that it is about, if that is known.
    fn refuse<R>(
        &self,
        key: Option<&LookupKey>,
        problem: Problem,
        detail: Option<&str>,
    ) -> Response<ResponseBody<R>> {
        self.context
            .problem(problem, self.request.problem(key, problem, detail))
    }

    fn unwelcome_trailer<R>(&self, whole: &Whole) -> Option<Response<ResponseBody<R>>> {
        let trailers = head::fields(whole.trailers.as_ref()?);
        let name = self.request.unwelcome_trailer(&trailers)?;
        let detail = format!("{} must not be a trailer.", String::from_utf8_lossy(name));
        Some(self.refuse(None, Problem::UnsupportedRequest, Some(&detail)))
    }

    /// Asks for the key, and waits for another execution as long as the rule says.
    async fn ask(&self, key: Arc<LookupKey>, fingerprint: Fingerprint) -> AcquireResult {
        let terms = match self.context.terms(self.request.policy()) {
            Ok(terms) => terms,
            Err(error) => return self.refused(error.into()),
        };
        let guard = &self.context.guard;
        let asked = guard
            .ask_keeping(key, fingerprint, terms, Arc::clone(&self.about))
            .await;
        let wait = Duration::from_millis(self.request.policy().wait_ms);
        let asked = match asked {
            // To wait for it would be to wait for itself, and to refuse it would become its answer.
            Ok(Entry::InFlight(running)) if Some(running.fence()) == self.carried => {
                return AcquireResult::Refuse(Problem::Misconfigured, Some(TWICE));
            }
            Ok(Entry::InFlight(running)) if !wait.is_zero() => {
                self.context.count(Counter::Waited);
                // Rare and large.
                Box::pin(running.wait(wait)).await.map_err(Refused::from)
            }
            asked => asked,
        };
        match asked {
            Ok(Entry::Execute(execution)) => AcquireResult::Execute(execution),
            Ok(Entry::Replay(done)) => AcquireResult::Replay(done),
            Ok(Entry::InFlight(_)) => AcquireResult::Refuse(Problem::InFlight, None),
            Ok(Entry::Mismatch) => AcquireResult::Refuse(Problem::KeyReused, None),
            Ok(Entry::NotComparable) => AcquireResult::Refuse(Problem::NotComparable, None),
            Ok(Entry::Unknown(_)) => AcquireResult::Refuse(Problem::OutcomeUnknown, None),
            Err(refused) => self.refused(refused),
        }
    }

    fn refused(&self, refused: Refused) -> AcquireResult {
        let Refused { error, claim } = refused;
        let detail = match &error {
            Error::Quota(_) => return AcquireResult::Refuse(Problem::TenantQuota, None),
            Error::Settings(_) | Error::InvalidKey(_) | Error::NoRandomness(_) => {
                if let Some(unsaid) = self.context.refusals.say() {
                    tracing::error!(%error, unsaid, "a request cannot be protected");
                }
                return AcquireResult::Refuse(Problem::Misconfigured, None);
            }
            Error::Busy => Some("Too many requests are being executed at this moment."),
            Error::Closing => Some("This server is shutting down."),
            _ => None,
        };
        let rule = self.request.rule.name.as_str();
        let pass = self.request.policy().on_service_failure == OnServiceFailure::Pass;
        if let (Error::StoreDown(_), true, Some(mut claim)) = (&error, pass, claim) {
            if let Some(place) = self.context.guard.shared.enter() {
                self.context.count(Counter::PassedUnprotected);
                if let Some(unsaid) = self.context.refusals.say() {
                    tracing::warn!(rule, %error, unsaid, "executed without protection");
                }
                claim.hold_in_doubt(place);
                return AcquireResult::Unprotected(claim);
            }
        }
        if let Some(unsaid) = self.context.refusals.say() {
            tracing::warn!(rule, %error, unsaid, "refused");
        }
        AcquireResult::Refuse(Problem::StoreUnavailable, detail)
    }

    fn replay<R>(&self, key: &LookupKey, done: &Done) -> Response<ResponseBody<R>> {
        match &*done.0.outcome {
            Outcome::Response(stored) if reply::is_replayable(stored) => {
                self.context.count(Counter::Replayed);
                let policies = &self.request.settings.policies;
                let (policy, origin) = (self.request.policy(), self.request.origin());
                answer::response(reply::replay(policies, policy, &done.0, stored, origin))
            }
            _ => self.refuse(Some(key), Problem::NotReplayable, None),
        }
    }

    /// Runs the handler whether or not the client stays, and waits for its answer as long as the client does.
    fn execute<S, B, R>(
        self,
        claim: Claim,
        key: Arc<LookupKey>,
        forwarding: Forwarding,
        whole: Whole,
        inner: S,
    ) -> impl Future<Output = Result<Response<ResponseBody<R>>, S::Error>> + Send + use<S, B, R>
    where
        S: Service<HttpRequest<RequestBody<B>>, Response = Response<R>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        B: Send + 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let Protected {
            context,
            request,
            mut parts,
            ..
        } = self;
        head::change(&mut parts.headers, request.policy(), &key, &forwarding);
        let fence = match forwarding {
            Forwarding::Granted(attempt) => {
                let fence = attempt.fence();
                context.count(Counter::Executed);
                parts.extensions.insert(attempt);
                fence
            }
            Forwarding::Unprotected => 0,
        };
        let run = Run {
            context: Arc::clone(&context),
            request: Arc::clone(&request),
            claim,
            fence,
        };
        let call = HttpRequest::from_parts(parts, RequestBody::whole(whole));
        let answer = run::start(run, inner, call);
        async move {
            if let Some(answer) = answer.await {
                return answer;
            }
            let detail = "The execution was cut off. It may have had an effect.";
            let settings = request.problem_settings().about(Some(&key));
            let problem = Problem::OutcomeUnknown;
            let reply = problem.reply_as(502, &settings, Some(detail));
            Ok(context.problem(problem, reply))
        }
    }
}
