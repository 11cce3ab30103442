//! What an operator sees of a request in a trace (`docs/traces.md`): gateway, service, store and upstream, by a real
//! Envoy that traces too, and a collector.

use std::collections::BTreeSet;

use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, record, Request,
};
use idempotency_stack::{calls_are_shared, StackBuilder};
use serde_json::json;

use crate::collector::{Collector, Span};
use crate::support::{await_execution, charge, in_background, with_rule, with_timeout, EXECUTIONS};

/// Trace ids are random elsewhere; here they are told from each other by their first digits.
fn trace(number: u8) -> String {
    format!("{number:02x}{}", "4bf92f3577b34da6a3ce929d0e0e47")
}

const CALLER: &str = "00f067aa0ba902b7";

/// The client's own span is the root of the trace.
fn traced(request: Request, trace: &str) -> Request {
    request.header("traceparent", format!("00-{trace}-{CALLER}-01"))
}

fn with_collector(builder: StackBuilder, collector: &Collector) -> StackBuilder {
    let address = collector.address();
    builder
        .service(move |service| {
            let endpoint = format!("http://{address}");
            service
                .args
                .extend(["--otlp-endpoint".to_owned(), endpoint]);
        })
        .on_envoy(move |envoy| envoy.tracing = Some(address))
}

/// The only span with this name, and its answer.
fn the<'s>(spans: &'s [Span], name: &str, answer: &str) -> &'s Span {
    let mut found = spans
        .iter()
        .filter(|span| span.name == name && span.attribute("answer") == answer);
    match (found.next(), found.next()) {
        (Some(span), None) => span,
        _ => panic!("not one {name} with answer {answer}: {spans:#?}"),
    }
}

/// The store's part of an operation.
fn of_store<'s>(spans: &'s [Span], operation: &Span) -> &'s Span {
    let mut below = spans.iter().filter(|span| span.parent == operation.id);
    match (below.next(), below.next()) {
        (Some(store), None) if store.name.starts_with("store ") => store,
        other => panic!("no store below {operation:?}: {other:?}"),
    }
}

/// "Done when" of issue 15: a trace through gateway, service, store and upstream, a replay and a conflict that are
/// linked to it.
#[test]
fn one_trace_shows_gateway_service_store_and_upstream() {
    only_on!(
        Envoy,
        "the other gateways of the tests trace nothing themselves"
    );
    for (place, execution) in EXECUTIONS.into_iter().enumerate() {
        let collector = Collector::start();
        let stack = with_collector(with_rule(execution, json!({})), &collector).start();
        let ids: Vec<String> = (0..3).map(|n| trace(16 * place as u8 + n)).collect();
        let [first, conflict, replay] = ids.as_slice() else {
            unreachable!()
        };
        let key = fresh_key("trace");
        let request = charge("/charges?echo=1&delay_ms=500", &key);
        let running = in_background(&stack, &traced(request.clone(), first));
        await_execution(&stack, &key);
        let refused = traced(request.clone(), conflict).send(&stack);
        assert_problem(&refused, 409, "in-flight");
        let answer = running.join().expect("a client").expect("an answer");
        assert_eq!(answer.status, 201, "{answer:?}");
        let again = traced(request, replay).send(&stack);
        assert_replay(&answer, &again);
        assert_eq!(executions(&stack, &key), 1);

        // Outer listener, acquire, store, complete, store, upstream; a detached execution has a listener of its own,
        // whose requests are the outer one's.
        let spans = collector.whole(first, spans_of(execution));
        let acquire = the(&spans, "idempotency acquire", "granted");
        let complete = the(&spans, "idempotency complete", "completed");
        for operation in [acquire, complete] {
            assert_eq!(operation.service, "idempotencyd");
            assert_eq!(operation.parent, CALLER);
            assert!(
                operation.links.is_empty(),
                "it shared no call: {operation:?}"
            );
            assert!(of_store(&spans, operation).is_within(operation));
        }
        assert_eq!(acquire.attribute("rule"), "charges");
        assert_eq!(acquire.attribute("attempt"), "1");
        let kept = record(&stack, &key).expect("a record");
        assert_eq!(acquire.attribute("log_id"), kept["log_id"]);
        assert_eq!(acquire.attribute("fence"), kept["fence"].to_string());

        // The upstream goes on with the trace, below the gateway's own span of the call to it.
        let parent = answer.echoed("traceparent").expect("a traceparent");
        let mut parts = parent.split('-').skip(1);
        assert_eq!(parts.next(), Some(first.as_str()), "{parent}");
        let above = parts.next().expect("a span");
        let egress = spans.iter().find(|span| span.id == above);
        let egress = egress.unwrap_or_else(|| panic!("{above} is not in {spans:#?}"));
        assert!(egress.service.starts_with("envoy "), "{egress:?}");
        // And all of it hangs together: below the client's span, nothing is missing.
        for span in &spans {
            let known = span.parent == CALLER || spans.iter().any(|s| s.id == span.parent);
            assert!(known, "{span:?} in {spans:#?}");
        }

        // Duplicates lead to the execution that they met.
        let origin = (first.clone(), acquire.id.clone());
        for (id, answer) in [(conflict, "in_flight"), (replay, "stored")] {
            let spans = collector.whole(id, 3);
            let acquire = the(&spans, "idempotency acquire", answer);
            assert_eq!(acquire.links, std::slice::from_ref(&origin), "{acquire:?}");
            of_store(&spans, acquire);
            let upstream = spans.iter().any(|span| span.name.contains("egress"));
            assert!(!upstream, "nothing was executed: {spans:#?}");
        }
        for id in &ids {
            println!("{execution}: {}", collector.draw(id));
        }
    }
}

/// How many spans the trace of a first request has.
fn spans_of(execution: &str) -> usize {
    let detached = by_host!(
        "the native module executes inline, so there is no inner listener",
        envoy: 7,
        kong: 7,
        native: 6,
    );
    if execution == "detached" {
        detached
    } else {
        6
    }
}

/// What comes later, and from elsewhere, is in the same trace.
#[test]
fn a_wait_and_a_settlement_have_spans() {
    only_on!(
        Envoy,
        "the other gateways of the tests trace nothing themselves"
    );
    let collector = Collector::start();
    let builder = with_rule("detached", json!({ "wait_ms": 5000 }));
    let stack = with_collector(builder, &collector).start();
    let key = fresh_key("wait");
    let request = charge("/charges?delay_ms=700", &key);
    let running = in_background(&stack, &traced(request.clone(), &trace(50)));
    await_execution(&stack, &key);
    let waited = traced(request, &trace(51)).send(&stack);
    let first = running.join().expect("a client").expect("an answer");
    assert_replay(&first, &waited);
    let spans = collector.whole(&trace(51), 4);
    let wait = the(&spans, "idempotency wait", "stored");
    let origin = collector.whole(&trace(50), spans_of("detached"));
    let origin = the(&origin, "idempotency acquire", "granted");
    assert_eq!(wait.links, [(origin.trace.clone(), origin.id.clone())]);
    assert_eq!(wait.parent, CALLER);

    let key = fresh_key("settle");
    let request = charge("/charges?status=500", &key);
    assert_eq!(request.send(&stack).status, 500);
    let fence = record(&stack, &key).expect("a record")["fence"].to_string();
    let target = format!("/v1/settle?key={key}&fence={fence}&outcome=failed");
    let settled = idempotency_stack::http::Request::post(&target)
        .bearer(&stack.service.tokens().upstream)
        .header("traceparent", &format!("00-{}-{CALLER}-01", trace(52)))
        .send(stack.service.address())
        .expect("the service answers");
    assert_eq!(settled.status, 200, "{settled:?}");
    let spans = collector.whole(&trace(52), 2);
    let settle = the(&spans, "idempotency settle", "failed");
    assert!(of_store(&spans, settle).is_within(settle));
    assert!(!settle.failed, "it is no error: {settle:?}");
}

/// The operations of a batch belong to traces that know nothing of each other.
#[test]
fn the_span_of_a_batch_is_linked_to_the_traces_of_its_operations() {
    only_on!(Envoy, "the other gateways of the tests send no batches");
    let collector = Collector::start();
    let builder = with_timeout("inline", 10_000, json!({}));
    let mut stack = with_collector(builder, &collector).start();
    let key = fresh_key("batch");
    assert_eq!(charge("/charges", &key).send(&stack).status, 201);
    // What comes while the first ones are out leaves together.
    stack.service.process().pause();
    let traces: Vec<String> = (100..124).map(trace).collect();
    let clients: Vec<_> = traces
        .iter()
        .map(|id| {
            let request = charge("/charges", &format!("{key}-{id}"));
            in_background(&stack, &traced(request, id))
        })
        .collect();
    // Then four calls are out at most, and what more there is waits: some share a call.
    eventually("all requests are in the gateway", || {
        let active = stack
            .gateway
            .envoy()
            .stats("http.gateway.downstream_rq_active");
        active.values().sum::<u64>() >= traces.len() as u64
    });
    stack.service.process().resume();
    for client in clients {
        let answer = client.join().expect("a client").expect("an answer");
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    for id in &traces {
        let spans = collector.whole(id, 4);
        the(&spans, "idempotency acquire", "granted");
        the(&spans, "idempotency complete", "completed");
    }
    let all = collector.all();
    let calls: Vec<_> = all
        .iter()
        .filter(|s| s.name == "idempotency call")
        .collect();
    if !calls_are_shared() {
        assert!(
            calls.is_empty(),
            "every operation travels alone: {calls:#?}"
        );
        return;
    }
    assert!(!calls.is_empty(), "{all:#?}");
    let mut shared = BTreeSet::new();
    for call in calls {
        assert!(
            !traces.contains(&call.trace),
            "it is none of theirs: {call:?}"
        );
        assert!(call.links.len() > 1, "{call:?}");
        assert_eq!(call.attribute("operations"), call.links.len().to_string());
        for (trace, id) in &call.links {
            let operation = all.iter().find(|s| s.id == *id).expect("a span");
            assert_eq!(operation.trace, *trace);
            assert_eq!(operation.links, [(call.trace.clone(), call.id.clone())]);
            assert!(operation.is_within(call), "{operation:?} {call:?}");
            shared.insert(operation.trace.clone());
        }
    }
    assert!(shared.len() > 2, "{shared:?}");
}

/// Who is not traced costs nothing, and leaves nothing: not without a trace, and not in one that nobody keeps.
#[test]
fn what_the_gateway_does_not_keep_is_not_kept() {
    only_on!(
        Envoy | KongHost,
        "the library's layer has a store of its own"
    );
    let collector = Collector::start();
    let address = collector.address();
    let stack = with_rule("inline", json!({}))
        .service(move |service| {
            let endpoint = format!("http://{address}/v1/traces");
            service
                .args
                .extend(["--otlp-endpoint".to_owned(), endpoint]);
        })
        .start();
    let send = |request: Request| assert_eq!(request.send(&stack).status, 201);
    send(charge("/charges", &fresh_key("untraced")));
    let unsampled = format!("00-{}-{CALLER}-00", trace(200));
    send(charge("/charges", &fresh_key("untraced")).header("traceparent", &unsampled));
    send(traced(
        charge("/charges", &fresh_key("traced")),
        &trace(201),
    ));
    // Without a gateway that traces: acquire, complete, and the store for each.
    let spans = collector.whole(&trace(201), 4);
    assert_eq!(spans.len(), 4, "{spans:#?}");
    assert_eq!(collector.all().len(), 4, "{:#?}", collector.all());
}

/// Envoy begins the trace itself, and the filter hears of it by a filter before it.
#[test]
fn a_trace_that_envoy_begins_is_continued() {
    only_on!(Envoy, "a setting of Envoy's");
    let collector = Collector::start();
    let started = with_collector(with_rule("detached", json!({})), &collector)
        .on_envoy(|envoy| {
            envoy.filters_before.push(json!({
                "name": "traceparent",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
                    "mutations": { "request_mutations": [{ "append": {
                        "header": { "key": "traceparent", "value": "00-%TRACE_ID%-%SPAN_ID%-01" },
                        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                    } }] },
                },
            }));
        })
        .try_start();
    let stack = match started {
        Ok(stack) => stack,
        // Envoy 1.36 does not know it; docs/traces.md says so.
        Err(error) if error.to_string().contains("StreamInfo: SPAN_ID") => return,
        Err(error) => panic!("{error}"),
    };
    let key = fresh_key("begun");
    let answer = charge("/charges?echo=1", &key).send(&stack);
    assert_eq!(answer.status, 201, "{answer:?}");
    let parent = answer.echoed("traceparent").expect("a traceparent");
    let id = parent.split('-').nth(1).expect("a trace").to_owned();
    let spans = collector.whole(&id, spans_of("detached"));
    let acquire = the(&spans, "idempotency acquire", "granted");
    let above = spans.iter().find(|span| span.id == acquire.parent);
    let above = above.unwrap_or_else(|| panic!("{acquire:?} hangs in the air: {spans:#?}"));
    assert!(above.service.starts_with("envoy gateway"), "{above:?}");
    assert!(above.parent.is_empty(), "{above:?}");
    let complete = the(&spans, "idempotency complete", "completed");
    assert_eq!(complete.parent, above.id);
    let record = record(&stack, &key).expect("a record");
    assert_eq!(record["about"]["trace_id"], id);
}
