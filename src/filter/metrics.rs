//! Counters, gauges and histograms of the host.

use crate::host::{Host, MetricKind};
use crate::profile::Profile;
use crate::stats::{rule_label, Counter, Fate, MAX_RULES, OTHERS, OTHER_RULES};
use idempotency_core::config::Rule;
use std::cell::Cell;
use std::sync::Arc;

/// How many callouts are measured between two ticks: each costs four hostcalls (two looks at the clock, two
/// values), and a distribution needs no more than so many values in 50 ms.
const MEASURED: u32 = 8;

/// A counter of the host, and what is still to be added to it.
#[derive(Debug, Default)]
struct Sum {
    id: u32,
    pending: Cell<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Metrics {
    counters: Vec<(Counter, Sum)>,
    others: Vec<(&'static str, u32)>,
    /// The counters of each rule of the configuration, by [`Fate`].
    rules: Vec<(Arc<Rule>, Vec<Sum>)>,
    /// Counters are added up here, and told at the tick.
    gathers: bool,
    /// Something has been added up.
    gathered: Cell<bool>,
    /// How many callouts are still to be measured before the next tick.
    measured: u32,
}

impl Sum {
    fn of(id: u32) -> Sum {
        let pending = Cell::new(0);
        Sum { id, pending }
    }
}

impl Metrics {
    /// Defines all of them, before the first request. Not when they are first used, and no histogram
    /// in Kong: ngx_wasm_module takes a lock to define a metric and when a histogram grows, Kong's
    /// Prometheus plugin sleeps while it holds that lock, and a worker that meets it in a request
    /// stands still for ever (measured, `docs/kong-facts.md`).
    ///
    /// A host without metrics loses what is counted, nothing else.
    pub fn define<H: Host>(&mut self, host: &H, profile: Profile) {
        if !self.counters.is_empty() {
            return;
        }
        // In Kong a worker ends without another tick, and `kong/reload.sh` waits by these numbers.
        self.gathers = profile == Profile::Envoy;
        for counter in Counter::all() {
            if let Ok(id) = host.define_metric(MetricKind::Counter, &counter.name()) {
                self.counters.push((counter, Sum::of(id)));
            }
        }
        for (kind, name) in OTHERS {
            if profile == Profile::Kong && kind == MetricKind::Histogram {
                continue;
            }
            if let Ok(id) = host.define_metric(kind, name) {
                self.others.push((name, id));
            }
        }
    }

    /// Defines those of the rules. A name that is there already is the same metric to the host.
    pub fn define_rules<H: Host>(&mut self, host: &H, rules: &[Arc<Rule>]) {
        self.flush(host);
        self.rules.clear();
        for (place, rule) in rules.iter().enumerate() {
            let label = match place < MAX_RULES {
                true => rule_label(&rule.name),
                false => OTHER_RULES.to_owned(),
            };
            let define = |fate: Fate| {
                let id = host.define_metric(MetricKind::Counter, &fate.counter(&label));
                id.map(Sum::of)
            };
            // All or none: they are found by their places.
            let ids: Result<_, _> = Fate::ALL.into_iter().map(define).collect();
            self.rules
                .extend(ids.ok().map(|ids| (Arc::clone(rule), ids)));
        }
    }

    pub fn count<H: Host>(&self, host: &H, counter: Counter) {
        if let Some((_, sum)) = self.counters.iter().find(|(c, _)| *c == counter) {
            self.add_one(host, sum);
        }
    }

    /// Counts what became of a request of this rule, if that is what the counter says.
    pub fn count_rule<H: Host>(&self, host: &H, counter: Counter, rule: &Arc<Rule>) {
        let Some(fate) = Fate::of(counter) else {
            return;
        };
        let known = self
            .rules
            .iter()
            .find(|(known, _)| Arc::ptr_eq(known, rule));
        if let Some(sum) = known.and_then(|(_, sums)| sums.get(fate as usize)) {
            self.add_one(host, sum);
        }
    }

    fn add_one<H: Host>(&self, host: &H, sum: &Sum) {
        if self.gathers {
            sum.pending.set(sum.pending.get().saturating_add(1));
            self.gathered.set(true);
        } else {
            let _ = host.increment_metric(sum.id, 1);
        }
    }

    /// Tells the host what has been counted since the last tick, and has callouts measured again.
    pub fn tick<H: Host>(&mut self, host: &H) {
        self.flush(host);
        self.measured = MEASURED;
    }

    /// Tells the host what has been counted: at the tick, and before the root goes.
    pub fn flush<H: Host>(&self, host: &H) {
        if !self.gathered.replace(false) {
            return;
        }
        let all = self.counters.iter().map(|(_, sum)| sum);
        for sum in all.chain(self.rules.iter().flat_map(|(_, sums)| sums)) {
            let pending = sum.pending.take();
            if pending > 0 {
                let _ = host.increment_metric(sum.id, i64::from(pending));
            }
        }
    }

    /// Whether the callout that leaves now is to be measured.
    pub fn is_measured(&mut self) -> bool {
        let measured = self.measured > 0 && self.gathers;
        self.measured = self.measured.saturating_sub(1);
        measured
    }

    /// Sets a gauge or adds a value to a histogram.
    pub fn record<H: Host>(&self, host: &H, name: &str, value: u64) {
        if let Some(id) = self.other(name) {
            let _ = host.record_metric(id, value);
        }
    }

    /// Adds to a gauge.
    pub fn add<H: Host>(&self, host: &H, name: &str, change: i64) {
        if let Some(id) = self.other(name) {
            let _ = host.increment_metric(id, change);
        }
    }

    fn other(&self, name: &str) -> Option<u32> {
        let (_, id) = self.others.iter().find(|(n, _)| *n == name)?;
        Some(*id)
    }
}
