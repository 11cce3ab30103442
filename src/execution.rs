//! Detached execution: it belongs to the gateway, not to the client's connection. The request
//! travels as a callout into an internal listener with the ordinary routes; the client that still
//! waits is answered once the outcome is recorded.

use crate::call::CallResult;
use crate::detached;
use crate::ending::{settle_telling, Ending, CUT, UNCLEAR};
use crate::lease::Lease;
use crate::note::Note;
use crate::settlement;
use crate::stats::Counter;
use crate::stream::Effect;
use bytes::Bytes;
use idempotency_core::headers::Headers;
use idempotency_core::problem::Problem;
use idempotency_core::reply::LocalReply;
use idempotency_core::request::Request;
use idempotency_protocol::Operation;
use std::sync::Arc;

/// What the operator is told where the internal listener is not as it has to be.
const UNMARKED: &str =
    "an answer without a marker: does the internal listener mark upstream answers and local replies?";

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

/// One detached execution.
#[derive(Debug)]
pub struct Execution {
    request: Arc<Request>,
    lease: Lease,
    /// The stream of the client that asked for it.
    pub stream: u32,
    /// What the client gets, once the end is recorded.
    reply: Option<LocalReply>,
}

impl Execution {
    /// An execution that is about to be sent.
    pub fn new(request: Arc<Request>, lease: Lease, stream: u32) -> Self {
        Execution {
            request,
            lease,
            stream,
            reply: None,
        }
    }

    /// The `traceparent` of its request.
    pub fn trace(&self) -> Bytes {
        self.request.traceparent()
    }

    /// The callout ended: the operation to settle with.
    pub fn executed(&mut self, executed: Executed, effects: &mut Vec<Effect>) -> Box<Operation> {
        let request = &self.request;
        let mut why = UNCLEAR;
        let (ending, reply) = match executed {
            Executed::Answered {
                headers,
                body,
                trailers,
            } => {
                if !detached::is_marked(&headers) {
                    why = UNMARKED;
                }
                let source = detached::from_markers(&headers);
                let status = headers.status().unwrap_or(0);
                let sent = Some(self.lease.sent());
                let mut ending = Ending::answered(request, sent, &source, status, &headers);
                ending.body(&body);
                if trailers {
                    ending.trailers();
                }
                let policies = &request.settings.policies;
                let reply = match ending.is_cut(&source, &headers) {
                    Some(status) => request.cut(&self.lease.key, status),
                    None => detached::first_answer(policies, status, &headers, body),
                };
                (ending, reply)
            }
            Executed::NotSent => {
                let detail = "The gateway could not send the request to its execution cluster.";
                let problem = Problem::Misconfigured;
                let note = Note::of(request, Counter::Problem(problem)).because(detail);
                effects.push(Effect::Note(note.about(&self.lease.key, self.lease.fence)));
                let reply = request.problem(Some(&self.lease.key), problem, Some(detail));
                (Ending::NotSent, reply)
            }
            Executed::Cut => {
                why = CUT;
                (Ending::Unknown, request.cut(&self.lease.key, 502))
            }
        };
        let told = (reply.status, why);
        self.reply = Some(reply);
        settle_telling(request, ending, &self.lease, told, effects)
    }

    /// The settlement was answered (or not): what the client gets.
    pub fn settled(
        self,
        operation: Box<Operation>,
        result: &CallResult,
        effects: &mut Vec<Effect>,
    ) -> Option<LocalReply> {
        let mut reply = self.reply?;
        Some(
            match settlement::answered(&self.request, operation, result, effects) {
                Ok(header) => {
                    reply.headers.extend(header);
                    reply
                }
                Err(instead) => instead,
            },
        )
    }
}
