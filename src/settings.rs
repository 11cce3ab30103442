//! A configuration that fits the host, shared by all streams of a root.

use crate::profile::Profile;
use idempotency_core::config::{Plan, Service};
use idempotency_core::settings::{self, Capabilities};
use std::sync::Arc;

/// What a root is configured with.
#[derive(Debug)]
pub struct Settings {
    /// The host.
    pub profile: Profile,
    /// What is protected, and how.
    pub core: Arc<settings::Settings>,
    /// Where the idempotency service is.
    pub service: Service,
    /// Cluster that leads into the internal listener; `None`: nothing is executed detached.
    pub detached_cluster: Option<String>,
    /// Kong: bodies may be read after the decision about the headers.
    pub late_bodies: bool,
    /// Kong: how long the root's only callout may be out. At most a quarter of the shortest lease:
    /// leases are renewed from half of their time on, and a call that hangs must leave time for
    /// the renewal after it.
    pub lane_timeout_ms: u64,
}

impl Settings {
    /// Takes a configuration.
    pub fn new(plan: Plan, profile: Profile) -> Settings {
        let leases = plan.policies.rules.iter().map(|rule| rule.policy.lease_ms);
        let quarter = leases.min().map_or(u64::MAX, |lease_ms| lease_ms / 4);
        let lane_timeout_ms = plan.service.timeout_ms.min(quarter).max(1);
        let capabilities = Capabilities {
            removes_fields: profile == Profile::Envoy,
        };
        Settings {
            profile,
            core: Arc::new(settings::Settings::new(plan.policies, capabilities)),
            service: plan.service,
            detached_cluster: plan.detached_cluster,
            late_bodies: plan.kong_late_bodies,
            lane_timeout_ms,
        }
    }
}
