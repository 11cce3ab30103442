//! When something was wrong, and for whom.

use crate::clock::Micros;
use crate::history::{FaultKind, Run, Stall, Target};

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
    Stall,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Faults {
    spans: Vec<Span>,
    services: usize,
}

impl Faults {
    pub fn new(run: &Run) -> Self {
        Self {
            spans: Vec::new(),
            services: run.services.max(1),
        }
    }

    pub fn fault(&mut self, from: Micros, to: Micros, target: Target, kind: FaultKind) {
        let cause = Cause::Fault(target, kind);
        self.spans.push(Span { from, to, cause });
    }

    pub fn stall(&mut self, stall: &Stall) {
        self.spans.push(Span {
            from: stall.from,
            to: stall.to,
            cause: Cause::Stall,
        });
    }

    /// Whether a request through this gateway can notice it.
    fn concerns(&self, span: &Span, gateway: usize) -> bool {
        match span.cause {
            Cause::Stall => true,
            Cause::Fault(target, _) => match target {
                Target::Store | Target::Upstream => true,
                Target::Gateway(number)
                | Target::ClientLink(number)
                | Target::ServiceLink(number)
                | Target::UpstreamLink(number) => number == gateway,
                Target::Service(number) | Target::StoreLink(number) => {
                    number == gateway % self.services
                }
            },
        }
    }

    /// What was wrong, or had just been, for a request through this gateway at that time.
    pub fn hits(
        &self,
        gateway: usize,
        from: Micros,
        to: Micros,
    ) -> impl Iterator<Item = &Span> + '_ {
        self.spans.iter().filter(move |span| {
            span.from <= to && span.to + super::AFTERMATH >= from && self.concerns(span, gateway)
        })
    }

    pub fn hit(&self, gateway: usize, from: Micros, to: Micros) -> bool {
        self.hits(gateway, from, to).next().is_some()
    }

    /// Whether this gateway was killed after that moment.
    pub fn killed_after(&self, gateway: usize, from: Micros) -> bool {
        let kill = Cause::Fault(Target::Gateway(gateway), FaultKind::Kill);
        self.spans
            .iter()
            .any(|span| span.cause == kill && span.to >= from)
    }

    /// What was done to what.
    pub fn injected(&self) -> impl Iterator<Item = (Target, FaultKind)> + '_ {
        self.spans.iter().filter_map(|span| match span.cause {
            Cause::Fault(target, kind) => Some((target, kind)),
            Cause::Stall => None,
        })
    }

    pub fn stalls(&self) -> (usize, u64) {
        let stalls = self.spans.iter().filter(|span| span.cause == Cause::Stall);
        stalls.fold((0, 0), |(count, ms), span| {
            (count + 1, ms + (span.to - span.from) / 1_000)
        })
    }
}
