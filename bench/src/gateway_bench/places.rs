//! Which part runs on which core.

use idempotency_bench::cores::usable;

/// The cores of each part; `None`: too few cores, or not wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// The load generator's.
    pub load: usize,
    /// Envoy's: as many as it has workers.
    pub envoy: Vec<usize>,
    /// The idempotency service's.
    pub service: usize,
    /// The upstream's, and that of a store's server.
    pub upstream: usize,
}

impl Cores {
    /// One core for the load and one for each worker; one for the service and one for what is
    /// behind, or one for both if there are no more.
    pub fn choose(workers: u16) -> Option<Self> {
        let usable = usable();
        let (load, rest) = usable.split_first()?;
        let (envoy, behind) = rest.split_at_checked(usize::from(workers))?;
        let service = *behind.first()?;
        Some(Self {
            load: *load,
            envoy: envoy.to_vec(),
            service,
            upstream: behind.get(1).copied().unwrap_or(service),
        })
    }

    /// In words.
    pub fn describe(cores: Option<&Self>) -> String {
        cores.map_or_else(
            || "not pinned: all parts share all cores".to_owned(),
            |c| {
                format!(
                    "load generator on core {}, Envoy on {:?}, service on {}, upstream and the \
                     store's server on {}",
                    c.load, c.envoy, c.service, c.upstream
                )
            },
        )
    }
}
