//! The record of a key when all is quiet.

use super::answers::stored;
use super::doubt::{doubt, doubt_before, Doubt};
use super::index::{Index, Key};
use super::{Law, Verdict};
use crate::workload::Class;

pub(super) fn check(index: &Index, key: &Key, verdict: &mut Verdict) {
    let Some(record) = key.record else {
        return;
    };
    // What came before the record was asked for.
    let mut executions = key.executions();
    executions.retain(|(_, execution)| execution.started.at <= record.at);
    let last = executions.last();
    let mut complain = |what: &str| {
        let what = format!("{what}: {record:?}, last executed: {last:?}");
        verdict
            .violations
            .push(key.violation(Law::FinalState, what));
    };
    if let Some((_, execution)) = last.filter(|(_, execution)| execution.fence > record.fence) {
        complain(&format!(
            "the record knows nothing of fence {}",
            execution.fence
        ));
        return;
    }
    let of_record = last.filter(|(_, execution)| execution.fence == record.fence);
    let kept = stored(index, key).filter(|stored| stored.since <= record.at);
    if kept
        .is_some_and(|stored| record.state != "completed" || record.fence != stored.execution.fence)
    {
        complain("an answer was stored, and is not");
        return;
    }
    match record.state.as_str() {
        "completed" => {
            let right = of_record.is_some_and(|(_, execution)| {
                execution.class == Class::Completed
                    && record.status == Some(execution.status)
                    && record.tombstone != execution.kept
            });
            if !right {
                complain("completed without such an execution");
            }
        }
        "failed" => {
            if of_record.is_some_and(|(_, execution)| execution.class != Class::Failed) {
                complain("what was executed is said not to have been");
            }
        }
        "unknown" => {
            let why = match of_record {
                // A retry that failed leaves unknown what an attempt before it may have done.
                Some((op, execution)) => {
                    doubt(index, op).or_else(|| doubt_before(index, key, execution))
                }
                None => {
                    let idle = key.ops.iter().filter(|op| op.execution.is_none());
                    idle.filter(|op| op.invoke.at <= record.at)
                        .find_map(|op| doubt(index, op))
                }
            };
            match why {
                Some(why) => *verdict.unknown.entry(name(why).to_owned()).or_default() += 1,
                None => complain("unknown, and nothing explains it"),
            }
        }
        "absent" => {
            if last.is_some() {
                complain("executed and forgotten");
            }
        }
        _ => complain("still locked"),
    }
    // Delivered without being stored: the gateway goes on until it is, if it lives.
    let seen = of_record.is_some_and(|(op, execution)| {
        let whole = op.answer().is_some_and(|answer| {
            answer.id.as_ref() == Some(&execution.started.id)
                && execution.class == Class::Completed
                && op.returned <= record.at
        });
        whole && !index.faults.killed_after(op.invoke.gateway, op.invoke.at)
    });
    if seen && record.state != "completed" {
        complain("a client has the answer, its gateway lives, and it was never stored");
    }
}

fn name(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::Upstream => "the upstream's answer",
        Doubt::ClientLeft => "the client left",
        Doubt::Fault => "a fault",
        Doubt::Stall => "the machine stood still",
        Doubt::Slow => "it took longer than the gateway waits",
    }
}
