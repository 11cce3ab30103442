//! Quotas of tenants: above them a new key is refused with 429 and not executed, whatever the rule
//! says of outages; what was granted goes on.

use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, record, Answer, Request,
};
use idempotency_stack::Stack;
use serde_json::{json, Value};

use crate::support::{
    await_counter, await_execution, charge, in_background, problem, rule, EXECUTIONS,
};

/// A stack whose service holds tenants to this, with one rule that passes requests in an outage.
fn limited(execution: &str, quota: &[&str], more: Value) -> Stack {
    let mut fields = json!({
        "scope": { "header": "x-tenant" },
        "on_service_failure": "pass",
    });
    if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
        fields.extend(more);
    }
    let quota: Vec<String> = quota.iter().map(|word| (*word).to_owned()).collect();
    Stack::builder()
        .rules(json!([rule(execution, fields)]))
        .service(move |service| {
            service.args.extend(quota);
            let sweeps = ["--sweep-interval", "50ms"];
            service.args.extend(sweeps.map(str::to_owned));
        })
        .start()
}

fn of(tenant: &str, target: &str, key: &str) -> Request {
    charge(target, key).header("x-tenant", tenant)
}

/// Asks until there is room, which may come with a sweep or, on Kong, with the worker's timer.
fn until_there_is_room(stack: &Stack, request: &Request) -> Answer {
    let mut last = None;
    eventually("there is room", || {
        let answer = request.send(stack);
        let again = problem(&answer) == "tenant-quota";
        last = Some(answer);
        !again
    });
    match last {
        Some(answer) => answer,
        None => unreachable!("the condition ran at least once"),
    }
}

fn assert_refused(stack: &Stack, tenant: &str, key: &str) {
    let refused = of(tenant, "/charges", key).send(stack);
    assert_problem(&refused, 429, "tenant-quota");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    let document = refused.json();
    assert_eq!(document["retryable"], json!(true), "{document}");
    assert_eq!(document["reuse_key"], json!(true), "{document}");
    assert_eq!(executions(stack, key), 0, "it was executed all the same");
}

/// The value of one of the service's metrics.
fn metric(stack: &Stack, name: &str) -> u64 {
    let text = stack.service.metrics();
    let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

#[test]
fn above_its_quota_of_executions_a_tenant_is_refused_and_nothing_of_it_runs() {
    for execution in EXECUTIONS {
        let quota = ["--max-executions-per-tenant", "1"];
        let stack = limited(execution, &quota, json!({}));
        let [running, refused, other, failing] =
            ["running", "refused", "other", "failing"].map(fresh_key);
        let slow = of("acme", "/charges?delay_ms=3000", &running);
        let waiting = in_background(&stack, &slow);
        await_execution(&stack, &running);
        assert_refused(&stack, "acme", &refused);
        assert_refused(&stack, "acme", &refused);
        assert_eq!(of("globex", "/charges", &other).send(&stack).status, 201);
        assert_problem(&slow.send(&stack), 409, "in-flight");

        let first = waiting.join().unwrap().unwrap();
        assert_eq!(first.status, 201, "{first:?}");
        let now = until_there_is_room(&stack, &of("acme", "/charges", &refused));
        assert_eq!(now.status, 201, "{now:?}");
        assert_replay(&first, &slow.send(&stack));

        // What fails makes room as well, and may be repeated itself.
        let fails = of("acme", "/charges?status=429", &failing);
        let failed = until_there_is_room(&stack, &fails);
        assert_eq!(failed.status, 429, "{failed:?}");
        assert_ne!(problem(&failed), "tenant-quota");
        let last = until_there_is_room(&stack, &of("acme", "/charges", &fresh_key("last")));
        assert_eq!(last.status, 201, "{last:?}");
        for (key, times) in [(&running, 1), (&refused, 1), (&other, 1), (&failing, 1)] {
            assert_eq!(executions(&stack, key), times, "{execution}: {key}");
        }
        let refusals = "idempotencyd_quota_refusals_total{reason=\"executions\"}";
        assert!(metric(&stack, refusals) >= 2, "{}", stack.service.metrics());
        assert_eq!(crate::support::counter(&stack, "passed_unprotected"), 0);
        eventually("the refusals are told", || {
            crate::support::counter(&stack, "problem_tenant_quota") >= 2
        });
    }
}

#[test]
fn above_its_quota_of_records_a_tenant_has_room_again_when_one_has_expired() {
    for execution in EXECUTIONS {
        let quota = ["--max-records-per-tenant", "1"];
        let stack = limited(execution, &quota, json!({ "ttl_ms": 6_000 }));
        let [kept, refused] = ["kept", "refused"].map(fresh_key);
        let request = of("acme", "/charges", &kept);
        let first = request.send(&stack);
        assert_eq!(first.status, 201, "{first:?}");
        assert_refused(&stack, "acme", &refused);
        eventually("it is recorded", || {
            let record = stack.service.operator(
                "GET",
                &format!("/v1/record?tenant=acme&namespace=&key={kept}"),
                "",
            );
            record.json()["state"] == json!("completed")
        });
        assert_replay(&first, &request.send(&stack));
        let now = until_there_is_room(&stack, &of("acme", "/charges", &refused));
        assert_eq!(now.status, 201, "{now:?}");
        assert_eq!(executions(&stack, &refused), 1, "{execution}");
        assert_eq!(executions(&stack, &kept), 1, "{execution}");
        assert!(record(&stack, &refused).is_none(), "it is the tenant's");
    }
}

/// Bytes: one answer is stored whole, however large; then there is no room for a new key.
#[test]
fn a_large_answer_is_kept_and_uses_up_the_quota_of_bytes() {
    let quota = ["--max-bytes-per-tenant", "10KiB"];
    let stack = limited("inline", &quota, json!({}));
    let [large, refused] = ["large", "refused"].map(fresh_key);
    let request = of("acme", "/charges?bytes=30000", &large);
    let first = request.send(&stack);
    assert_eq!(first.status, 201);
    eventually("it is recorded", || {
        problem(&request.send(&stack)) != "in-flight"
    });
    assert_refused(&stack, "acme", &refused);
    assert_replay(&first, &request.send(&stack));
    assert_eq!(executions(&stack, &large), 1);
}

#[test]
fn observed_it_is_counted_and_everything_runs() {
    for execution in EXECUTIONS {
        let quota = ["--max-records-per-tenant", "1"];
        let stack = limited(execution, &quota, json!({ "mode": "observe" }));
        let [kept, over] = ["kept", "over"].map(fresh_key);
        assert_eq!(of("acme", "/charges", &kept).send(&stack).status, 201);
        await_counter(&stack, "observed_execution", 1);
        assert_eq!(of("acme", "/charges", &over).send(&stack).status, 201);
        await_counter(&stack, "observed_tenant_quota", 1);
        assert_eq!(executions(&stack, &over), 1, "{execution}");
        assert_eq!(crate::support::counter(&stack, "problem_tenant_quota"), 0);
    }
}

/// Nobody can end the execution any more: the end of its lease makes room, and its key stays unknown.
#[test]
fn an_execution_whose_gateway_died_counts_until_its_lease_is_over() {
    let quota = ["--max-executions-per-tenant", "1"];
    let fields = json!({
        // Longer than a gateway takes to start on a busy machine.
        "lease_ms": 10_000,
        "lease_margin_ms": 300,
        "execution_timeout_ms": 8_000,
    });
    let mut stack = limited("detached", &quota, fields);
    let [orphan, next] = ["orphan", "next"].map(fresh_key);
    let request = of("acme", "/charges?delay_ms=1000", &orphan);
    let waiting = in_background(&stack, &request);
    await_execution(&stack, &orphan);
    stack.gateway.kill();
    assert!(waiting.join().unwrap().is_err(), "its gateway died");
    stack.gateway.restart().expect("the gateway starts again");
    assert_refused(&stack, "acme", &next);
    let now = until_there_is_room(&stack, &of("acme", "/charges", &next));
    assert_eq!(now.status, 201, "{now:?}");
    assert_problem(&request.send(&stack), 409, "outcome-unknown");
    assert_eq!(executions(&stack, &orphan), 1);
}
