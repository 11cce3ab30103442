//! What belongs to the VM and not to a stream: the configuration, running leases, the outbox,
//! detached executions.

use super::callouts::Job;
use super::lane::Lane;
use super::metrics::Metrics;
use crate::batch::Batches;
use crate::call::Writer;
use crate::execution::Execution;
use crate::host::{Host, Level};
use crate::ids::IdMap;
use crate::lease::Leases;
use crate::note::Limits;
use crate::outbox::Outbox;
use crate::profile::Profile;
use crate::settings::Settings;
use crate::stats::{OUTBOX_SIZE, QUEUE_SIZE};
use idempotency_core::config::{self, BatchLimits};
use idempotency_protocol::dialect::Dialect;
use std::sync::Arc;

/// A root context.
#[derive(Debug, Default)]
pub(super) struct Root {
    pub settings: Option<Arc<Settings>>,
    /// Writes the calls to the service.
    pub writer: Writer,
    pub leases: Leases,
    pub outbox: Outbox,
    pub lane: Lane,
    pub batches: Batches<Job>,
    /// The queue by which the host is asked for a callback.
    pub queue: Option<u32>,
    pub executions: IdMap<u32, Box<Execution>>,
    pub next_execution: u32,
    pub metrics: Metrics,
    /// What was told of late.
    pub told_of: Limits,
    /// How the service is spoken to.
    pub dialect: Dialect,
    /// What this VM has told of what waits: in the outbox, and for a callout.
    told: [i64; 2],
    /// The period of its tick is set.
    pub ticking: bool,
    /// The host has taken it.
    pub ticks: bool,
    /// The host waits for this root to become idle.
    pub leaving: bool,
}

impl Root {
    /// Takes a configuration. A rejected one leaves the filter without settings, which refuses
    /// everything that could be protected.
    pub fn configure<H: Host>(&mut self, host: &H, profile: Profile, text: &[u8]) {
        self.metrics.define(host, profile);
        let fitted =
            config::parse_bytes(text).and_then(|plan| config::fit(plan, profile.gateway()));
        let fitted = fitted.and_then(|plan| plan.take_secrets(|name| host.environment(name)));
        match fitted {
            Ok(plan) => {
                let rules = plan.policies.rules.len();
                self.metrics.define_rules(host, &plan.policies.rules);
                self.batches.limit(match profile {
                    Profile::Envoy => plan.service.batch,
                    // There, a callout belongs to the stream that it was sent from.
                    Profile::Kong => BatchLimits::ALONE,
                });
                self.lane.configure(profile, &plan.service.target);
                self.writer = Writer::new(&plan.service, profile);
                self.settings = Some(Arc::new(Settings::new(plan, profile)));
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
                // No host says in its log line which filter chain it is.
                let whose = match config::label(text) {
                    label if label.is_empty() => label,
                    label => format!(" ({label})"),
                };
                for error in errors {
                    let line = format!("idempotency: configuration rejected{whose}: {error}");
                    host.log(Level::Error, &line);
                }
            }
        }
    }

    /// Whether the clock is looked at often, so that the last look is as good as another one where a time that is
    /// a little too early does no harm. In Kong, to look is cheap and ticks end early.
    pub fn ticks(&self) -> bool {
        self.ticks && !self.leaving
    }

    /// The configuration; `None`: rejected.
    pub fn settings(&self) -> Option<Arc<Settings>> {
        self.settings.clone()
    }

    /// Brings the gauges of what waits up to date, down to zero too. In Envoy all workers share
    /// them, so each adds its own change; in Kong each worker has its own, and adding would trap.
    pub fn tell_lengths<H: Host>(&mut self, host: &H, profile: Profile) {
        let lengths = [
            (OUTBOX_SIZE, self.outbox.len()),
            (QUEUE_SIZE, self.batches.len() + self.lane.len()),
        ];
        for ((name, waiting), told) in lengths.into_iter().zip(&mut self.told) {
            let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
            let change = waiting.saturating_sub(*told);
            if change == 0 {
                continue;
            }
            match profile {
                Profile::Envoy => self.metrics.add(host, name, change),
                Profile::Kong => {
                    let waiting = waiting.unsigned_abs();
                    self.metrics.record(host, name, waiting);
                }
            }
            *told = waiting;
        }
    }

    /// Whether a tick has anything to look at.
    pub fn is_idle(&self) -> bool {
        self.leases.is_empty()
            && self.outbox.is_empty()
            && self.batches.is_empty()
            && self.executions.is_empty()
            && self.lane.is_idle()
    }
}
