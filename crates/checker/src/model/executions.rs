//! How often, and in which order, the upstream executed.

use super::doubt::doubt;
use super::index::{Execution, Index, Key, Op};
use super::{Law, Verdict};
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
    for pair in executions.windows(2) {
        let [before, after] = pair else {
            continue;
        };
        if let Some((law, what)) = repeated(index, *before, *after) {
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
}

/// An execution that is not what its client asked for.
fn stranger(op: &Op, execution: &Execution) -> Option<&'static str> {
    let (started, invoke) = (execution.started, op.invoke);
    let tenant = started.headers.get(TENANT_HEADER);
    if started.key != invoke.key || tenant != Some(&invoke.tenant) {
        return Some("executed under another key or tenant");
    }
    if started.body_sha256 != invoke.payload || started.path != op.rule.path {
        return Some("executed another request");
    }
    if started.at < invoke.at {
        return Some("executed before it was asked for");
    }
    None
}

type Executed<'a> = (&'a Op<'a>, &'a Execution<'a>);

/// What is wrong about two executions of one key whose fences follow each other.
fn repeated(index: &Index, before: Executed, after: Executed) -> Option<(Law, &'static str)> {
    let ((op, first), (next, second)) = (before, after);
    if first.fence == second.fence {
        return Some((Law::Fences, "two executions have one fence"));
    }
    if second.attempt <= first.attempt {
        return Some((Law::Fences, "the attempt did not grow with the fence"));
    }
    if next.invoke.payload != op.invoke.payload {
        return Some((Law::Mismatch, "executed with two payloads"));
    }
    let doubtful = op.rule.retries && doubt(index, op).is_some();
    if !doubtful && second.started.at < first.over() {
        return Some((Law::AtMostOnce, "executed again before the first one ended"));
    }
    // A gateway that was paused between its check of the lease and the request may come late;
    // that is what the fence is for.
    if second.over() < first.started.at && !doubtful {
        return Some((Law::Fences, "the fence did not grow with time"));
    }
    let failed = first.class == Class::Failed && first.finished.is_some();
    if failed || doubtful {
        return None;
    }
    Some((Law::AtMostOnce, "executed again"))
}
