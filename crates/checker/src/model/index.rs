//! The events by key, operation and execution.

use std::collections::{BTreeMap, HashMap};

use super::faults::{Cause, Faults, Span};
use super::{Law, Verdict, Violation};
use crate::clock::Micros;
use crate::history::{Answer, End, Event, Invoke, OpId, Record, Return, Run, Started, OP_HEADER};
use crate::workload::{Class, Rule};

/// An operation with everything that came of it.
#[derive(Debug)]
pub(super) struct Op<'a> {
    pub invoke: &'a Invoke,
    pub end: &'a End,
    /// When it was over for its client.
    pub returned: Micros,
    pub rule: &'a Rule,
    /// Its execution.
    pub execution: Option<Execution<'a>>,
}

/// An execution by the upstream.
#[derive(Debug, Clone)]
pub(super) struct Execution<'a> {
    pub started: &'a Started,
    /// It ran to its end; else the upstream died.
    pub finished: bool,
    /// When it ended, in whichever way.
    pub over: Micros,
    pub fence: u64,
    pub attempt: u64,
    pub class: Class,
    pub status: u16,
    /// Its answer can be replayed.
    pub kept: bool,
}

/// Everything about one key of one tenant.
#[derive(Debug, Default)]
pub(super) struct Key<'a> {
    pub tenant: &'a str,
    pub key: &'a str,
    /// In order of their beginning.
    pub ops: Vec<Op<'a>>,
    pub record: Option<&'a Record>,
}

#[derive(Debug)]
pub(super) struct Index<'a> {
    pub run: &'a Run,
    pub faults: Faults,
    pub keys: BTreeMap<(&'a str, &'a str), Key<'a>>,
    /// Where executions are, by their names: key, position among its operations.
    pub by_id: HashMap<&'a str, ((&'a str, &'a str), usize)>,
}

impl Execution<'_> {
    /// The upstream refused it, or sent the client elsewhere, and the rule lets it be retried: nothing was
    /// done, so a corrected request may follow under the same key.
    pub fn did_nothing(&self) -> bool {
        self.finished && self.class == Class::Failed && matches!(self.status, 307 | 308 | 400..=499)
    }

    /// It sent the client elsewhere, which is said again to whoever asks the same, in every state.
    pub fn is_redirect(&self) -> bool {
        self.finished && matches!(self.status, 307 | 308)
    }
}

impl Op<'_> {
    /// Whether the two ask for the same, as far as their rule compares it.
    pub fn asks_as(&self, other: &Op) -> bool {
        let (one, other) = (self.invoke, other.invoke);
        one.moved == other.moved && (self.rule.hooks || one.payload == other.payload)
    }

    pub fn answer(&self) -> Option<&Answer> {
        match self.end {
            End::Answer(answer) => Some(answer),
            _ => None,
        }
    }

    /// When it and its execution were over, as far as the history tells.
    pub fn over(&self) -> Micros {
        let executed = self
            .execution
            .as_ref()
            .map_or(0, |execution| execution.over);
        executed.max(self.returned)
    }
}

impl Key<'_> {
    /// Its executions with their operations, in order of their fences.
    pub fn executions(&self) -> Vec<(&Op<'_>, &Execution<'_>)> {
        let pairs = self
            .ops
            .iter()
            .filter_map(|op| Some((op, op.execution.as_ref()?)));
        let mut all: Vec<_> = pairs.collect();
        all.sort_by_key(|(_, execution)| (execution.fence, execution.started.at));
        all
    }

    pub fn violation(&self, law: Law, what: String) -> Violation {
        Violation {
            law,
            tenant: self.tenant.to_owned(),
            key: self.key.to_owned(),
            what,
        }
    }
}

fn broken(what: String) -> Violation {
    Violation {
        law: Law::History,
        tenant: String::new(),
        key: String::new(),
        what,
    }
}

impl<'a> Index<'a> {
    /// Sorts the events. `None`, and a violation, without the first of them.
    pub fn new(events: &'a [Event], violations: &mut Vec<Violation>) -> Option<Self> {
        let run = events.iter().find_map(|event| match event {
            Event::Run(run) => Some(run),
            _ => None,
        });
        let Some(run) = run else {
            violations.push(broken("there is no description of the run".to_owned()));
            return None;
        };
        let over = events.iter().find_map(|event| match event {
            Event::Over { at } => Some(*at),
            _ => None,
        });
        if over.is_none() {
            violations.push(broken("the run did not come to its end".to_owned()));
        }
        let over = over.unwrap_or(Micros::MAX / 2);
        let mut index = Self {
            run,
            faults: faults(run, events, over),
            keys: BTreeMap::new(),
            by_id: HashMap::new(),
        };
        index.operations(events, over, violations);
        index.executions(events, violations);
        index.records(events, violations);
        Some(index)
    }

    fn operations(&mut self, events: &'a [Event], over: Micros, violations: &mut Vec<Violation>) {
        let returns: HashMap<OpId, &Return> = events
            .iter()
            .filter_map(|event| match event {
                Event::Return(end) => Some((end.op, end)),
                _ => None,
            })
            .collect();
        for event in events {
            let Event::Invoke(invoke) = event else {
                continue;
            };
            let Some(rule) = self.run.rules.get(invoke.rule) else {
                violations.push(broken(format!("there is no rule {}", invoke.rule)));
                continue;
            };
            let end = returns.get(&invoke.op);
            let key = self
                .keys
                .entry((&invoke.tenant, &invoke.key))
                .or_insert_with(|| Key {
                    tenant: &invoke.tenant,
                    key: &invoke.key,
                    ..Key::default()
                });
            key.ops.push(Op {
                invoke,
                // Without a return the client died with the run: as if it had left.
                end: end.map_or(&End::Left, |end| &end.end),
                returned: end.map_or(over, |end| end.at),
                rule,
                execution: None,
            });
        }
        for key in self.keys.values_mut() {
            key.ops.sort_by_key(|op| op.invoke.at);
        }
    }

    fn executions(&mut self, events: &'a [Event], violations: &mut Vec<Violation>) {
        let mut ops = HashMap::new();
        for (name, key) in &self.keys {
            for (position, op) in key.ops.iter().enumerate() {
                ops.insert(op.invoke.op, (*name, position));
            }
        }
        let finished: HashMap<&str, Micros> = events
            .iter()
            .filter_map(|event| match event {
                Event::Finished { id, at } => Some((id.as_str(), *at)),
                _ => None,
            })
            .collect();
        for event in events {
            let Event::Started(started) = event else {
                continue;
            };
            let op = started.headers.get(OP_HEADER);
            let place = op.and_then(|op| ops.get(&op.parse().ok()?));
            let Some((name, position)) = place.copied() else {
                violations.push(broken(format!(
                    "an execution belongs to no operation: {started:?}"
                )));
                continue;
            };
            let Some(key) = self.keys.get_mut(&name) else {
                continue;
            };
            let named = started.fence.as_ref().zip(started.attempt.as_ref());
            let numbers = named.and_then(|(f, a)| Some((f.parse().ok()?, a.parse().ok()?)));
            let Some((fence, attempt)) = numbers else {
                let what = format!("an execution has no fence or attempt: {started:?}");
                violations.push(key.violation(Law::Fences, what));
                continue;
            };
            let Some(op) = key.ops.get_mut(position) else {
                continue;
            };
            let end = finished.get(started.id.as_str()).copied();
            let died = || self.faults.upstream_killed(started.at);
            let execution = Execution {
                started,
                finished: end.is_some(),
                over: end.or_else(died).unwrap_or(0).max(started.at),
                fence,
                attempt,
                class: op.invoke.behaviour.class(),
                status: op.invoke.behaviour.status,
                kept: op.invoke.behaviour.is_kept(),
            };
            if let Some(other) = &op.execution {
                let what = format!(
                    "the gateway executed one request twice: operation {}, {} and {}",
                    op.invoke.op, other.started.id, started.id
                );
                violations.push(key.violation(Law::AtMostOnce, what));
                continue;
            }
            op.execution = Some(execution);
            self.by_id.insert(&started.id, (name, position));
        }
    }

    fn records(&mut self, events: &'a [Event], violations: &mut Vec<Violation>) {
        for event in events {
            let Event::Record(record) = event else {
                continue;
            };
            match self
                .keys
                .get_mut(&(record.tenant.as_str(), record.key.as_str()))
            {
                Some(key) => key.record = Some(record),
                None => violations.push(Violation {
                    law: Law::FinalState,
                    tenant: record.tenant.clone(),
                    key: record.key.clone(),
                    what: "there is a record of a key that nobody used".to_owned(),
                }),
            }
        }
        for key in self.keys.values().filter(|key| key.record.is_none()) {
            let what = "nobody asked for the record".to_owned();
            violations.push(key.violation(Law::History, what));
        }
    }

    /// The operation that an execution belongs to.
    pub fn executed(&self, id: &str) -> Option<(&Key<'a>, &Op<'a>)> {
        let (name, position) = self.by_id.get(id)?;
        let key = self.keys.get(name)?;
        Some((key, key.ops.get(*position)?))
    }

    /// Whether something was wrong for this operation, from its beginning to its end.
    pub fn troubled(&self, op: &Op) -> bool {
        self.faults.hit(op, op.invoke.at, op.returned)
    }

    /// Whether an encryption key was lost while the operation was on its way.
    pub fn keyless(&self, op: &Op) -> bool {
        self.faults.keyless(op.invoke.at, op.returned)
    }

    /// What the report tells.
    pub fn count(&self, verdict: &mut Verdict) {
        verdict.stalls = self.faults.stalls();
        for key in self.keys.values() {
            let executions = key.ops.iter().filter(|op| op.execution.is_some()).count();
            verdict.executions += executions;
            verdict.repeated += executions.saturating_sub(1);
            for op in &key.ops {
                *verdict.operations.entry(name(op.end)).or_default() += 1;
                verdict.calm += usize::from(!self.troubled(op));
            }
            if let Some(record) = key.record {
                *verdict.keys.entry(record.state.clone()).or_default() += 1;
            }
        }
        for (target, kind) in self.faults.injected() {
            let part = format!("{target:?}");
            let part = part.split('(').next().unwrap_or_default().to_lowercase();
            let name = format!("{} {part}", format!("{kind:?}").to_lowercase());
            *verdict.faults.entry(name).or_default() += 1;
        }
    }
}

/// How an operation ended, in a word or two.
fn name(end: &End) -> String {
    match end {
        End::Answer(answer) => match (&answer.problem, &answer.id, answer.replayed) {
            (Some(problem), _, _) => format!("{} {problem}", answer.status),
            (None, _, true) => format!("replay {}xx", answer.status / 100),
            (None, Some(_), false) => format!("first {}xx", answer.status / 100),
            (None, None, false) => format!("{} by Envoy", answer.status),
        },
        End::Cut { .. } => "cut".to_owned(),
        End::Refused { .. } => "refused".to_owned(),
        End::Left => "left".to_owned(),
        End::Hung => "hung".to_owned(),
    }
}

fn faults(run: &Run, events: &[Event], over: Micros) -> Faults {
    let ends: HashMap<u64, Micros> = events
        .iter()
        .filter_map(|event| match event {
            Event::FaultEnds { fault, at } => Some((*fault, *at)),
            _ => None,
        })
        .collect();
    let faults = events.iter().filter_map(|event| match event {
        Event::FaultBegins(begin) => Some(Span {
            from: begin.at,
            to: ends.get(&begin.fault).copied().unwrap_or(over),
            cause: Cause::Fault(begin.target, begin.kind),
        }),
        _ => None,
    });
    let stalls: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Stall(stall) => Some(stall),
            _ => None,
        })
        .collect();
    Faults::new(run, faults.collect(), &stalls)
}
