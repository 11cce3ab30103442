//! What belongs to the VM and not to a stream: the configuration, running leases, the outbox,
//! detached executions.

use super::metrics::Metrics;
use crate::config;
use crate::execution::Execution;
use crate::host::{Host, Level};
use crate::lease::Leases;
use crate::outbox::Outbox;
use crate::request::Settings;
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

    /// Whether a tick has anything to look at.
    pub fn is_idle(&self) -> bool {
        self.leases.is_empty() && self.outbox.is_empty() && self.executions.is_empty()
    }
}
