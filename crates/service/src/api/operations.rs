//! `POST /v1/operations`: the hot path.

use super::app::App;
use super::arrival::Arrival;
use super::body;
use super::problem::Problem;
use crate::auth::Role;
use crate::finish::Finish;
use crate::redact::log_id;
use crate::telemetry::labels::OpIndex;
use crate::telemetry::metrics::ByAnswer;
use crate::telemetry::store_time::StoreQuestion;
use crate::telemetry::traces::CallTrace;
use crate::validate;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{header, HeaderMap, HeaderValue};
use idempotency_protocol as protocol;
use idempotency_protocol::{Answer, DecodeError, Fault, FaultCode, Operation};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Answers a call: broken framing fails it, a bad operation fails alone.
pub(crate) async fn call<B>(
    app: &Arc<App>,
    headers: &HeaderMap,
    arrival: &Arrival,
    request: B,
) -> Result<Response, Problem>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    is_message(headers)?;
    let mut may = Permissions::of(app, arrival)?;
    let body = body::read(app, request, app.limits.max_body_bytes).await?;
    let started = Instant::now();
    let bad = |error: DecodeError| Problem::bad_message(error.to_string());
    let (revision, decoded, trace) = match &app.traces {
        None => {
            let received = protocol::Request::decode(body.bytes).map_err(bad)?;
            (received.revision, received.items, None)
        }
        Some(_) => {
            let received = protocol::Request::decode_traced(body.bytes).map_err(bad)?;
            let trace = CallTrace::begin(headers, &received.items);
            let items = received.items.into_iter();
            let items = items.map(|item| item.map(|(operation, _)| operation));
            (received.revision, items.collect(), trace)
        }
    };
    if decoded.is_empty() {
        return Err(Problem::bad_message("a call holds at least one operation"));
    }
    let max = app.limits.max_batch;
    if decoded.len() > max {
        return Err(Problem::too_large(format!(
            "A call holds at most {max} operations."
        )));
    }
    if decoded
        .iter()
        .any(|o| matches!(o, Ok(Operation::Settle(_))))
    {
        may.upstream = app.check(Role::Upstream, arrival).is_ok();
    }
    let size = decoded.len();
    let batch = Batch::new(app, decoded, &may);
    let mut store_time = None;
    let answers = if batch.operations.is_empty() {
        Vec::new()
    } else {
        let asked_at = trace.is_some().then(SystemTime::now);
        let permit = app
            .call_permit(batch.settles)
            .ok_or_else(|| Problem::overloaded("Too many calls at once."))?;
        let (store, operations) = (app.store.clone(), batch.operations);
        let (asked, times) = (StoreQuestion::operations(&batch.indexes), app.clone());
        let work = async move {
            let answers = times.metrics.store.measure(asked, store.apply(operations));
            let answers = answers.await;
            drop((permit, body.room));
            answers
        };
        let mut cut = CutOff(Some(app));
        let answers = Finish::new(work, &app.background).await;
        cut.0 = None;
        store_time = asked_at.map(|at| (at, SystemTime::now()));
        answers
    };
    let answers = weave(batch.refused, answers, size);
    for (index, answer) in batch.indexes.iter().zip(&answers) {
        app.metrics.operation(*index, answer);
    }
    for (place, rule) in &batch.rules {
        if let Some(answer) = answers.get(*place) {
            rule.add(answer);
        }
    }
    app.metrics.call(started.elapsed(), size);
    if let Some(trace) = trace {
        trace.end(app, store_time, &answers);
    }
    log(app, arrival, &batch.log_ids, &batch.indexes, &answers);
    Ok(message(answers, revision))
}

/// Whether the body is said to be a message of ours. Any other content type may have been sent by
/// a web page, which needs nobody's permission to send forms and plain text.
pub(crate) fn is_message(headers: &HeaderMap) -> Result<(), Problem> {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    match (kinds.next(), kinds.next()) {
        (Some(kind), None)
            if kind
                .as_bytes()
                .eq_ignore_ascii_case(protocol::CONTENT_TYPE.as_bytes()) =>
        {
            Ok(())
        }
        _ => Err(Problem::unsupported_media_type()),
    }
}

/// Counts a call whose client left while the store was at work.
struct CutOff<'a>(Option<&'a App>);

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        if let Some(app) = self.0 {
            app.metrics.cut_off.inc();
        }
    }
}

/// Which operations the caller may send. Gateways send everything but settle; upstreams, which
/// may speak this protocol too, nothing but settle.
struct Permissions {
    gateway: bool,
    upstream: bool,
}

impl Permissions {
    fn of(app: &App, arrival: &Arrival) -> Result<Permissions, Problem> {
        match app.check(Role::Gateway, arrival) {
            // Only an open upstream role adds settle to what a gateway may do; that is looked up
            // when an operation asks for it.
            Ok(_) => Ok(Permissions {
                gateway: true,
                upstream: false,
            }),
            Err(denied) => match app.check(Role::Upstream, arrival) {
                Ok(_) => Ok(Permissions {
                    gateway: false,
                    upstream: true,
                }),
                Err(_) => Err(denied.into()),
            },
        }
    }

    fn allow(&self, operation: &Operation) -> Result<(), &'static str> {
        match operation {
            Operation::Settle(_) if !self.upstream => Err("settle needs the upstream role"),
            Operation::Settle(_) => Ok(()),
            _ if !self.gateway => Err("this operation needs the gateway role"),
            _ => Ok(()),
        }
    }
}

/// A decoded call: what goes to the store, and what is answered without it.
struct Batch {
    operations: Vec<Operation>,
    /// Ascending places of operations that the store does not see.
    refused: Vec<(usize, Fault)>,
    indexes: Vec<OpIndex>,
    /// The counters of the rules of acquires, by place.
    rules: Vec<(usize, Arc<ByAnswer>)>,
    /// Filled only where it will be logged.
    log_ids: Vec<String>,
    /// One of them ends or prolongs an execution.
    settles: bool,
}

impl Batch {
    fn new(app: &App, decoded: Vec<Result<Operation, DecodeError>>, may: &Permissions) -> Batch {
        let mut batch = Batch {
            operations: Vec::with_capacity(decoded.len()),
            refused: Vec::new(),
            indexes: Vec::with_capacity(decoded.len()),
            rules: Vec::new(),
            log_ids: Vec::new(),
            settles: false,
        };
        let logged = tracing::enabled!(tracing::Level::DEBUG);
        for (place, operation) in decoded.into_iter().enumerate() {
            let mut refuse = |detail: String| {
                batch.refused.push((
                    place,
                    Fault {
                        code: FaultCode::Invalid,
                        detail,
                    },
                ));
            };
            match operation {
                Ok(operation) => {
                    batch.indexes.push(OpIndex::of(&operation));
                    let rule = rule(&operation).and_then(|rule| app.metrics.rules.of(rule));
                    batch.rules.extend(rule.map(|rule| (place, rule)));
                    if logged {
                        batch.log_ids.push(log_id(operation.key()));
                    }
                    let allowed = may
                        .allow(&operation)
                        .and_then(|()| validate::operation(&operation));
                    match allowed {
                        Ok(()) => {
                            batch.settles |= !matches!(operation, Operation::Acquire(_));
                            batch.operations.push(operation);
                        }
                        Err(detail) => refuse(detail.to_owned()),
                    }
                }
                Err(error) => {
                    refuse(error.to_string());
                    batch.indexes.push(OpIndex::UNDECODABLE);
                    if logged {
                        batch.log_ids.push(String::new());
                    }
                }
            }
        }
        batch
    }
}

/// The rule of an acquire, as the gateway says it.
fn rule(operation: &Operation) -> Option<&str> {
    match operation {
        Operation::Acquire(acquire) => acquire.about.as_deref().map(|about| about.rule.as_str()),
        _ => None,
    }
}

/// Puts the store's answers and the refusals into the order asked.
fn weave(refused: Vec<(usize, Fault)>, answers: Vec<Answer>, size: usize) -> Vec<Answer> {
    if refused.is_empty() && answers.len() == size {
        return answers;
    }
    let mut woven = Vec::with_capacity(size);
    let mut refused = refused.into_iter().peekable();
    let mut answers = answers.into_iter();
    for place in 0..size {
        let answer = match refused.next_if(|(at, _)| *at == place) {
            Some((_, fault)) => Answer::Fault(fault),
            None => answers.next().unwrap_or_else(|| {
                let detail = "the store gave no answer".to_owned();
                Answer::Fault(Fault {
                    code: FaultCode::Internal,
                    detail,
                })
            }),
        };
        woven.push(answer);
    }
    woven
}

fn log(app: &App, arrival: &Arrival, log_ids: &[String], indexes: &[OpIndex], answers: &[Answer]) {
    for answer in answers {
        // A store that has failed fails every operation: the metrics count them, the log says why.
        match answer {
            Answer::Fault(fault) if fault.code == FaultCode::Internal => {
                if let Some(unsaid) = app.faults.say(&fault.detail) {
                    tracing::error!(store = %app.store_address, fault = %fault, unsaid, "operation failed");
                }
            }
            Answer::Fault(fault) if fault.code == FaultCode::Unavailable => {
                if let Some(unsaid) = app.faults.say(&fault.detail) {
                    tracing::warn!(store = %app.store_address, fault = %fault, unsaid, "operation not possible now");
                }
            }
            Answer::Fault(fault)
                if matches!(
                    fault.code,
                    FaultCode::Capacity | FaultCode::Untrusted | FaultCode::Quota
                ) =>
            {
                if let Some(unsaid) = app.refused.say(&fault.detail) {
                    let (from, store) = (arrival.from, &app.store_address);
                    tracing::info!(%from, %store, fault = %fault, unsaid, "refused");
                }
            }
            _ => {}
        }
    }
    for ((id, index), answer) in log_ids.iter().zip(indexes).zip(answers) {
        tracing::debug!(key = %id, operation = index.name(), answer = answer.name(), "operation");
    }
}

/// A binary answer for a peer that knows this revision of the protocol. A replay that has no room in an answer to several operations is left out: its
/// asker comes back alone.
pub(crate) fn message(answers: Vec<Answer>, revision: u16) -> Response {
    let mut response = protocol::Response { answers };
    response.share();
    let bytes = response.encode_for(revision);
    let mut response = Response::new(Body::from(bytes));
    let kind = HeaderValue::from_static(protocol::CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(detail: &str) -> Fault {
        Fault {
            code: FaultCode::Invalid,
            detail: detail.into(),
        }
    }

    #[test]
    fn answers_keep_their_places() {
        let woven = weave(
            vec![(0, fault("a")), (2, fault("b"))],
            vec![Answer::Lost, Answer::Failed],
            4,
        );
        assert_eq!(
            woven,
            [
                Answer::Fault(fault("a")),
                Answer::Lost,
                Answer::Fault(fault("b")),
                Answer::Failed
            ]
        );
    }

    #[test]
    fn a_store_that_says_too_little_is_a_fault() {
        let woven = weave(Vec::new(), vec![Answer::Lost], 2);
        assert!(matches!(&woven[1], Answer::Fault(f) if f.code == FaultCode::Internal));
    }
}
