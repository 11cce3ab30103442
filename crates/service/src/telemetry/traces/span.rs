//! The spans of calls and operations.
//!
//! ```text
//! idempotency acquire      in the request's trace, below the gateway's span; linked to its call, where that has more
//!   store                  what the store took for the call
//! idempotency call         of a call with several operations: linked to each of them
//! ```

use super::{context, Traces};
use crate::api::App;
use crate::redact::log_id;
use http::HeaderMap;
use idempotency_protocol::{Answer, DecodeError, FaultCode, LookupKey, Operation};
use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::KeyValue;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanLinks};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

/// When the store began and when it was done.
pub(crate) type StoreTime = Option<(SystemTime, SystemTime)>;

/// A call whose operations, or some of them, are traced.
pub(crate) struct CallTrace {
    started: SystemTime,
    /// The span that made the call, if it is said to be one.
    caller: Option<SpanContext>,
    /// By place; `None`: not traced.
    operations: Vec<Option<OperationTrace>>,
}

/// An operation that is traced.
pub(crate) struct OperationTrace {
    started: SystemTime,
    parent: SpanContext,
    name: &'static str,
    key: LookupKey,
    rule: Option<String>,
}

/// What a span has besides its place in time and in its trace.
struct Facts {
    name: Cow<'static, str>,
    kind: SpanKind,
    attributes: Vec<KeyValue>,
    links: Vec<Link>,
    status: Status,
}

impl CallTrace {
    /// Looks for what is to be traced; `None`: nothing. `items`: each operation with the `traceparent` that came with
    /// it.
    pub(crate) fn begin<T: AsRef<[u8]>>(
        headers: &HeaderMap,
        items: &[Result<(Operation, T), DecodeError>],
    ) -> Option<CallTrace> {
        let started = SystemTime::now();
        let caller = context::of_headers(headers);
        let mut traced = false;
        let operations = items.iter().map(|item| {
            let (operation, parent) = item.as_ref().ok()?;
            // A call for one operation alone is that operation's.
            let parent = context::sampled(parent.as_ref())
                .or_else(|| caller.clone().filter(|_| items.len() == 1))?;
            traced = true;
            Some(OperationTrace::new(started, parent, operation))
        });
        let operations = operations.collect();
        (traced || caller.is_some()).then_some(CallTrace {
            started,
            caller,
            operations,
        })
    }

    /// The answers are known. `store`: when the store was asked, if it was.
    pub(crate) fn end(self, app: &Arc<App>, store: StoreTime, answers: &[Answer]) {
        let Some(traces) = &app.traces else { return };
        let count = self.operations.len();
        // One operation needs no span of the call above it.
        let call = (count > 1).then(|| match &self.caller {
            Some(caller) => of_trace(caller.trace_id(), None),
            None => of_trace(RandomIdGenerator::default().new_trace_id(), None),
        });
        let mut links = Vec::new();
        for (operation, answer) in self.operations.into_iter().zip(answers) {
            let Some(operation) = operation else { continue };
            let span = operation.end(app, store, answer, call.clone());
            links.push(Link::with_context(span));
        }
        if let Some(span) = call {
            let attributes = vec![
                KeyValue::new("http.request.method", "POST"),
                KeyValue::new("http.route", idempotency_protocol::OPERATIONS_PATH),
                KeyValue::new("idempotency.operations", whole(count as u64)),
            ];
            let facts = Facts {
                name: "idempotency call".into(),
                kind: SpanKind::Server,
                attributes,
                links,
                status: Status::Unset,
            };
            traces.span(
                span,
                self.caller.as_ref(),
                self.started,
                SystemTime::now(),
                facts,
            );
        }
    }
}

impl OperationTrace {
    fn new(started: SystemTime, parent: SpanContext, operation: &Operation) -> OperationTrace {
        let rule = match operation {
            Operation::Acquire(acquire) => acquire.about.as_deref().map(|about| about.rule.clone()),
            _ => None,
        };
        OperationTrace {
            rule,
            ..OperationTrace::named(started, parent, operation.name(), operation.key())
        }
    }

    fn named(
        started: SystemTime,
        parent: SpanContext,
        name: &'static str,
        key: &LookupKey,
    ) -> OperationTrace {
        OperationTrace {
            started,
            parent,
            name,
            key: key.clone(),
            rule: None,
        }
    }

    /// Of a call with one operation, or with a wait; `None`: its caller is not traced.
    pub(crate) fn begin(
        headers: &HeaderMap,
        name: &'static str,
        key: &LookupKey,
    ) -> Option<OperationTrace> {
        let parent = context::of_headers(headers)?;
        Some(OperationTrace::named(SystemTime::now(), parent, name, key))
    }

    /// The answer is known: the span of the operation and the store's below it. `call`: the span of the call that it
    /// shared.
    pub(crate) fn end(
        self,
        app: &Arc<App>,
        store: StoreTime,
        answer: &Answer,
        call: Option<SpanContext>,
    ) -> SpanContext {
        let trace = self.parent.trace_id();
        let span = match answer {
            Answer::Granted(grant) => of_trace(
                trace,
                Some(context::of_grant(trace, &self.key, grant.fence)),
            ),
            _ => of_trace(trace, None),
        };
        let Some(traces) = app.traces.clone() else {
            return span;
        };
        let ended = SystemTime::now();
        let status = match answer {
            Answer::Fault(fault) if fault.code != FaultCode::Quota => {
                Status::error(fault.to_string())
            }
            _ => Status::Unset,
        };
        if let Some((began, done)) = store {
            let facts = Facts {
                name: format!("store {}", self.name).into(),
                kind: SpanKind::Client,
                attributes: vec![KeyValue::new(
                    "idempotency.store",
                    app.store_address.clone(),
                )],
                links: Vec::new(),
                status: status.clone(),
            };
            traces.span(of_trace(trace, None), Some(&span), began, done, facts);
        }
        let facts = Facts {
            name: format!("idempotency {}", self.name).into(),
            kind: SpanKind::Server,
            attributes: self.attributes(answer),
            links: call.into_iter().map(Link::with_context).collect(),
            status,
        };
        let (parent, started) = (self.parent, self.started);
        match of_another(answer).map(|fence| (fence, traces.looks.clone().try_acquire_owned())) {
            // Nobody waits for what is found.
            Some((fence, Ok(permit))) => {
                let (app, span, key) = (app.clone(), span.clone(), self.key);
                let tracker = app.background.clone();
                tracker.spawn(async move {
                    let mut facts = facts;
                    let found = first_execution(&app, &key, fence).await;
                    facts.links.extend(found.map(Link::with_context));
                    traces.span(span, Some(&parent), started, ended, facts);
                    drop(permit);
                });
            }
            _ => traces.span(span.clone(), Some(&parent), started, ended, facts),
        }
        span
    }

    fn attributes(&self, answer: &Answer) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new("idempotency.operation", self.name),
            KeyValue::new("idempotency.answer", answer.name()),
            KeyValue::new("idempotency.log_id", log_id(&self.key)),
        ];
        if let Some(rule) = self.rule.as_ref().filter(|rule| !rule.is_empty()) {
            attributes.push(KeyValue::new("idempotency.rule", rule.clone()));
        }
        let (fence, attempt) = match answer {
            Answer::Granted(grant) => (Some(grant.fence), Some(grant.attempt)),
            Answer::Stored(stored) => (Some(stored.fence), Some(stored.attempt)),
            Answer::InFlight { fence, .. } => (Some(*fence), None),
            _ => (None, None),
        };
        attributes.extend(fence.map(|fence| KeyValue::new("idempotency.fence", whole(fence))));
        attributes
            .extend(attempt.map(|number| KeyValue::new("idempotency.attempt", i64::from(number))));
        attributes
    }
}

impl Traces {
    /// Puts a span into its trace, below `parent`.
    fn span(
        &self,
        span: SpanContext,
        parent: Option<&SpanContext>,
        started: SystemTime,
        ended: SystemTime,
        facts: Facts,
    ) {
        let mut links = SpanLinks::default();
        links.links = facts.links;
        self.put(SpanData {
            span_context: span,
            parent_span_id: parent.map_or(SpanId::INVALID, SpanContext::span_id),
            parent_span_is_remote: parent.is_some_and(SpanContext::is_remote),
            span_kind: facts.kind,
            name: facts.name,
            start_time: started,
            // A clock that was set back makes no span that ends before it begins.
            end_time: ended.max(started),
            attributes: facts.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: facts.status,
            instrumentation_scope: self.scope.clone(),
        });
    }
}

/// A span of ours in that trace.
fn of_trace(trace: TraceId, id: Option<SpanId>) -> SpanContext {
    let id = id.unwrap_or_else(|| RandomIdGenerator::default().new_span_id());
    SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE)
}

/// The fence of the execution that an answer is about, if it is another request's.
fn of_another(answer: &Answer) -> Option<u64> {
    match answer {
        Answer::Stored(stored) => Some(stored.fence),
        Answer::InFlight { fence, .. } => Some(*fence),
        _ => None,
    }
}

/// The span in which the execution with this fence began; `None`: its record does not know its trace, or is
/// another one's by now.
async fn first_execution(app: &App, key: &LookupKey, fence: u64) -> Option<SpanContext> {
    let record = app.store.inspect(key).await.ok().flatten()?;
    let about = record.about.filter(|_| record.fence == fence)?;
    let trace = TraceId::from_hex(&about.trace_id)
        .ok()
        .filter(|trace| *trace != TraceId::INVALID)?;
    let id = context::of_grant(trace, key, fence);
    Some(SpanContext::new(
        trace,
        id,
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    ))
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
