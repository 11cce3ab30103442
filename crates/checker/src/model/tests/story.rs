//! A history that a test writes, step by step, and what the tests need to write one.

use crate::clock::MS;
use crate::history::{FaultBegins, Invoke, Return, Run, Stall, Started, OP_HEADER, TENANT_HEADER};

pub(super) use crate::clock::SECOND;
pub(super) use crate::history::{Answer, End, Event, FaultKind, Record, Target};
pub(super) use crate::model::{check, Law};
pub(super) use crate::workload::{Behaviour, Reset, Rules};

/// Index of the rule with this path.
pub(super) fn rule(path: &str) -> usize {
    let rules = Rules::with_lease(5_000).rules;
    rules.iter().position(|rule| rule.path == path).unwrap()
}

/// A history under construction. Times are milliseconds; operations are numbered from 1, and each
/// is on the key `k` of the tenant `t` unless it says otherwise.
pub(super) struct Story {
    pub(super) events: Vec<Event>,
    pub(super) rule: usize,
    pub(super) payload: &'static str,
    pub(super) moved: bool,
    pub(super) tenant: &'static str,
    pub(super) behaviour: Behaviour,
    pub(super) gateway: usize,
    pub(super) tombstone: bool,
}

pub(super) fn story(path: &str) -> Story {
    let rules = Rules::with_lease(5_000);
    let run = Run {
        seed: 1,
        store: "redis".into(),
        gateways: 2,
        services: 2,
        lease_ms: rules.lease_ms,
        rules: rules.rules,
        at: 0,
    };
    Story {
        events: vec![Event::Run(run)],
        rule: rule(path),
        payload: "p",
        moved: false,
        tenant: "t",
        behaviour: Behaviour::created(),
        gateway: 0,
        tombstone: false,
    }
}

pub(super) fn problem(status: u16, name: &str) -> End {
    End::Answer(Answer {
        status,
        id: None,
        replayed: false,
        problem: Some(name.into()),
        retry_after: matches!(
            name,
            "in-flight" | "store-unavailable" | "outcome-unrecorded"
        ),
        body: "b".into(),
        headers: "h".into(),
    })
}

pub(super) fn answer(id: &str, status: u16, replayed: bool) -> Answer {
    Answer {
        status,
        id: Some(id.into()),
        replayed,
        problem: None,
        retry_after: false,
        body: format!("body of {id}"),
        headers: format!("headers of {id}"),
    }
}

pub(super) fn first(id: &str) -> End {
    End::Answer(answer(id, 201, false))
}

pub(super) fn replay(id: &str) -> End {
    End::Answer(answer(id, 201, true))
}

pub(super) fn of_envoy(status: u16) -> End {
    End::Answer(Answer {
        id: None,
        ..answer("", status, false)
    })
}

impl Story {
    pub(super) fn payload(mut self, payload: &'static str) -> Self {
        self.payload = payload;
        self
    }

    pub(super) fn moved(mut self, moved: bool) -> Self {
        self.moved = moved;
        self
    }

    pub(super) fn tenant(mut self, tenant: &'static str) -> Self {
        self.tenant = tenant;
        self
    }

    pub(super) fn behaves(mut self, behaviour: Behaviour) -> Self {
        self.behaviour = behaviour;
        self
    }

    pub(super) fn status(self, status: u16) -> Self {
        self.behaves(Behaviour::answering(status))
    }

    /// A client asks from then until then.
    pub(super) fn op(mut self, op: u64, from: u64, to: u64, end: End) -> Self {
        self.events.push(Event::Invoke(Invoke {
            op,
            at: from * MS,
            gateway: self.gateway,
            rule: self.rule,
            tenant: self.tenant.into(),
            key: "k".into(),
            payload: self.payload.into(),
            moved: self.moved,
            behaviour: self.behaviour.clone(),
            leaves_after: None,
        }));
        self.events.push(Event::Return(Return {
            op,
            at: to * MS,
            end,
        }));
        self
    }

    /// The upstream executes that operation's request from then until then.
    pub(super) fn runs(
        self,
        id: &str,
        op: u64,
        from: u64,
        to: u64,
        fence: u64,
        attempt: u64,
    ) -> Self {
        let mut story = self.begins(id, op, from, fence, attempt);
        story.events.push(Event::Finished {
            id: id.into(),
            at: to * MS,
        });
        story
    }

    /// The same without an end.
    pub(super) fn begins(mut self, id: &str, op: u64, from: u64, fence: u64, attempt: u64) -> Self {
        self.events.push(Event::Started(Started {
            id: id.into(),
            at: from * MS,
            path: Rules::with_lease(5_000).rules[self.rule].target(self.moved),
            key: match Rules::with_lease(5_000).rules[self.rule].hooks {
                true => "\"k\"".into(),
                false => "k".into(),
            },
            fence: Some(fence.to_string()),
            attempt: Some(attempt.to_string()),
            body_sha256: self.payload.into(),
            headers: [
                (OP_HEADER.to_owned(), op.to_string()),
                (TENANT_HEADER.to_owned(), self.tenant.to_owned()),
            ]
            .into(),
        }));
        self
    }

    pub(super) fn fault(mut self, target: Target, kind: FaultKind, from: u64, to: u64) -> Self {
        let fault = self.events.len() as u64;
        self.events.push(Event::FaultBegins(FaultBegins {
            fault,
            at: from * MS,
            target,
            kind,
        }));
        self.events.push(Event::FaultEnds { fault, at: to * MS });
        self
    }

    pub(super) fn outage(self, from: u64, to: u64) -> Self {
        self.fault(Target::Store, FaultKind::Kill, from, to)
    }

    pub(super) fn stall(mut self, part: Option<Target>, from: u64, to: u64) -> Self {
        self.events.push(Event::Stall(Stall {
            from: from * MS,
            to: to * MS,
            part,
        }));
        self
    }

    /// What broke, when the record was this after 60 s.
    pub(super) fn ends(mut self, state: &str, fence: u64, status: Option<u16>) -> Vec<Law> {
        self.events.push(Event::Record(Record {
            at: 60 * SECOND,
            tenant: self.tenant.into(),
            key: "k".into(),
            state: state.into(),
            fence,
            status,
            tombstone: self.tombstone,
        }));
        self.events.push(Event::Over { at: 70 * SECOND });
        let verdict = check(&self.events);
        let mut laws: Vec<_> = verdict.violations.iter().map(|v| v.law).collect();
        laws.sort_unstable();
        laws.dedup();
        laws
    }

    pub(super) fn completed(self, fence: u64) -> Vec<Law> {
        self.ends("completed", fence, Some(201))
    }

    pub(super) fn unknown(self, fence: u64) -> Vec<Law> {
        self.ends("unknown", fence, None)
    }

    pub(super) fn failed(self, fence: u64) -> Vec<Law> {
        self.ends("failed", fence, None)
    }
}

pub(super) const GOOD: [Law; 0] = [];

/// One execution, answered at 100 ms.
pub(super) fn charged(path: &str) -> Story {
    story(path)
        .op(1, 10, 100, first("a"))
        .runs("a", 1, 20, 90, 7, 1)
}
