//! How often, and in which order, the upstream executed.

use super::answers::redirected;
use super::doubt::doubt;
use super::index::{Execution, Index, Key, Op};
use super::{Law, Verdict};
use crate::clock::Micros;
use crate::history::TENANT_HEADER;
use crate::workload::Class;

pub(super) fn check(index: &Index, key: &Key, verdict: &mut Verdict) {
    let executions = key.executions();
    for (op, execution) in &executions {
        if let Some(what) = stranger(op, execution) {
            let what = format!("operation {}: {what}: {execution:?}", op.invoke.op);
            verdict.violations.push(key.violation(Law::OwnAnswer, what));
        }
    }
    let mut nothing_done = true;
    for pair in executions.windows(2) {
        let [before, after] = pair else {
            continue;
        };
        nothing_done &= before.1.did_nothing();
        if redirected(index, key, after.0) {
            let what = format!(
                "operation {} executed what was sent elsewhere before: {:?}",
                after.0.invoke.op, after.1
            );
            verdict
                .violations
                .push(key.violation(Law::AtMostOnce, what));
        }
        let complaints = [
            repeated(index, *before, *after).map(|what| (Law::AtMostOnce, what)),
            disordered(index, *before, *after).map(|what| (Law::Fences, what)),
            // A key whose executions did nothing so far takes a corrected request.
            (!before.0.asks_as(after.0) && !nothing_done)
                .then_some((Law::Mismatch, "executed with two payloads")),
        ];
        for (law, what) in complaints.into_iter().flatten() {
            let what = format!(
                "{what}: operation {} (fence {}, {:?}) and then operation {} (fence {})",
                before.0.invoke.op,
                before.1.fence,
                before.1.class,
                after.0.invoke.op,
                after.1.fence
            );
            verdict.violations.push(key.violation(law, what));
        }
    }
    // Whoever was told that the outcome is unknown saw a state that nothing but the end of that
    // execution, or an operator, can end.
    let told = unknown_since(key);
    for (op, execution) in executions {
        if told.is_some_and(|told| op.invoke.at > told) {
            let what = format!(
                "operation {} executed after an unknown outcome was told: {execution:?}",
                op.invoke.op
            );
            verdict
                .violations
                .push(key.violation(Law::AtMostOnce, what));
        }
    }
}

/// When the first client had been told that the outcome is unknown.
pub(super) fn unknown_since(key: &Key) -> Option<Micros> {
    let told = key.ops.iter().filter(|op| {
        op.answer().is_some_and(|answer| {
            answer.status == 409 && answer.problem.as_deref() == Some("outcome-unknown")
        })
    });
    told.map(|op| op.returned).min()
}

type Executed<'a> = (&'a Op<'a>, &'a Execution<'a>);

/// An execution that is not what its client asked for.
fn stranger(op: &Op, execution: &Execution) -> Option<&'static str> {
    let (started, invoke) = (execution.started, op.invoke);
    let tenant = started.headers.get(TENANT_HEADER);
    // A key out of the body comes as the gateway writes it.
    let key = if op.rule.hooks {
        started.key.trim_matches('"')
    } else {
        &started.key
    };
    if key != invoke.key || tenant != Some(&invoke.tenant) {
        return Some("executed under another key or tenant");
    }
    if started.body_sha256 != invoke.payload || started.path != op.rule.target(invoke.moved) {
        return Some("executed another request");
    }
    if started.at < invoke.at {
        return Some("executed before it was asked for");
    }
    None
}

/// Whether the rule allows another execution after this one, whose outcome may be unknown.
fn may_repeat(index: &Index, op: &Op) -> bool {
    op.rule.retries && doubt(index, op).is_some()
}

/// What is wrong with there being a second one, of two executions whose fences follow each other.
fn repeated(index: &Index, before: Executed, after: Executed) -> Option<&'static str> {
    let ((op, first), (_, second)) = (before, after);
    if may_repeat(index, op) {
        return None;
    }
    if first.class != Class::Failed || !first.finished {
        return Some("executed again");
    }
    (second.started.at < first.over).then_some("executed again before the first one ended")
}

/// What is wrong with their order.
fn disordered(index: &Index, before: Executed, after: Executed) -> Option<&'static str> {
    let ((op, first), (_, second)) = (before, after);
    if first.fence == second.fence {
        return Some("two executions have one fence");
    }
    if second.attempt <= first.attempt {
        return Some("the attempt did not grow with the fence");
    }
    // A gateway that was paused between its check of the lease and the request may come late;
    // that is what the fence is for.
    (second.over < first.started.at && !may_repeat(index, op))
        .then_some("the fence did not grow with time")
}
