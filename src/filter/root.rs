//! What belongs to the VM and not to a stream: the configuration, running leases, the outbox,
//! detached executions.

use super::metrics::Metrics;
use crate::call::Call;
use crate::config;
use crate::execution::Execution;
use crate::host::{Host, Level, MetricKind};
use crate::lease::Leases;
use crate::outbox::Outbox;
use crate::profile::Profile;
use crate::request::Settings;
use crate::stats::OUTBOX_SIZE;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// A root context.
#[derive(Debug, Default)]
pub(super) struct Root {
    settings: Option<Rc<Settings>>,
    pub leases: Leases,
    pub outbox: Outbox,
    /// Kong: calls of streams that are only observed; they leave at the next tick, since a call
    /// from the stream itself would hold it.
    pub deferred: VecDeque<(u32, Call)>,
    pub executions: BTreeMap<u32, Execution>,
    pub next_execution: u32,
    pub metrics: Metrics,
    /// What this VM has added to the gauge of the outbox.
    outbox_told: i64,
    /// The period of its tick is set.
    pub ticking: bool,
    /// The host waits for this root to become idle.
    pub leaving: bool,
}

impl Root {
    /// Takes a configuration. A rejected one leaves the filter without settings, which refuses
    /// everything that could be protected.
    pub fn configure<H: Host>(&mut self, host: &H, profile: Profile, text: &[u8]) {
        let fitted = config::parse_bytes(text).and_then(|plan| config::fit(plan, profile));
        match fitted {
            Ok(plan) => {
                let rules = plan.rules.len();
                self.settings = Some(Rc::new(Settings::new(plan, profile)));
                host.log(
                    Level::Info,
                    &format!(
                        "idempotency: configured for {}, {rules} rules",
                        profile.name()
                    ),
                );
            }
            Err(errors) => {
                self.settings = None;
                for error in errors {
                    host.log(
                        Level::Error,
                        &format!("idempotency: configuration rejected: {error}"),
                    );
                }
            }
        }
    }

    /// The configuration; `None`: rejected.
    pub fn settings(&self) -> Option<Rc<Settings>> {
        self.settings.clone()
    }

    /// Brings the gauge of the outbox up to date, down to zero too. In Envoy all workers share it,
    /// so each adds its own change; in Kong each worker has one, and adding would trap.
    pub fn tell_outbox<H: Host>(&mut self, host: &H, profile: Profile) {
        let waiting = i64::try_from(self.outbox.len()).unwrap_or(i64::MAX);
        let change = waiting.saturating_sub(self.outbox_told);
        if change == 0 {
            return;
        }
        let (kind, name) = (MetricKind::Gauge, OUTBOX_SIZE);
        match profile {
            Profile::Envoy => self.metrics.add(host, kind, name, change),
            Profile::Kong => self
                .metrics
                .record(host, kind, name, waiting.unsigned_abs()),
        }
        self.outbox_told = waiting;
    }

    /// Whether a tick has anything to look at.
    pub fn is_idle(&self) -> bool {
        self.leases.is_empty()
            && self.outbox.is_empty()
            && self.executions.is_empty()
            && self.deferred.is_empty()
    }
}
