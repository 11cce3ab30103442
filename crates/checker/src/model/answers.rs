//! What clients were told.

use std::collections::HashMap;

use super::doubt::{doubt, doubt_before, locked_by_another, may_have_held, met_itself};
use super::executions::unknown_since;
use super::index::{Execution, Index, Key, Op};
use super::{Law, Verdict};
use crate::clock::{Micros, SECOND};
use crate::history::{Answer, End};
use crate::workload::{Class, Reset, HOP};

/// A client's patience is longer than anything that takes time, but for a fault that was still
/// felt so long before its end.
const LAST_EXCUSE: Micros = 10 * SECOND;

/// From when on it is certain that an execution's answer is stored.
pub(super) struct Stored<'a> {
    pub execution: &'a Execution<'a>,
    pub since: Micros,
}

/// The first moment at which some client's answer proves that an answer is stored.
pub(super) fn stored<'a>(index: &'a Index, key: &'a Key) -> Option<Stored<'a>> {
    let mut first: Option<Stored> = None;
    for op in &key.ops {
        let Some(answer) = op.answer() else {
            continue;
        };
        let id = answer.id.as_deref().unwrap_or_default();
        let Some((of, executed)) = index.executed(id) else {
            continue;
        };
        let Some(execution) = executed.execution.as_ref() else {
            continue;
        };
        if (of.tenant, of.key) != (key.tenant, key.key) {
            continue;
        }
        let proof = answer.replayed || op.rule.withholds || !index.troubled(op);
        let newer = first.as_ref().is_none_or(|f| op.returned < f.since);
        if execution.class == Class::Completed && proof && newer {
            first = Some(Stored {
                execution,
                since: op.returned,
            });
        }
    }
    first
}

pub(super) fn check(index: &Index, key: &Key, verdict: &mut Verdict) {
    let checker = Checker {
        index,
        key,
        stored: stored(index, key),
        executions: key.executions(),
    };
    let violations = &mut verdict.violations;
    let mut bytes: HashMap<&str, (&Op, &Answer)> = HashMap::new();
    for op in &key.ops {
        let mut complain = |law, what: String| {
            let Op { invoke, end, .. } = op;
            let what = format!("operation {} {what}: {end:?}", invoke.op);
            violations.push(key.violation(law, what));
        };
        if let Some((law, what)) = checker.operation(op) {
            complain(law, what.to_owned());
        }
        let Some((answer, id)) = op
            .answer()
            .and_then(|answer| Some((answer, answer.id.as_deref()?)))
        else {
            continue;
        };
        let (first, same) = bytes.entry(id).or_insert((op, answer));
        if (same.status, &same.body, &same.headers)
            != (answer.status, &answer.body, &answer.headers)
        {
            let what = format!("differs from operation {}", first.invoke.op);
            complain(Law::SameBytes, what);
        }
    }
}

/// Whether one of a key's executions has sent a client elsewhere that asked as `op` does, had the answer before
/// `op` began, and met no trouble: then the redirect is on record. A redirect after an attempt in doubt is not: the
/// record stays unknown, and a rule that retries executes again.
pub(super) fn redirected(index: &Index, key: &Key, op: &Op) -> bool {
    let of_record = |(other, execution): (&Op, &Execution)| {
        let told = other.answer().and_then(|answer| answer.id.as_deref());
        execution.is_redirect()
            && told == Some(execution.started.id.as_str())
            && other.asks_as(op)
            && other.returned < op.invoke.at
            && !index.troubled(other)
            && doubt_before(index, key, execution).is_none()
    };
    key.executions().into_iter().any(of_record)
}

struct Checker<'a> {
    index: &'a Index<'a>,
    key: &'a Key<'a>,
    stored: Option<Stored<'a>>,
    executions: Vec<(&'a Op<'a>, &'a Execution<'a>)>,
}

type Complaint = Option<(Law, &'static str)>;

impl Checker<'_> {
    fn operation(&self, op: &Op) -> Complaint {
        match op.end {
            End::Left => None,
            End::Answer(answer) => match (&answer.problem, &answer.id) {
                (Some(problem), _) => self.problem(op, answer, problem),
                (None, Some(id)) => self.of_execution(op, answer, id),
                (None, None) => self.of_envoy(op, answer),
            },
            End::Cut { .. } => {
                let halved = op.execution.as_ref().is_some_and(|_| {
                    matches!(op.invoke.behaviour.reset, Some(Reset::Headers | Reset::Mid))
                });
                let excused = halved || self.index.troubled(op) || doubt(self.index, op).is_some();
                (!excused).then_some((Law::Available, "was cut, and nothing explains it"))
            }
            End::Refused { .. } => (!self.index.troubled(op))
                .then_some((Law::Available, "was refused, and nothing explains it")),
            End::Hung => {
                let late = op.returned.saturating_sub(LAST_EXCUSE);
                let hit = self.index.faults.hit(op, late, op.returned);
                (!hit).then_some((Law::Available, "never got an answer"))
            }
        }
    }

    /// An answer that names an execution.
    fn of_execution(&self, op: &Op, answer: &Answer, id: &str) -> Complaint {
        let Some((key, executed)) = self.index.executed(id) else {
            return Some((
                Law::OwnAnswer,
                "got the answer of an execution that never was",
            ));
        };
        let execution = executed.execution.as_ref()?;
        if (key.tenant, key.key) != (self.key.tenant, self.key.key) {
            return Some((Law::OwnAnswer, "got the answer to another key"));
        }
        if !executed.asks_as(op) {
            return Some((Law::OwnAnswer, "got the answer to another payload"));
        }
        if answer.status != execution.status {
            return Some((Law::SameBytes, "got another status than the execution's"));
        }
        let own = executed.invoke.op == op.invoke.op;
        if own == answer.replayed {
            let what = if own {
                "got its own execution as a replay"
            } else {
                "got another one's execution as its own"
            };
            return Some((Law::OwnAnswer, what));
        }
        if answer.replayed && execution.is_redirect() {
            return None;
        }
        if answer.replayed && (execution.class != Class::Completed || !execution.kept) {
            return Some((Law::NoContradiction, "got a replay of what is not kept"));
        }
        let newer = self
            .executions
            .iter()
            .any(|(_, other)| other.fence > execution.fence && other.started.at < op.invoke.at);
        if answer.replayed && newer {
            return Some((
                Law::NoContradiction,
                "got a replay that a newer execution has replaced",
            ));
        }
        self.after_stored(op, Some(id))
    }

    /// An answer of Envoy itself.
    fn of_envoy(&self, op: &Op, answer: &Answer) -> Complaint {
        if !matches!(answer.status, 502..=504) || answer.replayed {
            return Some((Law::Available, "got an answer that nobody should have made"));
        }
        let own = op
            .execution
            .as_ref()
            .is_some_and(|execution| execution.class == Class::Unknown);
        if !own && !self.index.troubled(op) && doubt(self.index, op).is_none() {
            return Some((
                Law::Available,
                "got an error of Envoy that nothing explains",
            ));
        }
        self.after_stored(op, None)
    }

    fn problem(&self, op: &Op, answer: &Answer, problem: &str) -> Complaint {
        let troubled = self.index.troubled(op);
        if answer.replayed || answer.id.is_some() {
            return Some((Law::OwnAnswer, "got a problem that looks like an answer"));
        }
        match (answer.status, problem) {
            // Nobody can read the record, so nothing is told of it; and nothing is executed.
            (409, "not-comparable" | "not-replayable") if self.index.keyless(op) => None,
            (422, "key-reused") => self.mismatch(op),
            (409, "in-flight") => {
                if !answer.retry_after {
                    return Some((Law::Available, "was not told when to come again"));
                }
                let itself = met_itself(self.index, op);
                if !itself && !locked_by_another(self.index, self.key, op) {
                    return Some((Law::Locked, "met a lock that nobody can hold"));
                }
                let told = unknown_since(self.key).is_some_and(|told| op.invoke.at > told);
                if told {
                    return Some((Law::Locked, "met a lock after an unknown outcome was told"));
                }
                self.same_payload(op)
                    .or_else(|| self.after_stored(op, None))
            }
            (409, "outcome-unknown") => {
                if op.rule.retries {
                    return Some((Law::Unknown, "was refused although its rule retries"));
                }
                if self.someone_in_doubt(op).is_none() {
                    return Some((Law::Unknown, "met an unknown outcome that nothing explains"));
                }
                self.same_payload(op)
                    .or_else(|| self.after_stored(op, None))
            }
            (409, "not-replayable") => {
                let done = self.executions.iter().any(|(other, execution)| {
                    other.asks_as(op)
                        && execution.class == Class::Completed
                        && !execution.kept
                        && execution.started.at <= op.returned
                });
                (!done).then_some((Law::NoContradiction, "what was done can be replayed"))
            }
            // A reset, or a timeout.
            (502 | 504, "outcome-unknown") => {
                if doubt(self.index, op).is_none() {
                    return Some((Law::Unknown, "has an unknown outcome that nothing explains"));
                }
                self.same_payload(op)
                    .or_else(|| self.after_stored(op, None))
            }
            (503, "store-unavailable") => {
                if !troubled {
                    return Some((Law::Available, "was refused, and nothing explains it"));
                }
                (!answer.retry_after).then_some((Law::Available, "was not told when to come again"))
            }
            // The proof of the first gateway was over when the second one could show it.
            (503, "misconfigured") if op.rule.path.starts_with(HOP) && troubled => None,
            (503, "outcome-unrecorded") => {
                if !op.rule.withholds || !troubled {
                    return Some((Law::Available, "its answer was withheld without reason"));
                }
                self.after_stored(op, None)
            }
            _ => Some((Law::Available, "got a problem that has no place here")),
        }
    }

    fn mismatch(&self, op: &Op) -> Complaint {
        // One that did nothing may have been followed by a corrected request, whose key it is then.
        let same = self.executions.iter().any(|(other, execution)| {
            other.asks_as(op) && !execution.did_nothing() && execution.started.at < op.invoke.at
        });
        if same || redirected(self.index, self.key, op) {
            return Some((
                Law::Mismatch,
                "is told of another payload, and it is the same",
            ));
        }
        let other = self.key.ops.iter().any(|other| {
            !other.asks_as(op) && other.invoke.at <= op.returned && may_have_held(self.index, other)
        });
        (!other).then_some((Law::Mismatch, "is told of another payload that never was"))
    }

    /// Another payload must have met a 422 once the first one was executing.
    fn same_payload(&self, op: &Op) -> Complaint {
        let other = self.executions.iter().any(|(other, execution)| {
            !other.asks_as(op) && execution.started.at < op.invoke.at && !execution.did_nothing()
        });
        other.then_some((Law::Mismatch, "has another payload, and is not told so"))
    }

    /// Once an answer is stored, nothing but its replay is right.
    fn after_stored(&self, op: &Op, id: Option<&str>) -> Complaint {
        let stored = self.stored.as_ref()?;
        if op.invoke.at <= stored.since || id == Some(stored.execution.started.id.as_str()) {
            return None;
        }
        Some((
            Law::NoContradiction,
            "is told otherwise than what is stored",
        ))
    }

    /// An operation that another one's unknown outcome can come from.
    fn someone_in_doubt(&self, op: &Op) -> Option<super::doubt::Doubt> {
        let others = self.key.ops.iter().filter(|other| {
            other.invoke.op != op.invoke.op && other.invoke.at <= op.returned && other.asks_as(op)
        });
        others
            .into_iter()
            .find_map(|other| doubt(self.index, other))
    }
}
