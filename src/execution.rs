//! Detached execution: it belongs to the gateway, not to the client's connection. The request
//! travels as a callout into an internal listener with the ordinary routes; the client that still
//! waits is answered once the outcome is recorded.

use crate::call::CallResult;
use crate::detached;
use crate::lease::Lease;
use crate::settlement::{self, Settled};
use crate::stats::Counter;
use crate::stream::Effect;
use bytes::Bytes;
use idempotency_core::capture::Capture;
use idempotency_core::classify::classify;
use idempotency_core::config::OutcomeClass;
use idempotency_core::headers::Headers;
use idempotency_core::problem::Problem;
use idempotency_core::reply::{self, LocalReply};
use idempotency_core::request::Request;
use idempotency_protocol::Operation;
use std::sync::Arc;

/// How the callout that carried the request ended.
#[derive(Debug)]
pub enum Executed {
    /// There is an answer.
    Answered {
        /// Its headers, with `:status`.
        headers: Headers,
        /// Its body.
        body: Bytes,
        /// It had trailers.
        trailers: bool,
    },
    /// The callout could not be sent at all.
    NotSent,
    /// The callout was cut: the request may have been executed.
    Cut,
}

/// What is known at the end: what to tell the service, and what to tell the client.
#[derive(Debug)]
struct End {
    operation: Operation,
    reply: LocalReply,
}

/// One detached execution.
#[derive(Debug)]
pub struct Execution {
    request: Arc<Request>,
    lease: Lease,
    /// The stream of the client that asked for it.
    pub stream: u32,
    end: Option<End>,
}

impl Execution {
    /// An execution that is about to be sent.
    pub fn new(request: Arc<Request>, lease: Lease, stream: u32) -> Self {
        Execution {
            request,
            lease,
            stream,
            end: None,
        }
    }

    /// The callout ended: the operation to settle with.
    pub fn executed(&mut self, executed: Executed, effects: &mut Vec<Effect>) -> Operation {
        let policy = self.request.policy();
        let (class, capture, reply) = match executed {
            Executed::Answered {
                headers,
                body,
                trailers,
            } => {
                let source = detached::from_markers(&headers);
                let marked = headers.has(detached::UPSTREAM_MARKER)
                    || headers.has(detached::GATEWAY_REPLY_MARKER);
                let status = headers.status().unwrap_or(0);
                let class = classify(policy, &source, status, &headers);
                let capture = (class == OutcomeClass::Completed).then(|| {
                    let origin = self.request.origin();
                    let mut capture = Capture::new(policy, status, &headers, origin);
                    capture.push(&body);
                    if trailers {
                        capture.trailers();
                    }
                    capture
                });
                if !marked {
                    effects.push(Effect::Warn(format!(
                        "rule {}: an answer without a marker: does the internal listener mark \
                         upstream answers and local replies? Its outcome is unknown",
                        self.request.rule.name
                    )));
                }
                let policies = &self.request.settings.policies;
                (
                    class,
                    capture,
                    detached::first_answer(policies, status, &headers, body),
                )
            }
            Executed::NotSent => (
                OutcomeClass::Failed,
                None,
                self.request.problem(
                    Problem::Misconfigured,
                    Some("The gateway could not send the request to its execution cluster."),
                ),
            ),
            Executed::Cut => {
                let detail =
                    "The upstream's answer was cut off. The request may have been executed.";
                let settings = self.request.problem_settings();
                let reply = Problem::OutcomeUnknown.reply_as(502, &settings, Some(detail));
                (OutcomeClass::Unknown, None, reply)
            }
        };
        let operation = settlement::operation(&self.lease, class, capture);
        self.end = Some(End {
            operation: operation.clone(),
            reply,
        });
        effects.push(Effect::Untrack(self.lease.owner));
        operation
    }

    /// The settlement was answered (or not): what the client gets.
    pub fn settled(self, result: &CallResult, effects: &mut Vec<Effect>) -> Option<LocalReply> {
        let End {
            operation,
            mut reply,
        } = self.end?;
        let settled = Settled::read(result);
        if let Some(counter) = settled.counter(&operation) {
            effects.push(Effect::Count(counter));
        }
        let withhold = settled.withhold(&operation, self.request.policy().on_complete_failure);
        if settled == Settled::Unanswered {
            effects.push(Effect::Background(operation));
        }
        if withhold {
            effects.push(Effect::Count(Counter::Problem(Problem::OutcomeUnrecorded)));
            return Some(self.request.problem(Problem::OutcomeUnrecorded, None));
        }
        if let Settled::Recorded {
            expires_at_ms: Some(at),
        } = settled
        {
            reply.headers.push(reply::expires(at));
        }
        Some(reply)
    }
}
