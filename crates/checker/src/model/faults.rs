//! When something was wrong, and for whom.

use super::index::Op;
use crate::clock::Micros;
use crate::history::{FaultKind, Run, Stall, Target};
use crate::workload::HOP;

/// A time in which something was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub from: Micros,
    pub to: Micros,
    pub cause: Cause,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    Fault(Target, FaultKind),
    /// Of one part, or of everything.
    Stall(Option<Target>),
}

impl Span {
    /// Until when it may be felt.
    fn felt_until(&self) -> Micros {
        let felt = match self.cause {
            Cause::Fault(..) => super::AFTERMATH,
            Cause::Stall(_) => super::AFTER_STALL,
        };
        self.to.saturating_add(felt)
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Faults {
    /// In order of their beginning.
    spans: Vec<Span>,
    /// Until when the spans up to each one are felt.
    felt: Vec<Micros>,
    services: usize,
}

impl Faults {
    /// In any order; stalls that are felt together become one.
    pub fn new(run: &Run, faults: Vec<Span>, stalls: &[&Stall]) -> Self {
        let mut stalls = stalls.to_vec();
        stalls.sort_by_key(|stall| (stall.part, stall.from));
        let mut spans: Vec<Span> = Vec::new();
        for Stall { from, to, part } in stalls {
            let cause = Cause::Stall(*part);
            let last = spans.last_mut();
            match last.filter(|last| last.cause == cause && last.felt_until() >= *from) {
                Some(last) => last.to = last.to.max(*to),
                None => spans.push(Span {
                    from: *from,
                    to: *to,
                    cause,
                }),
            }
        }
        spans.extend(faults);
        spans.sort_by_key(|span| span.from);
        let mut until = 0;
        let felt = spans.iter().map(|span| {
            until = span.felt_until().max(until);
            until
        });
        Self {
            felt: felt.collect(),
            spans,
            services: run.services.max(1),
        }
    }

    /// Whether this operation can notice it.
    fn concerns(&self, span: &Span, op: &Op) -> bool {
        let gateway = op.invoke.gateway;
        // The second gateway of some paths has a service of its own: the first one.
        let second = op.rule.path.starts_with(HOP).then_some(0);
        match span.cause {
            Cause::Stall(None) => true,
            Cause::Fault(target, _) | Cause::Stall(Some(target)) => match target {
                Target::Store | Target::Upstream | Target::Keys => true,
                Target::Gateway(number)
                | Target::ClientLink(number)
                | Target::ServiceLink(number)
                | Target::UpstreamLink(number) => number == gateway,
                Target::Service(number) | Target::StoreLink(number) => {
                    number == gateway % self.services || Some(number) == second
                }
            },
        }
    }

    /// What was wrong, or had just been, at that time on the way of this operation.
    pub fn hits<'a>(
        &'a self,
        op: &'a Op,
        from: Micros,
        to: Micros,
    ) -> impl Iterator<Item = &'a Span> + 'a {
        let first = self.felt.partition_point(|until| *until < from);
        let last = self.spans.partition_point(|span| span.from <= to);
        let spans = self.spans.get(first..last).unwrap_or_default();
        spans
            .iter()
            .filter(move |span| span.felt_until() >= from && self.concerns(span, op))
    }

    pub fn hit(&self, op: &Op, from: Micros, to: Micros) -> bool {
        self.hits(op, from, to).next().is_some()
    }

    /// Whether an encryption key was lost at that time, or had just been.
    pub fn keyless(&self, from: Micros, to: Micros) -> bool {
        let lost = Cause::Fault(Target::Keys, FaultKind::Lose);
        let mut spans = self.spans.iter().filter(|span| span.cause == lost);
        spans.any(|span| span.from <= to && span.felt_until() >= from)
    }

    /// Whether this gateway was killed after that moment.
    pub fn killed_after(&self, gateway: usize, from: Micros) -> bool {
        let kill = Cause::Fault(Target::Gateway(gateway), FaultKind::Kill);
        self.spans
            .iter()
            .any(|span| span.cause == kill && span.to >= from)
    }

    /// When the upstream was killed first, from that moment on.
    pub fn upstream_killed(&self, from: Micros) -> Option<Micros> {
        let kill = Cause::Fault(Target::Upstream, FaultKind::Kill);
        let kills = self.spans.iter().filter(|span| span.cause == kill);
        kills
            .filter(|span| span.to >= from)
            .map(|span| span.from)
            .next()
    }

    /// What was done to what.
    pub fn injected(&self) -> impl Iterator<Item = (Target, FaultKind)> + '_ {
        self.spans.iter().filter_map(|span| match span.cause {
            Cause::Fault(target, kind) => Some((target, kind)),
            Cause::Stall(_) => None,
        })
    }

    /// How many stalls, and how many milliseconds in all.
    pub fn stalls(&self) -> (usize, u64) {
        let stalls = self
            .spans
            .iter()
            .filter(|span| matches!(span.cause, Cause::Stall(_)));
        stalls.fold((0, 0), |(count, ms), span| {
            (count + 1, ms + (span.to - span.from) / 1_000)
        })
    }
}
