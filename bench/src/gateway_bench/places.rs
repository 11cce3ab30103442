//! Which part runs on which core.

use idempotency_bench::cores::usable;

/// The core of each part; `None`: too few cores, or not wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// The load generator's.
    pub load: usize,
    /// Envoy's.
    pub envoy: usize,
    /// The idempotency service's.
    pub service: usize,
    /// The upstream's.
    pub upstream: usize,
}

impl Cores {
    /// One core for each part, where there are four.
    pub fn choose() -> Option<Self> {
        match usable().as_slice() {
            [load, envoy, service, upstream, ..] => Some(Self {
                load: *load,
                envoy: *envoy,
                service: *service,
                upstream: *upstream,
            }),
            _ => None,
        }
    }

    /// In words.
    pub fn describe(cores: Option<Self>) -> String {
        cores.map_or_else(
            || "not pinned: all parts share all cores".to_owned(),
            |c| {
                format!(
                    "pinned: load generator on core {}, Envoy on {}, service on {}, upstream on {}",
                    c.load, c.envoy, c.service, c.upstream
                )
            },
        )
    }
}
