//! What belongs to the VM and not to a stream: the configuration, running leases, the outbox,
//! detached executions.

use super::metrics::Metrics;
use crate::config;
use crate::execution::Execution;
use crate::host::{Host, Level, MetricKind};
use crate::lease::Leases;
use crate::outbox::Outbox;
use crate::request::Settings;
use crate::stats::OUTBOX_SIZE;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A root context.
#[derive(Debug, Default)]
pub(super) struct Root {
    settings: Option<Rc<Settings>>,
    pub leases: Leases,
    pub outbox: Outbox,
    pub executions: BTreeMap<u32, Execution>,
    pub next_execution: u32,
    pub metrics: Metrics,
    /// What this VM has added to the gauge of the outbox.
    outbox_told: i64,
    /// The host waits for this root to become idle.
    pub leaving: bool,
}

impl Root {
    /// Takes a configuration. A rejected one leaves the filter without settings, which refuses
    /// everything that could be protected.
    pub fn configure<H: Host>(&mut self, host: &H, text: &[u8]) {
        match config::parse_bytes(text) {
            Ok(plan) => {
                let rules = plan.rules.len();
                self.settings = Some(Rc::new(Settings::new(plan)));
                host.log(
                    Level::Info,
                    &format!("idempotency: configured, {rules} rules"),
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

    /// Brings the gauge of the outbox up to date, down to zero too. All workers share it, so each
    /// adds its own change.
    pub fn tell_outbox<H: Host>(&mut self, host: &H) {
        let waiting = i64::try_from(self.outbox.len()).unwrap_or(i64::MAX);
        let change = waiting.saturating_sub(self.outbox_told);
        if change != 0 {
            self.metrics
                .add(host, MetricKind::Gauge, OUTBOX_SIZE, change);
            self.outbox_told = waiting;
        }
    }

    /// Whether a tick has anything to look at.
    pub fn is_idle(&self) -> bool {
        self.leases.is_empty() && self.outbox.is_empty() && self.executions.is_empty()
    }
}
